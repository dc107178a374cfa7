"""The store: the dataset's rows and a ring of the interaction's rows.

A row is one packed float32 vector, so that reading a batch is one gather and writing a row one slice. Row numbers run
over the union: ``0..size_offline-1`` is the dataset, ``size_offline + j`` is slot ``j`` of the ring. The dataset is
held once, however many seeds run. Rewards are the task's own; a phase's transform is applied on reading. Which rows
make an episode stands in the run's state (`segue.phases.Episodes`).

A dataset that is larger than the memory stays on disk (`Store.disk`): the loop then draws the indices of an update
first, has the rows fetched (`Disk.take`), and hands them in as `given`. The numbers are those of a store in memory, bit
for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from segue.types import Batch, Key, Module, Replay, Spec

UNKNOWN = -jnp.inf  # return-to-go of a row whose episode is open


@dataclass(frozen=True)
class Affine:
    """A phase's reward convention: ``scale * r + shift``.

    `failure` is what the task pays a step without success, where that goes on for ever: the return-to-go of an episode
    that paid nothing else up to its time limit is that of endless failure.
    """

    scale: float = 1.0
    shift: float = 0.0
    failure: float | None = None

    def __call__(self, reward: Array) -> Array:
        return self.scale * reward + self.shift

    def endless(self, discount: float | Array) -> Array:
        """Return of endless failure; -inf without discount."""
        gamma = jnp.asarray(discount, jnp.float32)
        value = self(jnp.asarray(self.failure, jnp.float32)) / jnp.where(gamma < 1, 1 - gamma, 1)
        return jnp.where(gamma < 1, value, UNKNOWN)


class Layout(NamedTuple):
    """Where a row's columns lie: obs | action | next_obs | reward, terminal, timeout, step."""

    obs_dim: int
    act_dim: int

    @property
    def width(self) -> int:
        return 2 * self.obs_dim + self.act_dim + 4

    def pack(self, obs: Any, action: Any, reward: Any, next_obs: Any, terminal: Any, timeout: Any, step: Any) -> Any:
        """NumPy columns ``[N, ...]`` (or one row's values) to packed float32 rows ``[N, width]``."""
        scalars = np.stack([np.asarray(c, np.float32) for c in (reward, terminal, timeout, step)], -1)
        return np.concatenate([np.asarray(c, np.float32) for c in (obs, action, next_obs)] + [scalars], -1)

    def columns(self, rows: Float[Array | np.ndarray, "*n width"]) -> dict[str, Any]:
        """Columns of packed rows ``[..., width]``."""
        d, a = self.obs_dim, self.act_dim
        names = {"obs": rows[..., :d], "action": rows[..., d : d + a], "next_obs": rows[..., d + a : 2 * d + a]}
        for i, name in enumerate(("reward", "terminal", "timeout", "step")):
            names[name] = rows[..., 2 * d + a + i]
        return names

    def batch(self, rows: Float[Array, "*n width"]) -> Batch:
        """Packed rows of no store (imagined, or about to be written) as a batch: online, their episodes open."""
        c, one = self.columns(rows), jnp.ones(rows.shape[:-1])
        return Batch(
            obs=c["obs"],
            action=c["action"],
            reward=c["reward"],
            next_obs=c["next_obs"],
            terminal=c["terminal"],
            mc_return=UNKNOWN * one,
            offline=0 * one,
            weight=one,
            step=c["step"],
            valid=one,
        )


class Ring(Module):
    """Online rows, oldest overwritten first."""

    rows: Float[Array, "capacity width"]
    mc_return: Float[Array, " capacity"]
    written: Int[Array, ""]  # rows ever written; slot of the next one is written % capacity

    @property
    def capacity(self) -> int:
        return self.rows.shape[0]

    @property
    def size(self) -> Int[Array, ""]:
        return jnp.minimum(self.written, self.capacity)

    def add(self, row: Float[Array, " width"]) -> Ring:
        """The ring with one more row, whose episode is open."""
        slot = self.written % self.capacity
        rows = jax.lax.dynamic_update_slice(self.rows, row[None], (slot, 0))
        mc_return = jax.lax.dynamic_update_slice(self.mc_return, jnp.full((1,), UNKNOWN, jnp.float32), (slot,))
        return Ring(rows, mc_return, self.written + 1)


