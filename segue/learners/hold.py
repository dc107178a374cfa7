"""Hold: some nets of a learner stand still while the others learn.

Burn-in of a critic is a phase of `Hold(SAC(), ("actor",))`; policy refinement one of `Hold(TD3BC(), ("critic",))`.
A held net keeps its optimiser's moments and its target too. Not from a paper.

Departures: none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Array

from segue.errors import ConfigError, nearest
from segue.types import Batch, Episode, Key, Learner, Metrics, Module, Spec, core, replace, with_core


class State(Module):
    base: Any


@dataclass(frozen=True)
class Hold(Learner):
    base: Learner
    nets: tuple[str, ...] = ("actor",)

    @property
    def imitates(self) -> bool:  # type: ignore[override]
        return self.base.imitates

    @property
    def discount(self) -> float:  # type: ignore[override]
        return self.base.discount

    @property
    def held(self) -> tuple[str, ...]:
        return (*self.base.held, *self.nets, *(f"target_{n}" for n in self.nets))

    @property
    def slices(self) -> int:
        return self.base.slices

    def init(self, key: Key, spec: Spec) -> State:
        base = self.base.init(key, spec)
        known = [n for n in core(base).__dataclass_fields__ if not n.startswith("target_")]
        for name in self.nets:
            if name not in known:
                raise ConfigError(f"Hold: {type(self.base).__name__} has no net {name!r}{nearest(name, known)}")
        return State(base)

    def update(self, state: State, batch: Batch, key: Key, **imitate: Array) -> tuple[State, Metrics]:
        base, info = self.base.update(state.base, batch, key, **imitate)
        before, after = core(state.base), core(base)
        held = [n for name in self.nets for n in (name, f"target_{name}") if hasattr(before, n)]
        return State(with_core(base, replace(after, **{n: getattr(before, n) for n in held}))), info

    def policy(self, state: State, obs: Array, key: Key, greedy: bool = False) -> Array:
        return self.base.policy(state.base, obs, key, greedy)

    def begin(self, state: State, key: Key, greedy: bool) -> Any:
        return self.base.begin(state.base, key, greedy)

    def act(
        self, state: State, memory: Any, obs: Array, last_reward: Array, key: Key, greedy: bool
    ) -> tuple[Array, Any, Metrics]:
        return self.base.act(state.base, memory, obs, last_reward, key, greedy)

    def observe(self, state: State, episode: Episode) -> State:
        return State(self.base.observe(state.base, episode))

    def refit(self, state: State, draw: Callable[[Key, int], Batch], key: Key) -> State:
        return State(self.base.refit(state.base, draw, key))
