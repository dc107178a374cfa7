"""Standardise: a learner sees observations by the mean and standard deviation of the dataset's. Not from one paper.

    s ← (s - mean) / (std + eps)

Both are taken once, when the first phase begins, and then carried on with the state: a policy never sees its inputs
rescaled under it. It stands outside other wrappers, whose nets see what it passes on.

Departures: none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from segue.errors import ConfigError
from segue.store import Rows
from segue.types import Batch, Key, Learner, Metrics, Module, Refit, Spec, Wrapper, replace, store_learner


class State(Module):
    base: Any
    obs_mean: Float[Array, " obs"]
    obs_std: Float[Array, " obs"]  # eps included
    obs_rows: Float[Array, ""]  # how many they are of; 0: not taken yet


@dataclass(frozen=True)
class Standardise(Wrapper):
    base: Learner
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if inner := store_learner(self.base):
            raise ConfigError(
                f"Standardise: {type(inner).__name__} learns from the store itself, whose observations are the "
                "task's own; use it without Standardise"
            )

    def init(self, key: Key, spec: Spec) -> State:
        return State(self.base.init(key, spec), jnp.zeros(spec.obs_dim), jnp.ones(spec.obs_dim), jnp.zeros(()))

    def refit(self, state: State, rows: Rows, key: Key, piece: int) -> Refit:
        """The numbers of the dataset, where there are none yet."""
        store = rows.store
        if float(state.obs_rows):
            return Refit(state)
        if not store.size_offline:
            return Refit(state, notes={"observations": "as they are: there is no dataset to standardise them by"})
        obs = np.asarray(store.layout.columns(store.offline)["obs"], np.float64)
        taken = replace(
            state,
            obs_mean=jnp.asarray(obs.mean(0), state.obs_mean.dtype),
            obs_std=jnp.asarray(obs.std(0) + self.eps, state.obs_std.dtype),
            obs_rows=jnp.asarray(len(obs), state.obs_rows.dtype),
        )
        return Refit(taken, notes={"observations": f"standardised by {len(obs):,} rows of the dataset"})

    def seen(self, state: State, obs: Float[Array, "... obs"]) -> Float[Array, "... obs"]:
        return (obs - state.obs_mean) / state.obs_std

    def update(self, state: State, batch: Batch, key: Key, **imitate: Array) -> tuple[State, Metrics]:
        batch = batch._replace(obs=self.seen(state, batch.obs), next_obs=self.seen(state, batch.next_obs))
        base, info = self.base.update(state.base, batch, key, **imitate)
        return replace(state, base=base), info

    def policy(self, state: State, obs: Array, key: Key, greedy: bool = False) -> Array:
        return self.base.policy(state.base, self.seen(state, obs), key, greedy)

    def act(
        self, state: State, memory: Any, obs: Array, last_reward: Array, key: Key, greedy: bool
    ) -> tuple[Array, Any, Metrics]:
        return self.base.act(state.base, memory, self.seen(state, obs), last_reward, key, greedy)
