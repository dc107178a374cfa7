"""Implicit Q-learning.  Kostrikov, Nair & Levine, ICLR 2022, arXiv:2110.06169.

    L_V = E_D[ |τ - 1{u < 0}| u² ],   u = Q̂(s,a) - V(s)             (eq. 5)
    L_π = -E_D[ min(exp(β (Q̂(s,a) - V(s))), 100) log π(a|s) ]       (eq. 7)
    L_Q = E_D[ (r + γ V(s') - Q(s,a))² ]                            (eq. 6)

Q̂ is the minimum of the two target critics. Only dataset actions are ever evaluated: the expectile τ of Q over the
data's actions stands for the maximum, and the policy is drawn from the data by weights afterwards.

The order V, π, Q, targets, with V after its step in the two others, is that of the authors' code.
Departures: orthogonal weights with gain 1 (critic) and 0.01 (actor) in the last layers, the authors' have √2 there; no
clipping of dataset actions, which an unsquashed Gaussian does not need. The recipes let the actor's rate fall along a
cosine offline and keep it constant online; the authors' fine-tuning runs keep it constant in both stages. β multiplies,
as in the code; the text of some later papers divides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Int

from segue import losses, nets
from segue.errors import within
from segue.optim import cosine, descend, polyak, trained
from segue.types import Batch, Key, Learner, Metrics, Module, Spec, Trained, split


class State(Module):
    actor: Trained[nets.Actor]
    critic: Trained[nets.Critic]
    target_critic: nets.Critic
    value: Trained[nets.Value]
    step: Int[Array, ""]  # updates in this phase


@dataclass(frozen=True)
class IQL(Learner):
    imitates: ClassVar[bool] = True

    expectile: float = 0.7  # τ: 0.5 is SARSA, towards 1 the best action in the data
    beta: float = 3.0  # β: 0 is behaviour cloning, large is greedy
    discount: float = 0.99  # γ
    target_rate: float = 0.005
    lr: float = 3e-4
    actor_decay: int | None = None  # updates over which the actor's rate falls to 0 along a cosine; None: constant
    lagged_value: bool = False  # True: π and Q use V from before its step (CORL's order)
    head: nets.StochasticHead = "gaussian"  # "gaussian": tanh mean, free std; "squashed": tanh of a Gaussian
    hidden: tuple[int, ...] = (256, 256)
    dropout: float = 0.0  # of the actor, in its loss only

    def __post_init__(self) -> None:
        within(self, expectile="(0, 1)", beta="[0, inf)", discount="[0, 1]", target_rate="(0, 1]", lr="(0, inf)")
        within(self, actor_decay="[1, inf)", hidden="[1, inf)", dropout="[0, 1)")

    def init(self, key: Key, spec: Spec) -> State:
        k_pi, k_q, k_v = split(key, 3)
        critic = nets.critic(k_q, spec, self.hidden)
        return State(
            actor=trained(nets.actor(k_pi, spec, self.hidden, self.head, self.dropout)),
            critic=trained(critic),
            target_critic=critic,
            value=trained(nets.value(k_v, spec, self.hidden)),
            step=jnp.zeros((), jnp.int32),
        )

    def update(self, state: State, batch: Batch, key: Key, imitate: Array | None = None) -> tuple[State, Metrics]:
        s, a, r, s_next, terminal = batch.transition

        q_hat = state.target_critic(s, a).min(0)  # [B]
        value, v = descend(self.lr, state.value, lambda V: losses.expectile(q_hat - V(s), self.expectile))  # (5)
        V = state.value if self.lagged_value else value

        if imitate is not None:  # a policy set's own proposals instead of the data's actions (PEX)
            a_pi, adv = imitate, state.target_critic(s, imitate).min(0) - V(s)
        else:
            a_pi, adv = a, q_hat - V(s)  # [B]
        lr = self.lr if self.actor_decay is None else self.lr * cosine(state.step, self.actor_decay)
        actor, p = descend(lr, state.actor, lambda pi: losses.awr(pi(s, key=key).log_prob(a_pi), adv, self.beta))  # (7)

        target = r + self.discount * (1 - terminal) * V(s_next)  # [B]
        critic, c = descend(self.lr, state.critic, lambda Q: losses.td(Q(s, a), target))  # (6)

        target_critic = polyak(self.target_rate, critic.net, state.target_critic)
        info = v | p | c | {"actor/advantage": adv.mean()}
        return State(actor, critic, target_critic, value, state.step + 1), info

    def policy(self, state: State, obs: Array, key: Key, greedy: bool = False) -> Array:
        pi = state.actor(obs)
        return pi.mode() if greedy else pi.sample(key)
