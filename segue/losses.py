"""Equations on arrays ``[B]`` (critics ``[E, B]``). A loss returns ``(scalar, metrics)`` and knows no network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from segue.errors import ConfigError, within
from segue.types import Key, Metrics

Loss = tuple[Float[Array, ""], Metrics]


def td(q: Float[Array, "E B"], target: Float[Array, "#E B"] | Float[Array, " B"]) -> Loss:
    """Squared error of every member to its target, summed over members, averaged over the batch."""
    error = q - jax.lax.stop_gradient(target)
    return (error**2).mean(-1).sum(), {"critic/td": (error**2).mean(), "critic/q": q.mean()}


def expectile(u: Float[Array, " B"], tau: float) -> Loss:
    """Expectile regression, mean of |tau - 1{u < 0}| u^2 (Kostrikov et al. 2022, eq. 5)."""
    weight = jnp.where(u < 0, 1 - tau, tau)
    return (weight * u**2).mean(), {"value/expectile": (weight * u**2).mean()}


def awr(log_prob: Float[Array, " B"], advantage: Float[Array, " B"], beta: float, limit: float = 100.0) -> Loss:
    """Advantage-weighted log-likelihood; the weight min(exp(beta A), limit) carries no gradient."""
    weight = jax.lax.stop_gradient(jnp.minimum(jnp.exp(beta * advantage), limit))
    loss = -(weight * log_prob).mean()
    return loss, {"actor/awr": loss, "actor/weight": weight.mean(), "actor/log_prob": log_prob.mean()}


def bc(log_prob: Float[Array, " B"]) -> Loss:
    """Negative log-likelihood of the data's actions."""
    return -log_prob.mean(), {"actor/nll": -log_prob.mean()}


def soft_policy(log_prob: Float[Array, " B"], q: Float[Array, " B"], alpha: Array) -> Loss:
    """Soft policy improvement, mean of alpha log pi - Q (Haarnoja et al. 2018, eq. 7)."""
    alpha = jax.lax.stop_gradient(alpha)
    loss = (alpha * log_prob - q).mean()
    return loss, {"actor/loss": loss, "actor/entropy": -log_prob.mean()}


def temperature(log_alpha: Array, log_prob: Float[Array, "*B"], target_entropy: float) -> Loss:
    """Entropy constraint, alpha (H - H_target), H detached (Haarnoja et al. 2018b, eq. 18)."""
    entropy = -jax.lax.stop_gradient(log_prob).mean()
    alpha = jnp.exp(log_alpha)
    return alpha * (entropy - target_entropy), {"actor/alpha": alpha}


def gaussian_nll(
    mean: Float[Array, "E B D"],
    log_var: Float[Array, "E B D"],
    target: Float[Array, "E B D"],
    weight: Float[Array, "E B"],
) -> Loss:
    """Negative log-likelihood of a Gaussian without its constant, times 2, as models of dynamics are fitted by it.

    Mean over entries and rows (by `weight`), sum over members (Janner et al. 2019, arXiv:1906.08253, released code).
    """
    row = ((mean - target) ** 2 * jnp.exp(-log_var) + log_var).mean(-1)  # [E, B]
    member = (row * weight).sum(-1) / jnp.maximum(weight.sum(-1), 1)  # [E]
    return member.sum(), {"model/nll": member.mean()}


def binary(logit: Float[Array, " B"], label: Float[Array, " B"], weight: Float[Array, " B"]) -> Float[Array, ""]:
    """Cross-entropy of a logit and a label in {0, 1}, mean over rows by `weight`."""
    row = jax.nn.softplus(logit) - label * logit
    return (row * weight).sum() / jnp.maximum(weight.sum(), 1)


def density_ratio(offline: Float[Array, " N"], online: Float[Array, " B"]) -> Loss:
    """E_off[log((w + 1) / 2)] - E_on[log(2w / (w + 1))], least at w = d_on / d_off (Lee et al. 2021, released code).

    Its negative is a lower bound of twice the Jensen-Shannon divergence of the two densities.
    """
    loss = jnp.log((offline + 1) / 2).mean() - jnp.log(2 * online / (online + 1) + 1e-10).mean()
    return loss, {"replay/divergence": -loss, "replay/ratio": online.mean()}


def tempered_ratio(
    w: Float[Array, " B"], offline: Float[Array, " N"], temperature: float, limit: float = 1e3
) -> Float[Array, " B"]:
    """w^(1/T) by the mean of its values `offline`, within 1 / `limit` and `limit` (Lee et al. 2021, released code)."""
    scale = (offline ** (1 / temperature)).mean() + 1e-10
    return jnp.clip(w ** (1 / temperature) / scale, 1 / limit, limit)


