"""Balanced replay: dataset rows in proportion to how near they are to the interaction.

Lee et al., CoRL 2021, arXiv:2107.00591 (Off2OnRL), there with an ensemble of agents; it serves a single one too.

    L_w  = E_off[ log((w+1) / 2) ] - E_on[ log(2w / (w+1)) ],  least at w = d_on(s,a) / d_off(s,a)
    p    = w^(1/T) / E_off[ w^(1/T) ]  in [1e-3, 1e3], for the rows just drawn
    p_0  = M ρ / ((1-ρ) m)  for a new row, or the largest p so far; 1 for each of the M rows of the dataset

so that after the first m online rows their share of a batch is ρ. Priorities are those of w before its step. Losses are
not corrected for them.

Departures: w is a softplus, the authors' a ReLU, whose gradient is 0 for good where w has fallen to 0. Rows are drawn
independently, the authors draw one of each of B parts of equal mass. The ring holds all online rows, theirs 250,000.
A single agent (`cql-br`) carries its target critics, theirs are copied from the critics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from segue import losses, nets
from segue.errors import ConfigError, within
from segue.optim import descend, trained
from segue.replays import sumtree
from segue.replays.uniform import uniform_below
from segue.store import Affine, Store
from segue.types import Batch, Key, Metrics, Module, Replay, Spec, Trained

START = math.log(math.e - 1)  # softplus of it is 1


class Ratio(Module):
    """w(s, a), over 0 and about 1 at first."""

    net: nets.Mlp

    def __call__(self, obs: Float[Array, "*B obs"], action: Float[Array, "*B act"]) -> Float[Array, "*B"]:
        return jax.nn.softplus(self.net(obs, action)[..., 0] + START)


class State(Module):
    ratio: Trained[Ratio]
    tree: Float[Array, " nodes"]  # priorities of the dataset's rows, then of the ring's slots
    entry: Float[Array, ""]  # priority of the next new row


@dataclass(frozen=True)
class Balanced(Replay):
    online: float = 0.5  # ρ
    first: int = 1000  # m, online rows of this phase at its first update: the size of the schedule's first block
    temperature: float = 5.0  # T
    batch_size: int = 256  # rows of either side for a step of w
    lr: float = 3e-4
    hidden: tuple[int, ...] = (256, 256)

    def __post_init__(self) -> None:
        within(self, online="(0, 1)", first="[1, inf)", temperature="(0, inf)", batch_size="[1, inf)")
        within(self, lr="(0, inf)", hidden="[1, inf)")

    def init(self, key: Key, spec: Spec, store: Store) -> State:
        """Raises `ConfigError` without a dataset."""
        if not store.size_offline:
            raise ConfigError(
                "Balanced weighs a dataset's rows against online ones, and the task has no dataset; name a task with "
                "data (`segue list`), or take another replay"
            )
        net = nets.mlp(key, (spec.obs_dim + spec.act_dim, *self.hidden, 1), head_gain=1e-2)
        m = self.first + store.size_online  # rows of earlier phases count too
        entry = store.size_offline * self.online / ((1 - self.online) * m)
        ring = jnp.where(jnp.arange(store.ring.capacity) < store.size_online, entry, 0)
        tree = sumtree.build(jnp.concatenate([jnp.ones(store.size_offline), ring]))
        return State(trained(Ratio(net)), tree, entry)

    def indices(self, rstate: State, store: Store, key: Key, n: int) -> tuple[Array, Array]:
        return sumtree.draw(rstate.tree, key, n), jnp.ones(n)

    def add(self, rstate: State, store: Store) -> State:
        row = store.size_offline + (store.ring.written - 1) % store.ring.capacity
        return State(rstate.ratio, sumtree.write(rstate.tree, row[None], rstate.entry[None]), rstate.entry)

    def update(self, rstate: State, store: Store, indices: Array, batch: Batch, key: Key) -> tuple[State, Metrics]:
        k_off, k_on = jax.random.split(key)
        rows = lambda i: store.at(i, Affine(), jnp.ones(i.shape))
        old = rows(uniform_below(k_off, self.batch_size, store.size_offline))
        new = rows(store.size_offline + uniform_below(k_on, self.batch_size, store.size_online))
        known = store.size_online > 0  # before it there is no ratio, and all priorities are 1

        def divergence(w: Ratio) -> losses.Loss:
            return losses.density_ratio(w(old.obs, old.action), w(new.obs, new.action))

        w, w_old = rstate.ratio(batch.obs, batch.action), rstate.ratio(old.obs, old.action)
        priority = jnp.where(known, losses.tempered_ratio(w, w_old, self.temperature), 1.0)
        tree = sumtree.write(rstate.tree, indices, priority)
        entry = jnp.maximum(rstate.entry, priority.max())
        learnt, info = descend(self.lr, rstate.ratio, divergence)
        ratio = jax.tree.map(lambda x, y: jnp.where(known, x, y), learnt, rstate.ratio)
        return State(ratio, tree, entry), info | {"replay/priority": priority.mean()}
