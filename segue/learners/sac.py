"""Soft actor-critic.  Haarnoja et al., ICML 2018, arXiv:1801.01290, and 2018b, arXiv:1812.05905.

    y   = r + γ (backup_j Q̂_j(s',a') - α log π(a'|s')),  a' ~ π(s')  (2018b, eq. 6)
    L_Q = Σ_j E[ (Q_j(s,a) - y)² ]                                  (2018b, eq. 5)
    L_π = E[ α log π(a|s) - improve_j Q_j(s,a) ],  a ~ π(s)         (2018b, eq. 7)
    L_α = E[ α (H(π) - H̄) ]                                         (2018b, eq. 18)

Which members count, in the target (`backup`) and for the policy (`improve`), is an aggregation of `segue.losses`: with
two critics and `Min` this is SAC; larger ensembles, random subsets and several critic steps per policy step make half
the field. `critic_updates` critic steps on consecutive slices of one batch come before one step of π and α.

    REDQ  Chen et al., ICLR 2021, arXiv:2101.05982: 10 critics, the smallest of 2 drawn ones backed up, the mean of all
          improved, 20 critic steps per policy step; π by the critics from before their last step, α by its logarithm
    RLPD  Ball et al., ICML 2023, arXiv:2302.02948: the same with LayerNorm, π by the critics after their last step,
          and half of every slice from the dataset
    UPQ   mean less β standard deviations backed up (`MeanOfPairMinMinusStd`)

Departures: the order critics, targets, π, α is that of jaxrl and RLPD; the first policy lies near the box's middle;
weights are orthogonal, REDQ's and RLPD's Xavier; α starts at 1, in REDQ's code at 0.2 for the very first update;
the density of tanh is exact, REDQ's code adds 1e-6 under its logarithm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from segue import losses, nets
from segue.errors import within
from segue.optim import descend, polyak, trained
from segue.types import Batch, Key, Learner, Metrics, Module, Spec, Trained, split


class State(Module):
    actor: Trained[nets.Actor]
    critic: Trained[nets.Critic]
    target_critic: nets.Critic
    log_alpha: Trained[Array]


@dataclass(frozen=True)
class SAC(Learner):
    n_actors: int = 1  # Gaussians whose mean and variance π has (Off2OnRL)
    n_critics: int = 2
    backup: losses.Aggregation = losses.Min()
    improve: losses.Aggregation = losses.Min()
    critic_updates: int = 1  # critic steps per policy step, each on its own slice of the batch
    lagged_critic: bool = False  # True: π learns by the critics from before their last step (REDQ's order)
    backup_entropy: bool = True  # whether α log π enters y
    entropy_per_action: float = -1.0  # H̄ = this times the number of action dimensions; RLPD -0.5
    entropy_by_log: bool = False  # True: L_α = log α (H(π) - H̄) (REDQ's code)
    discount: float = 0.99  # γ
    target_rate: float = 0.005
    lr: float = 3e-4
    layer_norm: bool = False  # of the critics
    hidden: tuple[int, ...] = (256, 256)
    critic_hidden: tuple[int, ...] | None = None  # None: as `hidden`

    def __post_init__(self) -> None:
        within(self, n_actors="[1, inf)", n_critics="[1, inf)", critic_updates="[1, inf)")
        within(self, entropy_per_action="(-inf, inf)", discount="[0, 1]", target_rate="(0, 1]", lr="(0, inf)")
        within(self, hidden="[1, inf)", critic_hidden="[1, inf)")
        losses.check_members("SAC", self.n_critics, self.backup, self.improve)

    @property
    def slices(self) -> int:
        return self.critic_updates

    def init(self, key: Key, spec: Spec) -> State:
        k_pi, k_q = split(key)
        hidden = self.hidden if self.critic_hidden is None else self.critic_hidden
        critic = nets.critic(k_q, spec, hidden, self.n_critics, self.layer_norm)
        return State(
            actor=trained(nets.actor(k_pi, spec, self.hidden, "squashed", members=self.n_actors)),
            critic=trained(critic),
            target_critic=critic,
            log_alpha=trained(jnp.zeros(())),
        )

    def update(self, state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        k_q, k_pi, k_improve = split(key, 3)
        alpha = jnp.exp(state.log_alpha.net)

        def critic_step(carry: tuple, slice_: tuple[Batch, Key]) -> tuple[tuple, Metrics]:
            (critic, target_critic, _), (batch, key) = carry, slice_
            s, a, r, s_next, terminal = batch.transition
            k_sample, k_backup = split(key)
            a_next, log_prob = state.actor(s_next).sample_and_log_prob(k_sample)
            q_next = nets.aggregated(self.backup, target_critic, k_backup, s_next, a_next)  # [B] or [E, B]
            if self.backup_entropy:
                q_next = q_next - alpha * log_prob
            target = r + self.discount * (1 - terminal) * q_next
            new, info = descend(self.lr, critic, lambda Q: losses.td(Q(s, a), target))
            judge = critic.net if self.lagged_critic else ()
            return (new, polyak(self.target_rate, new.net, target_critic), judge), info

        judge: Any = state.critic.net if self.lagged_critic else ()
        carry, (last, c) = (state.critic, state.target_critic, judge), (batch, {})
        if self.critic_updates == 1:
            carry, c = critic_step(carry, (batch, k_q))
        else:
            slices = jax.tree.map(lambda x: x.reshape(self.critic_updates, -1, *x.shape[1:]), batch)
            carry, c = jax.lax.scan(critic_step, carry, (slices, jax.random.split(k_q, self.critic_updates)))
            last, c = jax.tree.map(lambda x: x[-1], slices), jax.tree.map(jnp.mean, c)
        critic, target_critic, judge = carry
        Q_pi = judge if self.lagged_critic else critic

        def improvement(pi: nets.Actor) -> losses.Loss:
            a, log_prob = pi(last.obs).sample_and_log_prob(k_pi)
            return losses.soft_policy(log_prob, self.improve(Q_pi(last.obs, a), k_improve), alpha)

        actor, p = descend(self.lr, state.actor, improvement)

        entropy = losses.log_temperature if self.entropy_by_log else losses.temperature
        target_entropy = self.entropy_per_action * batch.action.shape[-1]
        log_alpha, t = descend(self.lr, state.log_alpha, lambda x: entropy(x, -p["actor/entropy"], target_entropy))
        return State(actor, critic, target_critic, log_alpha), c | p | t

    def policy(self, state: State, obs: Array, key: Key, greedy: bool = False) -> Array:
        pi = state.actor(obs)
        return pi.mode() if greedy else pi.sample(key)