# ----------------------------------------------------------------------------------------------- windows, with padding


def mean_of_valid(x: Float[Array, "B K"], valid: Float[Array, "B K"]) -> Float[Array, ""]:
    """Mean over the entries that are no padding; 0 where all are."""
    return (x * valid).sum() / jnp.maximum(valid.sum(), 1)


def action_error(action: Float[Array, "B K A"], data: Float[Array, "B K A"], valid: Float[Array, "B K"]) -> Loss:
    """Squared error to the data's actions, averaged over action dimensions and valid entries (Chen et al. 2021)."""
    error = mean_of_valid(((action - data) ** 2).mean(-1), valid)
    return error, {"actor/error": error}


def entropy_regularised(
    log_prob: Float[Array, "B K"], own_log_prob: Float[Array, "B K"], weight: Array, valid: Float[Array, "B K"]
) -> Loss:
    """-(mean log pi(a) + weight H) over valid entries, H by the policy's own samples (Zheng et al. 2022)."""
    nll, entropy = -mean_of_valid(log_prob, valid), -mean_of_valid(own_log_prob, valid)
    loss = nll - jax.lax.stop_gradient(weight) * entropy
    return loss, {"actor/loss": loss, "actor/nll": nll, "actor/entropy": entropy}


# ------------------------------------------------------------------------------------------------- conservative values

DUAL_LIMIT = 1e6  # a dual variable is held below it


def log_temperature(log_alpha: Array, log_prob: Float[Array, "*B"], target_entropy: float) -> Loss:
    """Entropy constraint on the logarithm, log alpha (H - H_target), H detached (CQL's released code)."""
    entropy = -jax.lax.stop_gradient(log_prob).mean()
    return log_alpha * (entropy - target_entropy), {"actor/alpha": jnp.exp(log_alpha)}


def soft_maximum(
    q: Float[Array, "*E N B"], log_density: Float[Array, "#N #B"], temperature: float = 1.0
) -> Float[Array, "*E B"]:
    """T log sum_n exp((Q(s, a_n) - log p(a_n)) / T) over sampled actions (Kumar et al. 2020, app. F)."""
    log_density = jax.lax.stop_gradient(log_density)
    return temperature * jax.nn.logsumexp((q - log_density) / temperature, axis=-2)


def conservative(
    soft_max: Float[Array, "E B"],
    q: Float[Array, "E B"],
    weight: float | Array,
    threshold: float = 0.0,
    row_weight: Float[Array, " B"] | float = 1.0,
) -> Loss:
    """weight times the mean of W (soft maximum - Q(s, a) - threshold), summed over members (Kumar et al. 2020, eq. 4).

    `row_weight` is W of Zheng et al. 2023 (arXiv:2303.07693): 0 for rows that are learnt from without pessimism.
    """
    gap = soft_max - q
    excess = (row_weight * (gap - threshold)).mean(-1)  # [E]
    loss = (jax.lax.stop_gradient(weight) * excess).sum()
    return loss, {"critic/penalty": loss / len(q), "critic/gap": gap.mean(), "critic/excess": excess.mean()}


def dual(log_dual: Array) -> Array:
    """The dual variable from its logarithm."""
    return jnp.minimum(jnp.exp(log_dual), DUAL_LIMIT)


def gap_constraint(log_dual: Array, excess: Array, weight: float) -> Loss:
    """-alpha' weight times the excess of `conservative`, detached: alpha' grows while the gap is too wide (app. F)."""
    value = dual(log_dual)
    return -value * weight * jax.lax.stop_gradient(excess), {"critic/dual": value}


def best_sample(q: Float[Array, "*E n B"], log_prob: Float[Array, "n B"]) -> tuple[Array, Array]:
    """The largest of n sampled values and the log-probability of its action, ``[*E, B]`` each."""
    best = q.argmax(-2, keepdims=True)
    pick = lambda x: jnp.take_along_axis(jnp.broadcast_to(x, q.shape), best, -2).squeeze(-2)
    return pick(q), pick(log_prob)


class Bound(Protocol):
    """Lower bounds of the values pushed down: of uniform actions, the policy's, and its actions at the next state."""

    def __call__(self, mc_return: Float[Array, " B"]) -> Float[Array, "3 B"]: ...


@dataclass(frozen=True)
class Unbounded:
    """No bound (CQL)."""

    def __call__(self, mc_return: Array) -> Array:
        return jnp.full((3, *mc_return.shape), -jnp.inf, mc_return.dtype)


