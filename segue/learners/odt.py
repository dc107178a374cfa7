"""Online Decision Transformer.  Zheng, Zhang & Grover, ICML 2022, arXiv:2202.05607.

    π(·| R_{t-K+1}, s_{t-K+1}, a_{t-K+1}, ..., R_t, s_t) = tanh N(μ, σ²)      (`segue.transformer`)
    log σ = -5 + 7/2 (tanh(x) + 1)                                          within [-5, 2]
    L_π = -E_D[ log π(a_t | ...) ] - λ H(π)                                  λ held still
    L_λ = λ (H(π) - H̄),   H(π) = -E_D[ log π(ã_t | ...) ],  ã_t ~ π           H held still

Cloning under a floor on the entropy, offline and online. Online an episode is asked for more than was ever achieved
(`explore_return`), acts by samples and goes into a buffer of trajectories (`replays.Sequences`) with the returns to go
that it obtained: hindsight relabelling is nothing else. Evaluation takes the mean and asks for `target_return`.
The optimiser is LAMB; its warm-up counts its own steps, so that moments carried over the boundary stay warm.

A small form for a few cores: `--set` in both phases learner.base.embed=128, learner.base.layers=3, batch_size=64,
learner.base.warmup=500, and phases.online.updates.n=30.

Departures: padding is left out of the entropy, as out of the likelihood; the authors' code counts it. LAMB has no cap
of 1 on the gradient's norm besides `clip`, below which it never binds. Windows are padded behind, the authors' in
front, which the mask makes immaterial.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jax.nn.initializers import orthogonal
from jaxtyping import Array

from segue import losses, transformer
from segue.nets import Layer, TanhNormal
from segue.optim import descend, lamb, trained, warmup
from segue.types import Batch, Key, Learner, Metrics, Module, Spec, Trained, split


class Actor(Module):
    body: transformer.Transformer
    mean: Layer
    log_std: Layer

    def __call__(self, w: transformer.Windows, key: Key | None = None) -> TanhNormal:
        x = self.body(w, key)
        log_std = -5 + 3.5 * (jnp.tanh(transformer.linear(self.log_std, x)) + 1)
        return TanhNormal(transformer.linear(self.mean, x), jnp.exp(log_std))


class State(Module):
    actor: Trained[Actor]
    log_temperature: Trained[Array]  # log λ: it weighs entropy against likelihood, not against a critic (`log_alpha`)


@dataclass(frozen=True)
class ODT(Learner):
    windows: ClassVar[bool] = True
    discount: ClassVar[float] = 1.0

    target_return: float = 3600.0  # R_0 in evaluation, as the task pays
    explore_return: float = 7200.0  # R_0 of the interaction
    return_scale: float = 1000.0  # the network sees returns divided by this
    context: int = 5  # K when acting; in training the replay's
    embed: int = 512
    layers: int = 4
    heads: int = 4
    dropout: float = 0.1
    timed: bool = False  # with an embedding of the time, as in some of the authors' runs ("ordering")
    lr: float = 1e-4
    warmup: int = 10_000  # updates over which the rate rises to `lr`
    weight_decay: float = 5e-4
    clip: float = 0.25  # of the gradient's norm
    temperature: float = 0.1  # λ at the start
    temperature_lr: float = 1e-4
    entropy_per_action: float = -1.0  # H̄ = this times the number of action dimensions

    def __post_init__(self) -> None:
        transformer.check_sizes(self)

    def init(self, key: Key, spec: Spec) -> State:
        k_body, k_mean, k_std = split(key, 3)
        body = transformer.init(
            k_body,
            spec,
            embed=self.embed,
            layers=self.layers,
            heads=self.heads,
            activation="relu",
            times=transformer.table_of_times(spec, self.context) if self.timed else 0,
            dropout=self.dropout,
        )
        head = lambda k: Layer(orthogonal()(k, (self.embed, spec.act_dim)), jnp.zeros(spec.act_dim))
        actor = Actor(body, head(k_mean), head(k_std))
        return State(trained(actor), trained(jnp.log(jnp.asarray(self.temperature, jnp.float32))))

    def update(self, state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        k_drop, k_sample = split(key)
        w, weight = transformer.windows(batch, self.return_scale), jnp.exp(state.log_temperature.net)

        def objective(pi: Actor) -> losses.Loss:
            distribution = pi(w, k_drop)
            _, own = distribution.sample_and_log_prob(k_sample)
            return losses.entropy_regularised(distribution.log_prob(batch.action), own, weight, batch.valid)

        rate = self.lr * warmup(state.actor, self.warmup)
        actor, p = descend(rate, state.actor, objective, clip=self.clip, after=lamb(self.weight_decay))

        target = self.entropy_per_action * batch.action.shape[-1]
        log_temperature, t = descend(
            self.temperature_lr,
            state.log_temperature,
            lambda x: losses.temperature(x, -p["actor/entropy"], target),
        )
        return State(actor, log_temperature), p | t

    def begin(self, state: State, key: Key, greedy: bool) -> transformer.Context:
        asked = self.target_return if greedy else self.explore_return
        return transformer.begin(state.actor.net.body, self.context, asked)

    def act(
        self, state: State, memory: transformer.Context, obs: Array, last_reward: Array, key: Key, greedy: bool
    ) -> tuple[Array, transformer.Context, Metrics]:
        memory = memory.grown(obs, last_reward)
        distribution = state.actor(memory.windows(self.return_scale))
        a = (distribution.mode() if greedy else distribution.sample(key))[0, -1]
        return a, memory.acted(a), {"act/return_to_go": memory.return_to_go[-1]}

    def policy(self, state: State, obs: Array, key: Key, greedy: bool = False) -> Array:
        """The first action of an episode that begins at `obs`."""
        return transformer.first_action(self, state, obs, key, greedy)
