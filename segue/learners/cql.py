"""Conservative Q-learning, calibrated or not.  Kumar et al., NeurIPS 2020, arXiv:2006.04779; 2303.05479 (Cal-QL).

    L_π  = E[ α log π(a|s) - improve_j Q_j(s,a) ],  a ~ π(s)                                              (1)
    L_α  = log α (H(π) - H̄)                                                                               (2)
    y    = r + γ max_i backup_j Q̂_j(s',a'_i),  a'_1..a'_n ~ π(s');  less α log π by `backup_entropy`      (3)
    Q̃_j  = max(Q_j(s,a_i), bound_i),  N actions each of U[-1,1], of π(s) and of π(s'), all at s           (4)
    gap_j = T log Σ_i exp((Q̃_j(s,a_i) - log p_i) / T) - Q_j(s,a),  p_i the density that a_i is from       (5)
    L_Q  = Σ_j E[ (Q_j(s,a) - y)² + α' w W (gap_j - τ) ]                                                  (6)
    L_α' = -α' w E[ W (mean_j gap_j - τ) ]                                                                (7)

Values of actions outside the data are pushed down, the data's up. τ = None fixes the weight: α' = 1, τ = 0. Without
`importance` log p is 0 in (5), the data's action joins the others. Cal-QL: the bound in (4) is the return-to-go, up to
any cut (no lower bound there); CQL: -inf. W is 0 in APL's greedy batches, else 1. All losses use old parameters.

Departures: the log-deviation is not scaled; rows of the open episode are drawn too, from the first on, unbounded.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Int

from segue import losses, nets
from segue.errors import within
from segue.optim import descend, polyak, trained
from segue.types import Batch, Key, Learner, Metrics, Module, Spec, Trained, split


class State(Module):
    actor: Trained[nets.Actor]
    critic: Trained[nets.Critic]
    target_critic: nets.Critic
    log_alpha: Trained[Array]
    log_dual: Trained[Array]  # log α'; stands still where the weight is fixed
    step: Int[Array, ""]  # updates in this phase


@dataclass(frozen=True)
class CQL(Learner):
    weight: float = 5.0  # w
    gap: float | None = None  # τ, the distance that α' is fitted to; None: the weight is fixed
    bound: losses.Bound = losses.Unbounded()  # ReturnBound(): Cal-QL
    samples: int = 10  # N, actions of each of the three kinds
    importance: bool = True  # whether sampled values are divided by their density
    temperature: float = 1.0  # T
    backup_samples: int = 1  # n, next actions of which the best is backed up
    backup_entropy: bool = False  # whether α log π enters y
    n_critics: int = 2
    backup: losses.Aggregation = losses.Min()
    improve: losses.Aggregation = losses.Min()
    clone_steps: int = 0  # updates in which the policy clones the data instead of improving on Q
    entropy_per_action: float = -1.0  # H̄ = this times the number of action dimensions
    discount: float = 0.99  # γ
    target_rate: float = 0.005
    lr: float = 3e-4  # of the critics and of α'
    actor_lr: float = 1e-4  # of the policy and of α
    layer_norm: bool = False  # of the critics
    hidden: tuple[int, ...] = (256, 256)
    critic_hidden: tuple[int, ...] = (256, 256)

    def __post_init__(self) -> None:
        within(self, weight="[0, inf)", gap="(-inf, inf)", samples="[1, inf)", temperature="(0, inf)")
        within(self, backup_samples="[1, inf)", n_critics="[1, inf)", clone_steps="[0, inf)", discount="[0, 1]")
        within(self, entropy_per_action="(-inf, inf)", target_rate="(0, 1]", lr="(0, inf)", actor_lr="(0, inf)")
        within(self, hidden="[1, inf)", critic_hidden="[1, inf)")
        losses.check_members("CQL", self.n_critics, self.backup, self.improve)

    @property
    def held(self) -> tuple[str, ...]:
        return ("log_dual",) if self.gap is None else ()

    def init(self, key: Key, spec: Spec) -> State:
        k_pi, k_q = split(key)
        critic = nets.critic(k_q, spec, self.critic_hidden, self.n_critics, self.layer_norm, head_gain=1e-2)
        actor, zero = trained(nets.actor(k_pi, spec, self.hidden, "squashed")), jnp.zeros(())
        return State(actor, trained(critic), critic, trained(zero), trained(zero + 1), jnp.zeros((), jnp.int32))

    def update(self, state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        s, a, r, s_next, terminal = batch.transition
        k_pi, k_improve, k_next, k_backup, k_here, k_after, k_uniform = split(key, 7)
        alpha, n, w = jnp.exp(state.log_alpha.net), self.samples, self.weight

        def improvement(pi: nets.Actor) -> losses.Loss:
            a_pi, log_prob = (dist := pi(s)).sample_and_log_prob(k_pi)
            goal = self.improve(state.critic(s, a_pi), k_improve)
            if self.clone_steps:
                goal = jnp.where(state.step < self.clone_steps, dist.log_prob(a), goal)
            return losses.soft_policy(log_prob, goal, alpha)  # (1)

        actor, p = descend(self.actor_lr, state.actor, improvement)
        entropy = lambda x: losses.log_temperature(x, -p["actor/entropy"], self.entropy_per_action * a.shape[-1])
        log_alpha, t = descend(self.actor_lr, state.log_alpha, entropy)  # (2)

        here, after = state.actor(s), state.actor(s_next)
        a_next, log_next = nets.samples(after, k_next, self.backup_samples)
        q_next = nets.aggregated(self.backup, state.target_critic, k_backup, s_next, a_next)
        q_next, log_next = losses.best_sample(q_next, log_next)  # [B], or [E, B] by `backup`
        target = r + self.discount * (1 - terminal) * (q_next - self.backup_entropy * alpha * log_next)  # (3)

        (own, log_own), (ahead, log_ahead) = nets.samples(here, k_here, n), nets.samples(after, k_after, n)
        uniform, log_uniform = nets.uniform_samples(k_uniform, own)
        actions = jnp.concatenate([a[None], uniform, own, ahead])  # [1 + 3N, B, A], the data's first
        log_density = jnp.concatenate([log_uniform, log_own, log_ahead])  # [3N, B]
        weight = w if self.gap is None else w * losses.dual(state.log_dual.net)

        def regression(Q: nets.Critic, *rows: Array) -> losses.Loss:
            s, actions, log_p, floor, y, W = rows
            all_q = Q(nets.repeated(s, 3 * n + 1), actions)  # [E, 1 + 3N, B]
            q, sampled = all_q[:, 0], jnp.maximum(all_q[:, 1:], floor)  # (4)
            if not self.importance:
                sampled, log_p = jnp.concatenate([q[:, None], sampled], 1), jnp.zeros((3 * n + 1, 1))
            soft_max = losses.soft_maximum(sampled, log_p, self.temperature)  # (5)
            error, c = losses.td(q, y)
            penalty, more = losses.conservative(soft_max, q, weight, self.gap or 0.0, W)
            return error + penalty, c | more | {"critic/bounded": (all_q[:, 1:] < floor).mean()}  # (6)

        rows = (s, actions, log_density, jnp.repeat(self.bound(batch.mc_return), n, 0), target, batch.weight)
        critic, c = descend(self.lr, state.critic, regression, *rows, axes=(0, 1, 1, 1, -1, 0))
        log_dual, d = state.log_dual, {}
        if self.gap is not None:  # (7)
            log_dual, d = descend(self.lr, log_dual, lambda x: losses.gap_constraint(x, c["critic/excess"], w))

        target_critic = polyak(self.target_rate, critic.net, state.target_critic)
        return State(actor, critic, target_critic, log_alpha, log_dual, state.step + 1), p | t | c | d

    def policy(self, state: State, obs: Array, key: Key, greedy: bool = False) -> Array:
        pi = state.actor(obs)
        return pi.mode() if greedy else pi.sample(key)