@dataclass(frozen=True)
class ReturnBound:
    """The return-to-go of the row (Cal-QL); -inf, where it is unknown, bounds nothing."""

    uniform: bool = False  # uniform actions too (Sobol Mark et al. 2023, app. B.3)

    def __call__(self, mc_return: Array) -> Array:
        uniform = mc_return if self.uniform else jnp.full_like(mc_return, -jnp.inf)
        return jnp.stack([uniform, mc_return, mc_return])


# -------------------------------------------------------------------------------------------------------- aggregations


@runtime_checkable
class Aggregation(Protocol):
    """From all members ``[E, B]`` to what is backed up or improved: ``[B]``, or ``[E, B]`` for one value per member."""

    def __call__(self, q: Float[Array, "E B"], key: Key) -> Float[Array, "*E B"]: ...


@dataclass(frozen=True)
class Min:
    """The smallest member."""

    def __call__(self, q: Array, key: Key) -> Array:
        return q.min(0)


@dataclass(frozen=True)
class RandomMin:
    """The smallest of `m` members, drawn without replacement for the whole batch (REDQ)."""

    m: int = 2

    def __post_init__(self) -> None:
        within(self, m="[1, inf)")

    def drawn(self, members: int, key: Key) -> Int[Array, " m"]:
        """Which of so many members. Raises `ConfigError` where there are fewer than `m`."""
        if self.m > members:
            raise ConfigError(f"RandomMin(m={self.m}) of {members} critics: m lies in 1..{members}")
        return jax.random.permutation(key, members)[: self.m]

    def __call__(self, q: Array, key: Key) -> Array:
        return q[self.drawn(q.shape[0], key)].min(0)


@dataclass(frozen=True)
class Mean:
    """The mean of all members."""

    def __call__(self, q: Array, key: Key) -> Array:
        return q.mean(0)


def _deviation(q: Array) -> Array:
    """Standard deviation over members (ddof 0); its gradient is 0 where they agree."""
    variance = q.var(0)
    return jnp.sqrt(jnp.where(variance > 0, variance, 1.0)) * (variance > 0)


@dataclass(frozen=True)
class MeanMinusStd:
    """Mean minus `beta` standard deviations (ddof 0; UPQ)."""

    beta: float = 1.0

    def __post_init__(self) -> None:
        within(self, beta="(-inf, inf)")

    def __call__(self, q: Array, key: Key) -> Array:
        return q.mean(0) - self.beta * _deviation(q)


@dataclass(frozen=True)
class First:
    """Member 0 (TD3's actor)."""

    def __call__(self, q: Array, key: Key) -> Array:
        return q[0]


def _pair_min(q: Array) -> Array:
    if q.shape[0] % 2:
        raise ConfigError(f"pairs need an even number of critics, not {q.shape[0]}")
    return q.reshape(-1, 2, *q.shape[1:]).min(1)  # [E / 2, B]


@dataclass(frozen=True)
class OwnPairMin:
    """Each pair of neighbours its own minimum, given to both (Off2OnRL's backup)."""

    def __call__(self, q: Array, key: Key) -> Array:
        return jnp.repeat(_pair_min(q), 2, axis=0)


@dataclass(frozen=True)
class MeanOfPairMinMinusStd:
    """Of the pairs' minima the mean minus `beta` standard deviations (ddof 0; UPQ over members of two heads)."""

    beta: float = 0.001

    def __post_init__(self) -> None:
        within(self, beta="(-inf, inf)")

    def __call__(self, q: Array, key: Key) -> Array:
        return MeanMinusStd(self.beta)(_pair_min(q), key)


@dataclass(frozen=True)
class MeanOfPairMin:
    """The mean over pairs of the pair's minimum (Off2OnRL's actor)."""

    def __call__(self, q: Array, key: Key) -> Array:
        return _pair_min(q).mean(0)


def check_members(owner: str, members: int, backup: Aggregation, improve: Aggregation) -> None:
    """That both aggregations serve so many critics, and that one value is improved.

    By shapes, so that a learner is refused when it is made. Raises `ConfigError` naming `owner` and the field.
    """
    for field, aggregation in (("backup", backup), ("improve", improve)):
        try:
            shape = _shape_of(aggregation, members)
        except ConfigError as error:
            raise ConfigError(f"{owner}.{field}: {error}") from error
        if field == "improve" and shape != (1,):
            raise ConfigError(
                f"{owner}.improve makes one value of all critics, which {aggregation} does not; use Mean()"
            )


def _shape_of(aggregation: Aggregation, members: int) -> tuple[int, ...]:
    return jax.eval_shape(lambda: aggregation(jnp.zeros((members, 1)), jax.random.key(0))).shape