class Disk(Protocol):
    """The rows of a dataset that stays on disk (``segue.tasks.formats.disk``)."""

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Packed rows ``[..., width]`` of these indices, anything for indices outside the dataset."""
        ...

    def scalars(self) -> dict[str, Array]:
        """``reward``, ``terminal`` and ``timeout`` of all rows, [N] float32 each."""
        ...


class Store(Module):
    """Everything a replay can draw from. ``offline`` has one blank row where there is no dataset, or it is on disk."""

    offline: Float[Array, "N width"]
    offline_mc: Float[Array, " N"]
    ring: Ring
    layout: Layout = eqx.field(static=True)
    size_offline: int = eqx.field(static=True)
    disk: Disk | None = eqx.field(static=True, default=None)

    @property
    def size_online(self) -> Int[Array, ""]:
        return self.ring.size

    @property
    def size(self) -> Int[Array, ""]:
        return self.size_offline + self.ring.size

    def _pick(self, offline: Array, ring: Array, indices: Int[Array, "*n"]) -> Array:
        """Entries of a column that lies in two halves."""
        online = (indices >= self.size_offline).reshape(*indices.shape, *[1] * (offline.ndim - 1))
        i_off = jnp.clip(indices, 0, offline.shape[0] - 1)
        i_on = jnp.clip(indices - self.size_offline, 0, ring.shape[0] - 1)
        return jnp.where(online, ring[i_on], offline[i_off])

    def packed(
        self, indices: Int[Array, "*n"], given: Float[Array, "*n width"] | None = None
    ) -> Float[Array, "*n width"]:
        """These rows of the union as they are kept; `given` holds those of a dataset on disk."""
        if self.disk is None:
            return self._pick(self.offline, self.ring.rows, indices)
        if given is None:
            raise TypeError("rows of a dataset on disk are fetched before the program that uses them")
        online = indices >= self.size_offline
        i_on = jnp.clip(indices - self.size_offline, 0, self.ring.capacity - 1)
        return jnp.where(online[..., None], self.ring.rows[i_on], given)

    def at(
        self,
        indices: Int[Array, "*n"],
        reward: Affine,
        weight: Float[Array, "*n"],
        given: Float[Array, "*n width"] | None = None,
    ) -> Batch:
        """The batch of these rows of the union, rewards by `reward`; -1 is padding: zeros and ``valid = 0``."""
        rows, mc_return = self.packed(indices, given), self._pick(self.offline_mc, self.ring.mc_return, indices)
        valid = (indices >= 0).astype(rows.dtype)
        c = self.layout.columns(rows * valid[..., None])
        return Batch(
            obs=c["obs"],
            action=c["action"],
            reward=reward(c["reward"]) * valid,
            next_obs=c["next_obs"],
            terminal=c["terminal"],
            mc_return=jnp.where(indices >= 0, mc_return, 0.0),
            offline=(indices < self.size_offline) * valid,
            weight=weight,
            step=c["step"],
            valid=valid,
        )


class Rows(Module):
    """What a learner's `refit` may look at: the whole store as a phase draws from it and rewards it."""

    store: Store
    rstate: Any
    replay: Replay = eqx.field(static=True)
    reward: Affine = eqx.field(static=True)
    spec: Spec = eqx.field(static=True)

    def indices(self, key: Key, n: int) -> Int[Array, " n"]:
        """`n` rows of the union, drawn by the replay with replacement."""
        return self.replay.indices(self.rstate, self.store, key, n)[0]

    def at(self, indices: Int[Array, "*n"]) -> Batch:
        """The batch of these rows."""
        return self.store.at(indices, self.reward, jnp.ones(indices.shape))


def make_store(spec: Spec, dataset: Any | None, capacity: int) -> Store:
    """A store of `dataset` (columns as in ``segue.tasks.dataset.Dataset``) and an empty ring of `capacity` rows."""
    layout = Layout(spec.obs_dim, spec.act_dim)
    disk = getattr(dataset, "disk", None)
    if dataset is None or disk is not None:
        rows = np.zeros((1, layout.width), np.float32)
    else:
        d = dataset
        rows = layout.pack(d.obs, d.action, d.reward, d.next_obs, d.terminal, d.timeout, d.step)
    capacity = max(capacity, 1)
    ring = Ring(jnp.zeros((capacity, layout.width)), jnp.full((capacity,), UNKNOWN), jnp.zeros((), jnp.int32))
    size = 0 if dataset is None else len(dataset.reward)
    return Store(jnp.asarray(rows), jnp.zeros(max(size, 1)), ring, layout, size, disk)


