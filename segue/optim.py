"""One step of gradient descent, and slowly following targets.

A state keeps Adam's moments only; the learning rate is an argument of the step. So a pre-trained state fits any later
learner whatever its schedule is, and a schedule belongs to its phase.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from segue.types import Metrics, Trained

ADAM = optax.scale_by_adam()  # beta 0.9 and 0.999, eps 1e-8; one leaf at a time (flattened is 3 to 10 times slower)
T = TypeVar("T")


def trained(net: T) -> Trained[T]:
    """`net` with fresh moments."""
    return Trained(net, ADAM.init(net))  # type: ignore[arg-type]


def descend(
    lr: float | Array, state: Trained[T], loss: Callable[[T], tuple[Array, Metrics]]
) -> tuple[Trained[T], Metrics]:
    """One Adam step on ``loss(net) -> (scalar, metrics)``; returns the new net and the metrics before the step."""
    grads, metrics = jax.grad(loss, has_aux=True)(state.net)
    steps, opt = ADAM.update(grads, state.opt)
    net = jax.tree.map(lambda p, u: p - lr * u, state.net, steps)
    return Trained(net, opt), metrics


def polyak(rate: float, net: T, target: T) -> T:
    """``rate * net + (1 - rate) * target``, leaf by leaf."""
    return jax.tree.map(lambda p, t: rate * p + (1 - rate) * t, net, target)


def cosine(step: Array, total: int) -> Array:
    """Factor from 1 at step 0 to 0 at `total`, and 0 after it."""
    return 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(step / total, 1.0)))
