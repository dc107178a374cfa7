"""Episodes of a policy in an environment of its own, with a random stream of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from segue.errors import EnvironmentFault
from segue.types import Key, Learner

LONGEST = 100_000  # steps of an evaluation's episode


class Environment(Protocol):
    """The door to a task (``segue.tasks.environment``): actions in [-1, 1], observations float32 ``[obs_dim]``."""

    def reset(self, seed: int) -> np.ndarray: ...
    def step(self, action: np.ndarray) -> Any: ...
    def close(self) -> None: ...


class Outcome(NamedTuple):
    """One finished episode."""

    return_: float
    length: int
    extras: dict[str, float]  # info["episode"] of the last step: success, path length, ...


class Interrupted(Exception):
    """Raised inside an evaluation when the caller asked to stop; nothing of the evaluation is kept."""


def seed_of(*parts: int) -> int:
    """A 31-bit seed that depends on all parts."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0] >> 1)


@partial(jax.jit, static_argnames=("learner", "greedy"))
def begin(learner: Learner, state: Any, key: Key, greedy: bool) -> Any:
    return learner.begin(state, key, greedy)


@partial(jax.jit, static_argnames=("learner", "greedy"))
def act(learner: Learner, state: Any, memory: Any, obs: Any, reward: Any, key: Key, t: Any, greedy: bool) -> Any:
    """A clipped action for the `t`-th call under `key`, the memory after it, metrics."""
    action, memory, info = learner.act(state, memory, obs, reward, jax.random.fold_in(key, t), greedy)
    return jnp.clip(action, -1, 1), memory, info


def evaluate(
    learner: Learner,
    state: Any,
    env: Environment,
    episodes: int,
    seed: Sequence[int],
    greedy: bool = True,
    interrupted: Callable[[], bool] = lambda: False,
) -> list[Outcome]:
    """Run `episodes` episodes; every one is seeded by `seed` and its number.

    Raises `EnvironmentFault` naming the episode, `Interrupted` when `interrupted()` turns true.
    """
    outcomes = []
    for e in range(episodes):
        key = jax.random.key(seed_of(*seed, e, 1))
        memory, reward = begin(learner, state, key, greedy), np.float32(0)
        return_, t = 0.0, 0
        try:
            obs = env.reset(seed_of(*seed, e, 0))
            while True:
                action, memory, _ = act(learner, state, memory, obs, reward, key, np.int32(t), greedy)
                step = env.step(np.asarray(action))
                obs, reward, t = step.obs, np.float32(step.reward), t + 1
                return_ += step.reward
                if step.terminal or step.timeout:
                    break
                if interrupted():
                    raise Interrupted
                if t >= LONGEST:
                    raise EnvironmentFault(f"no end after {LONGEST:,} steps; give the environment a time limit")
        except EnvironmentFault as fault:
            raise EnvironmentFault(f"evaluation episode {e}, step {t}: {fault}") from fault
        outcomes.append(Outcome(return_, t, dict(step.info.get("episode", {}))))
    return outcomes
