"""Twin delayed deep deterministic policy gradient (TD3).  Fujimoto, van Hoof & Meger, ICML 2018, arXiv:1802.09477.

    a'  = clip(π̂(s') + clip(ε, -c, c), -1, 1),  ε ~ N(0, σ²)         (eq. 14)
    y   = r + γ min_j Q̂_j(s',a')                                    (eq. 10)
    L_Q = Σ_j E[ (Q_j(s,a) - y)² ]
    L_π = -E[ Q_1(s, π(s)) ]                                        (every `delay` critic steps)

One `update` is `delay` critic steps on consecutive slices of its batch, then one step of the actor and of all targets:
the algorithm's cycle as a straight line, without a branch.

Departures: none in the equations; online, the `delay` critic steps of a cycle come together after `delay` environment
steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array

from segue import losses, nets
from segue.errors import within
from segue.optim import descend, polyak, trained
from segue.types import Batch, Key, Learner, Metrics, Module, Spec, Trained, split


class State(Module):
    actor: Trained[nets.DeterministicActor]
    target_actor: nets.DeterministicActor
    critic: Trained[nets.Critic]
    target_critic: nets.Critic


@dataclass(frozen=True)
class TD3(Learner):
    delay: int = 2  # critic steps per actor step
    target_noise: float = 0.2  # σ
    noise_limit: float = 0.5  # c
    exploration: float = 0.1  # standard deviation of the noise on actions taken
    discount: float = 0.99  # γ
    target_rate: float = 0.005
    lr: float = 3e-4
    hidden: tuple[int, ...] = (256, 256)

    def __post_init__(self) -> None:
        within(self, delay="[1, inf)", target_noise="[0, inf)", noise_limit="[0, inf]", exploration="[0, inf)")
        within(self, discount="[0, 1]", target_rate="(0, 1]", lr="(0, inf)", hidden="[1, inf)")

    @property
    def slices(self) -> int:
        return self.delay

    def init(self, key: Key, spec: Spec) -> State:
        k_pi, k_q = split(key)
        actor, critic = nets.actor(k_pi, spec, self.hidden, "deterministic"), nets.critic(k_q, spec, self.hidden)
        return State(trained(actor), actor, trained(critic), critic)  # type: ignore[arg-type]

    def update(self, state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        critic, infos = state.critic, []
        slices = jax.tree.map(lambda x: x.reshape(self.delay, -1, *x.shape[1:]), batch)
        for i, k in enumerate(split(key, self.delay)):
            s, a, r, s_next, terminal = jax.tree.map(lambda x: x[i], slices).transition
            noise = self.target_noise * jax.random.normal(k, a.shape, a.dtype)
            noise = jnp.clip(noise, -self.noise_limit, self.noise_limit)
            a_next = jnp.clip(state.target_actor(s_next).mode() + noise, -1, 1)  # (14)
            target = r + self.discount * (1 - terminal) * state.target_critic(s_next, a_next).min(0)  # (10)
            critic, info = descend(self.lr, critic, lambda Q: losses.td(Q(s, a), target))
            infos.append(info)

        first = jax.tree.map(lambda x: x[0], critic.net)  # Q_1
        actor, p = descend(self.lr, state.actor, lambda pi: _improvement(first(s, pi(s).mode())))

        target_actor = polyak(self.target_rate, actor.net, state.target_actor)
        target_critic = polyak(self.target_rate, critic.net, state.target_critic)
        c = jax.tree.map(lambda *x: sum(x) / len(x), *infos)
        return State(actor, target_actor, critic, target_critic), c | p

    def policy(self, state: State, obs: Array, key: Key, greedy: bool = False) -> Array:
        a = state.actor(obs).mode()
        return a if greedy else jnp.clip(a + self.exploration * jax.random.normal(key, a.shape, a.dtype), -1, 1)


def _improvement(q: Array) -> losses.Loss:
    return -q.mean(), {"actor/q": q.mean()}
