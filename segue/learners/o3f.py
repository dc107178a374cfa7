"""Optimistic action selection (O3F).  Mark, Ghadirzadeh, Chen & Finn, NeurIPS 2022 Deep RL workshop.

    a_i = clip(π(s) + σ ε_i, -1, 1),  ε_i ~ N(0, 1),  i = 1..n          (1)
    a   = argmax_{a_i} score_j Q_j(s, a_i)                              (2)

`base` learns online by the same objective as offline; only what is done in the environment changes. The critics see
actions beside the policy's, and the one that they value most is tried: where they are wrong, the data say so soon.
π(s) is the base's greedy action. `score` is an aggregation of `segue.losses`: `Mean`, or `MeanMinusStd(-k)`, a bound
from above. Evaluation is the base's.

Departures: no authors' code is public. σ, n and the five critics of the preset are a third party's; that code also
takes the best candidate in the critic's target, which the paper does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from segue import losses, nets
from segue.errors import ConfigError, HandoverError, within
from segue.types import Batch, Key, Learner, Metrics, Module, Spec, Wrapper, chain, check_critic, core, split


class State(Module):
    base: Any


@dataclass(frozen=True)
class O3F(Wrapper):
    base: Learner
    candidates: int = 100  # n
    noise: float = 0.2  # σ
    score: losses.Aggregation = losses.Mean()

    def __post_init__(self) -> None:
        within(self, candidates="[1, inf)", noise="[0, inf)")

    def init(self, key: Key, spec: Spec) -> State:
        base = self.base.init(key, spec)
        check_critic("O3F", self.base, base)
        if any(hasattr(s, "obs_mean") for s in chain(base)):
            raise HandoverError("O3F asks policy and critic about the same observations; put Standardise around it")
        return State(base)

    def choose(
        self, state: State, obs: Float[Array, " obs"], key: Key
    ) -> tuple[Float[Array, " act"], Float[Array, ""]]:
        """The candidate with the highest score, and how far that lies above the score of π(s)."""
        k_policy, k_noise, k_score = split(key, 3)
        mode = jnp.clip(self.base.policy(state.base, obs, k_policy, True), -1, 1)
        noise = jax.random.normal(k_noise, (self.candidates, *mode.shape), mode.dtype)
        a = jnp.concatenate([mode[None], jnp.clip(mode + self.noise * noise, -1, 1)])  # (1), [1 + n, A], π(s) first
        q = self.score(core(state).critic(nets.repeated(obs, len(a)), a), k_score)  # [1 + n]
        if q.ndim != 1:
            raise ConfigError(f"O3F.score makes one value of all members, which {self.score} does not; use Mean()")
        best = 1 + q[1:].argmax()
        return a[best], q[best] - q[0]  # (2)

    def update(self, state: State, batch: Batch, key: Key, **imitate: Array) -> tuple[State, Metrics]:
        base, info = self.base.update(state.base, batch, key, **imitate)
        return State(base), info

    def policy(self, state: State, obs: Array, key: Key, greedy: bool = False) -> Array:
        return self.base.policy(state.base, obs, key, True) if greedy else self.choose(state, obs, key)[0]

    def act(
        self, state: State, memory: Any, obs: Array, last_reward: Array, key: Key, greedy: bool
    ) -> tuple[Array, Any, Metrics]:
        if greedy:
            return self.base.act(state.base, memory, obs, last_reward, key, True)
        a, gain = self.choose(state, obs, key)
        return a, memory, {"act/gain": gain}
