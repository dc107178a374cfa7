"""Windows of consecutive rows of one episode, for learners of sequences.

Decision Transformer (Chen et al. 2021, arXiv:2106.01345) draws from all rows. Online Decision Transformer (Zheng et al.
2022, arXiv:2202.05607) keeps a buffer of whole trajectories, at first the dataset's best: `Sequences(20, buffer=1000)`.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from segue.errors import ConfigError
from segue.replays.episodes import episodes_of, online_episodes
from segue.replays.uniform import uniform_below
from segue.store import Store
from segue.types import Key, Module, Replay, Spec


class Closed(Module):
    """Without a buffer."""

    rows: Int[Array, ""]  # rows ever written that lie in closed episodes


class Buffer(Module):
    """A table of trajectories; `slot` is the next one to be written, free or not."""

    start: Int[Array, " N"]  # a row of the dataset, or of the interaction counted from the first ever written
    length: Int[Array, " N"]  # 0: free
    online: Bool[Array, " N"]
    slot: Int[Array, ""]


@dataclass(frozen=True)
class Sequences(Replay):
    """Windows of `context` rows, cut at their episode's end and padded behind by -1.

    A window's first row is uniform over the rows there are, so an episode is drawn in proportion to its length: all
    closed rows of the union, or with `buffer` those of that many trajectories. These are at first the dataset's with
    the highest returns; a new episode takes a free place, or else that of the worst of them, then that of the next
    worst, and from then on that of the oldest.
    """

    context: int = 20
    buffer: int | None = None  # trajectories

    def __post_init__(self) -> None:
        if self.context < 1 or (self.buffer is not None and self.buffer < 1):
            raise ConfigError("Sequences: context must be at least 1, buffer None or at least 1")

    def init(self, key: Key, spec: Spec, store: Store) -> Closed | Buffer:
        """Raises `DataError` where the dataset's episodes are not known."""
        episodes = episodes_of(store, spec, "Sequences")
        ring = store.ring
        if self.buffer is None:
            age = np.arange(int(ring.written) - int(ring.size), int(ring.written))
            open_rows = np.isneginf(np.asarray(ring.mc_return)[age % ring.capacity]).sum()
            return Closed(ring.written - jnp.int32(open_rows))
        best = np.argsort(episodes.return_, kind="stable")[-self.buffer :]  # the worst of them first
        table = lambda values: jnp.zeros(self.buffer, jnp.int32).at[: len(best)].set(values[best].astype(np.int32))
        slot = jnp.int32(len(best) % self.buffer)
        rstate = Buffer(table(episodes.start), table(episodes.length), jnp.zeros(self.buffer, bool), slot)
        for start, length in online_episodes(store):  # of earlier phases
            rstate = self.close(rstate, start, length)
        return rstate

    def close(self, rstate: Closed | Buffer, start: int, length: int) -> Closed | Buffer:
        if isinstance(rstate, Closed):
            return Closed(jnp.int32(start + length))
        i = rstate.slot
        return Buffer(
            rstate.start.at[i].set(start),
            rstate.length.at[i].set(length),
            rstate.online.at[i].set(True),
            (i + 1) % rstate.start.shape[0],
        )

    def indices(self, rstate: Closed | Buffer, store: Store, key: Key, n: int) -> tuple[Array, Array]:
        draw = _from_rows if isinstance(rstate, Closed) else _from_buffer
        indices = draw(rstate, store, key, n, self.context)  # type: ignore[arg-type]
        return indices, jnp.ones(indices.shape)


def _from_rows(closed: Closed, store: Store, key: Key, n: int, context: int) -> Int[Array, "n K"]:
    ring, offline = store.ring, store.size_offline
    oldest = ring.written - ring.size
    online = jnp.maximum(closed.rows - oldest, 0)  # closed rows that the ring still holds
    first = uniform_below(key, n, offline + online)[:, None]
    row = first + jnp.arange(context)  # dataset first, then the ring from its oldest row on
    inside = row < jnp.where(first < offline, offline, offline + online)
    indices = jnp.where(row < offline, row, offline + (oldest + row - offline) % ring.capacity)
    c = store.layout.columns(store.packed(indices))
    ended = jnp.cumsum(jnp.maximum(c["terminal"], c["timeout"]), -1)  # counts the row itself
    before = jnp.pad(ended, ((0, 0), (1, 0)))[:, :-1]
    return jnp.where(inside & (before == 0), indices, -1)


def _from_buffer(table: Buffer, store: Store, key: Key, n: int, context: int) -> Int[Array, "n K"]:
    ring = store.ring
    overwritten = table.online & (table.start < ring.written - ring.capacity)
    length = jnp.where(overwritten, 0, table.length)
    behind = jnp.cumsum(length)  # rows of this trajectory and all before it
    first = uniform_below(key, n, behind[-1])
    i = jnp.searchsorted(behind, first, side="right")  # an empty trajectory is never found
    i = jnp.minimum(i, table.start.shape[0] - 1)
    offset = (first - (behind[i] - length[i]))[:, None] + jnp.arange(context)
    row = table.start[i][:, None] + offset
    indices = jnp.where(table.online[i][:, None], store.size_offline + row % ring.capacity, row)
    return jnp.where(offset < length[i][:, None], indices, -1)
