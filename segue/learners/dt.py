"""Decision Transformer.  Chen et al., NeurIPS 2021, arXiv:2106.01345.

    R_t = Σ_{t' >= t} r_t'                                          (sec. 3, the return to go, undiscounted)
    a_t = π( R_{t-K+1}, s_{t-K+1}, a_{t-K+1}, ..., R_t, s_t )       (sec. 3, `segue.transformer`)
    L_π = E_D[ (π(...) - a_t)² ]                                    (sec. 3)

Acting asks for a return: R_0 is the target, R_{t+1} = R_t - r_t. There is no value function and no bootstrapping: what
the data achieved is cloned, as a function of how much was achieved. Learns from windows (`replays.Sequences`).

Departures: the error is averaged over valid entries, where the authors' code divides by all, padding included; windows
are padded behind, which the mask makes immaterial.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from segue import losses, transformer
from segue.nets import Layer
from segue.optim import adamw, descend, trained, warmup
from segue.types import Batch, Key, Learner, Metrics, Module, Spec, Trained, split


class Actor(Module):
    body: transformer.Transformer
    head: Layer

    def __call__(self, w: transformer.Windows, key: Key | None = None) -> Float[Array, "B K act"]:
        return jnp.tanh(transformer.linear(self.head, self.body(w, key)))


class State(Module):
    actor: Trained[Actor]


@dataclass(frozen=True)
class DT(Learner):
    windows: ClassVar[bool] = True
    discount: ClassVar[float] = 1.0

    target_return: float = 3600.0  # R_0 when acting, as the task pays
    return_scale: float = 1000.0  # the network sees returns divided by this
    context: int = 20  # K when acting; in training the replay's
    embed: int = 128
    layers: int = 3
    heads: int = 1
    dropout: float = 0.1
    lr: float = 1e-4
    warmup: int = 10_000  # updates over which the rate rises to `lr`
    weight_decay: float = 1e-4
    clip: float = 0.25  # of the gradient's norm

    def __post_init__(self) -> None:
        transformer.check_sizes(self)

    def init(self, key: Key, spec: Spec) -> State:
        k_body, k_head = split(key)
        body = transformer.init(
            k_body,
            spec,
            embed=self.embed,
            layers=self.layers,
            heads=self.heads,
            activation="gelu",
            times=transformer.table_of_times(spec, self.context),
            dropout=self.dropout,
        )
        head = Layer(
            transformer.WEIGHT_STD * jax.random.normal(k_head, (self.embed, spec.act_dim)), jnp.zeros(spec.act_dim)
        )
        return State(trained(Actor(body, head)))

    def update(self, state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        w = transformer.windows(batch, self.return_scale)
        actor, info = descend(
            self.lr * warmup(state.actor, self.warmup),
            state.actor,
            lambda pi: losses.action_error(pi(w, key), batch.action, batch.valid),
            clip=self.clip,
            after=adamw(self.weight_decay),
        )
        return State(actor), info

    def begin(self, state: State, key: Key, greedy: bool) -> transformer.Context:
        return transformer.begin(state.actor.net.body, self.context, self.target_return)

    def act(
        self, state: State, memory: transformer.Context, obs: Array, last_reward: Array, key: Key, greedy: bool
    ) -> tuple[Array, transformer.Context, Metrics]:
        memory = memory.grown(obs, last_reward)
        a = state.actor(memory.windows(self.return_scale))[0, -1]
        return a, memory.acted(a), {"act/return_to_go": memory.return_to_go[-1]}

    def policy(self, state: State, obs: Array, key: Key, greedy: bool = False) -> Array:
        """The first action of an episode that begins at `obs`."""
        return transformer.first_action(self, state, obs, key, greedy)
