"""One step of gradient descent, and slowly following targets.

A state keeps Adam's moments only; the learning rate is an argument of the step. So a pre-trained state fits any later
learner whatever its schedule is, and a schedule belongs to its phase.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from segue.types import Metrics, Trained

ADAM = optax.scale_by_adam()  # beta 0.9 and 0.999, eps 1e-8; one leaf at a time (flattened is 3 to 10 times slower)
AS_IT_IS = optax.identity()
CHUNKS = 8  # parts of a batch on a CPU: 32 rows of 31 actions each stay in its cache
T = TypeVar("T")


def trained(net: T) -> Trained[T]:
    """`net` with fresh moments."""
    return Trained(net, ADAM.init(net))  # type: ignore[arg-type]


def descend(
    lr: float | Array,
    state: Trained[T],
    loss: Callable[..., tuple[Array, Metrics]],
    *rows: Array,
    axes: tuple[int, ...] = (),
    clip: float | None = None,
    after: optax.GradientTransformation = AS_IT_IS,
) -> tuple[Trained[T], Metrics]:
    """One Adam step on ``loss(net, *rows) -> (scalar, metrics)``; returns the new net and the metrics before the step.

    A loss over more rows than a cache holds gets them as arguments, and in `axes` where their batch axis lies (as for
    `jax.vmap`): its gradient is then the mean over `CHUNKS` parts of the batch, so it must be a mean over it, metrics
    and all. The gradient's norm over all leaves is held below `clip`; `after` (`adamw`, `lamb`) shapes Adam's step and
    keeps no state.
    """
    grads, metrics = _gradient(loss, state.net, rows, axes)
    if clip is not None:
        factor = jnp.minimum(1.0, clip / (optax.tree.norm(grads) + 1e-6))
        grads = jax.tree.map(lambda g: g * factor.astype(g.dtype), grads)
    steps, opt = ADAM.update(grads, state.opt)
    steps, _ = after.update(steps, after.init(state.net), state.net)  # type: ignore[arg-type]
    net = jax.tree.map(lambda p, u: p - lr * u, state.net, steps)
    return Trained(net, opt), metrics


def chunks(batch: int) -> int:
    """Equal parts in which a gradient over `batch` rows is computed: at most 8 on a CPU, 1 elsewhere."""
    return math.gcd(batch, CHUNKS) if jax.default_backend() == "cpu" else 1


def _gradient(
    loss: Callable[..., Any], net: Any, rows: tuple[Array, ...], axes: tuple[int, ...]
) -> tuple[Any, Metrics]:
    """Gradient and metrics of a mean over rows, part by part."""
    gradient = jax.grad(loss, has_aux=True)
    n = chunks(rows[0].shape[axes[0]]) if rows else 1
    if n == 1:
        return gradient(net, *rows)

    def parts(x: Array, axis: int) -> Array:  # [n, ...], the batch axis n times shorter
        axis %= x.ndim
        return jnp.moveaxis(x.reshape(*x.shape[:axis], n, -1, *x.shape[axis + 1 :]), axis, 0)

    def body(total: Any, part: tuple[Array, ...]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, gradient(net, *part)), None

    split = tuple(parts(x, axis) for x, axis in zip(rows, axes, strict=True))
    like = jax.eval_shape(gradient, net, *(x[0] for x in split))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    return jax.tree.map(lambda x: x / n, jax.lax.scan(body, zeros, split)[0])


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
