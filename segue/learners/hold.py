"""Hold: some nets of a learner stand still while the others learn.

Burn-in of a critic is a phase of `Hold(SAC(), ("actor",))`; policy refinement one of `Hold(TD3BC(), ("critic",))`.
A held net keeps its optimiser's moments and its target too. Not from a paper.

Departures: none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Array

from segue.errors import ConfigError, nearest
from segue.types import Batch, Key, Learner, Metrics, Module, Spec, Wrapper, core, replace, with_core


class State(Module):
    base: Any


@dataclass(frozen=True)
class Hold(Wrapper):
    base: Learner
    nets: tuple[str, ...] = ("actor",)

    @property
    def held(self) -> tuple[str, ...]:
        return (*self.base.held, *self.nets, *(f"target_{n}" for n in self.nets))

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
