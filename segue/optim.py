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
AS_IT_IS = optax.identity()
T = TypeVar("T")


def trained(net: T) -> Trained[T]:
    """`net` with fresh moments."""
    return Trained(net, ADAM.init(net))  # type: ignore[arg-type]


def descend(
    lr: float | Array,
    state: Trained[T],
    loss: Callable[[T], tuple[Array, Metrics]],
    *,
    clip: float | None = None,
    after: optax.GradientTransformation = AS_IT_IS,
) -> tuple[Trained[T], Metrics]:
    """One Adam step on ``loss(net) -> (scalar, metrics)``; returns the new net and the metrics before the step.

    The gradient's norm over all leaves is held below `clip`; `after` (`adamw`, `lamb`) shapes Adam's step and keeps no
    state.
    """
    grads, metrics = jax.grad(loss, has_aux=True)(state.net)
    if clip is not None:
        factor = jnp.minimum(1.0, clip / (optax.tree.norm(grads) + 1e-6))
        grads = jax.tree.map(lambda g: g * factor.astype(g.dtype), grads)
    steps, opt = ADAM.update(grads, state.opt)
    steps, _ = after.update(steps, after.init(state.net), state.net)  # type: ignore[arg-type]
    net = jax.tree.map(lambda p, u: p - lr * u, state.net, steps)
    return Trained(net, opt), metrics


def adamw(decay: float) -> optax.GradientTransformation:
    """AdamW: every parameter also decays by ``lr * decay`` of itself (Loshchilov & Hutter 2019)."""
    return optax.add_decayed_weights(decay)


def lamb(decay: float) -> optax.GradientTransformation:
    """LAMB: AdamW's step of a leaf, rescaled to the leaf's own norm (You et al. 2020, alg. 2)."""
    return optax.chain(optax.add_decayed_weights(decay), optax.scale_by_trust_ratio())


def warmup(state: Trained[T], steps: int) -> Array:
    """Factor from ``1 / steps`` to 1 over an optimiser's first `steps` steps. Its moments count them: carried over a
    boundary they are warm, drawn anew they are cold."""
    return jnp.minimum((state.opt.count + 1) / steps, 1.0)


def polyak(rate: float, net: T, target: T) -> T:
    """``rate * net + (1 - rate) * target``, leaf by leaf."""
    return jax.tree.map(lambda p, t: rate * p + (1 - rate) * t, net, target)


def cosine(step: Array, total: int) -> Array:
    """Factor from 1 at step 0 to 0 at `total`, and 0 after it."""
    return 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(step / total, 1.0)))
