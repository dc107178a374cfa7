"""Equations on arrays ``[B]`` (critics ``[E, B]``). A loss returns ``(scalar, metrics)`` and knows no network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

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


# -------------------------------------------------------------------------------------------------------- aggregations


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

    def __call__(self, q: Array, key: Key) -> Array:
        if self.m > q.shape[0]:
            raise ConfigError(f"RandomMin(m={self.m}) of {q.shape[0]} critics: m lies in 1..{q.shape[0]}")
        return q[jax.random.permutation(key, q.shape[0])[: self.m]].min(0)


@dataclass(frozen=True)
class Mean:
    """The mean of all members."""

    def __call__(self, q: Array, key: Key) -> Array:
        return q.mean(0)


@dataclass(frozen=True)
class MeanMinusStd:
    """Mean minus `beta` standard deviations (ddof 0; UPQ)."""

    beta: float = 1.0

    def __post_init__(self) -> None:
        within(self, beta="(-inf, inf)")

    def __call__(self, q: Array, key: Key) -> Array:
        return q.mean(0) - self.beta * q.std(0)


@dataclass(frozen=True)
class First:
    """Member 0 (TD3's actor)."""

    def __call__(self, q: Array, key: Key) -> Array:
        return q[0]


@dataclass(frozen=True)
class Own:
    """Each member its own value."""

    def __call__(self, q: Array, key: Key) -> Array:
        return q


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
class MeanOfPairMin:
    """The mean over pairs of the pair's minimum (Off2OnRL's actor)."""

    def __call__(self, q: Array, key: Key) -> Array:
        return _pair_min(q).mean(0)