@jax.jit
def returns_to_go(
    reward: Float[Array, " N"], terminal: Array, end: Array, discount: float | Array
) -> Float[Array, " N"]:
    """Discounted return-to-go by one reverse scan; nothing is added behind a terminal or a time limit (`end`)."""

    def body(carry: Array, row: tuple) -> tuple[Array, Array]:
        r, last = row
        g = r + discount * (1 - last) * carry
        return g, g

    last = jnp.maximum(terminal, end).astype(jnp.float32)
    return jax.lax.scan(body, jnp.zeros(()), (reward, last), reverse=True)[1]


def _returns(raw: Float[Array, " N"], terminal: Array, timeout: Array, reward: Affine, discount: float) -> Array:
    """Return-to-go of whole episodes by a reward convention, from the task's rewards."""
    mc = returns_to_go(reward(raw), terminal, timeout, discount)
    if reward.failure is None:
        return mc
    last = jnp.maximum(terminal, timeout).astype(jnp.int32)
    episode = jnp.cumsum(last) - last  # [N], counted from 0
    failing = (raw == reward.failure) & (terminal == 0)
    failed = jax.ops.segment_min(failing.astype(jnp.int32), episode, len(raw))
    return jnp.where(failed[episode] > 0, reward.endless(discount), mc)


def with_returns(store: Store, reward: Affine, discount: float, closed: int) -> Store:
    """The store with return-to-go by this phase's transform and discount; `closed` ring rows lie in closed episodes.

    `closed` counts from the first row ever written; younger rows belong to the open episode and stay unknown.
    """
    layout, ring = store.layout, store.ring
    c = layout.columns(store.offline) if store.disk is None else store.disk.scalars()
    offline_mc = _returns(c["reward"], c["terminal"], c["timeout"], reward, discount)
    written, capacity = int(ring.written), ring.capacity
    if written:
        order = np.arange(max(0, written - capacity), written) % capacity  # oldest first
        c = layout.columns(ring.rows[order])
        mc = _returns(c["reward"], c["terminal"], c["timeout"], reward, discount)
        age = np.arange(max(0, written - capacity), written)
        mc = jnp.where(jnp.asarray(age < closed), mc, UNKNOWN)
        ring = Ring(ring.rows, ring.mc_return.at[order].set(mc), ring.written)
    return Store(store.offline, offline_mc, ring, layout, store.size_offline, store.disk)


@partial(jax.jit, static_argnames=("padded", "reward"), donate_argnames="mc_return")
def _episode_returns(
    mc_return: Array, rows: Array, written: Array, length: Array, padded: int, reward: Affine, discount: Array
) -> Array:
    age = jnp.arange(padded) - padded + length  # of the `padded` newest rows within the episode; before it: negative
    slots = (written - length + age) % rows.shape[0]
    inside = (age >= 0) & (jnp.arange(padded) >= padded - rows.shape[0])
    raw = rows[slots, -4]
    values = returns_to_go(reward(raw), jnp.zeros(padded), jnp.zeros(padded), discount)
    if reward.failure is not None:
        failed = ((raw == reward.failure) | ~inside).all() & (rows[slots[-1], -3] == 0)
        values = jnp.where(failed, reward.endless(discount), values)
    return mc_return.at[jnp.where(inside, slots, rows.shape[0])].set(values, mode="drop")


def close_episode(ring: Ring, length: int, reward: Affine, discount: float) -> Ring:
    """The ring with the return-to-go of its newest `length` rows, which are one whole episode."""
    padded = max(16, 1 << (length - 1).bit_length())  # few lengths, so few compilations
    mc = _episode_returns(ring.mc_return, ring.rows, ring.written, np.int32(length), padded, reward, discount)
    return Ring(ring.rows, mc, ring.written)
