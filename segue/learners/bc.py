"""Behaviour cloning.  Pomerleau, NIPS 1988; the baseline of every offline method.

    L_π = -E_D[ log π(a|s) ]                                        (1)

Departures: none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array

from segue import losses, nets
from segue.errors import within
from segue.optim import descend, trained
from segue.types import Batch, Key, Learner, Metrics, Module, Spec, Trained


class State(Module):
    actor: Trained[nets.Actor]


@dataclass(frozen=True)
class BC(Learner):
    imitates: ClassVar[bool] = True

    lr: float = 3e-4
    discount: float = 0.99  # enters no loss; for the store's return-to-go
    head: nets.StochasticHead = "gaussian"  # "gaussian": tanh mean, free std; "squashed": tanh of a Gaussian
    hidden: tuple[int, ...] = (256, 256)
    dropout: float = 0.0  # of the actor, in its loss only

    def __post_init__(self) -> None:
        within(self, lr="(0, inf)", discount="[0, 1]", hidden="[1, inf)", dropout="[0, 1)")

    def init(self, key: Key, spec: Spec) -> State:
        return State(trained(nets.actor(key, spec, self.hidden, self.head, self.dropout)))

    def update(self, state: State, batch: Batch, key: Key, imitate: Array | None = None) -> tuple[State, Metrics]:
        s, a = batch.obs, batch.action if imitate is None else imitate
        actor, info = descend(self.lr, state.actor, lambda pi: losses.bc(pi(s, key=key).log_prob(a)))  # (1)
        return State(actor), info

    def policy(self, state: State, obs: Array, key: Key, greedy: bool = False) -> Array:
        pi = state.actor(obs)
        return pi.mode() if greedy else pi.sample(key)
