"""Networks and the distributions that actors return.

Every network takes inputs ``[..., features]`` with any leading axes. An ensemble is one network whose parameters carry
a first axis ``E``; a `Critic` always returns all its members, ``[E, ...]``.

On a CPU, multi-layer perceptrons use a gradient written by hand: the same mathematics as plain autodiff, arranged so
that XLA sends every product to its fast path (`gradients` switches it; tests hold the two forms equal).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.nn.initializers import orthogonal
from jaxtyping import Array, Float, Int

from segue import losses
from segue.errors import ConfigError
from segue.types import Key, Module, Spec, split

Head = Literal["gaussian", "squashed", "deterministic"]
StochasticHead = Literal["gaussian", "squashed"]
Activation = Literal["relu", "silu"]
LOG_2PI = 1.8378770664093453
ACTION_LIMIT = 1 - 1e-6  # data actions are held this far from the box before atanh

# ---------------------------------------------------------------------------------------------- multi-layer perceptron


class Layer(Module):
    weight: Float[Array, "*E i o"]
    bias: Float[Array, "*E o"]


class Norm(Module):
    """Layer normalisation's scale and shift."""

    scale: Float[Array, "*E o"]
    shift: Float[Array, "*E o"]


class Mlp(Module):
    """Hidden layers with one activation, linear head. `norms` is empty or holds one Norm per hidden layer (before it).

    `dropout` acts after each activation and only where a call brings a ``key``.
    """

    layers: tuple[Layer, ...]
    norms: tuple[Norm, ...] = ()
    dropout: float = eqx.field(static=True, default=0.0)
    activation: Activation = eqx.field(static=True, default="relu")

    def __call__(self, *inputs: Float[Array, "... _"], key: Key | None = None) -> Float[Array, ...]:
        """Inputs are concatenated along the last axis; an ensemble returns ``[E, ..., out]``."""
        lead = inputs[0].shape[:-1]
        flat = tuple(x.reshape(-1, x.shape[-1]) for x in inputs)  # [N, in]
        if self.dropout and key is not None:
            out = _forward(self, flat, _dropout(self, flat[0].shape[0], key))
        elif _fast() and flat[0].shape[0] > 1 and len(self.layers) > 1:
            out = _mlp(self, flat)
        else:
            out = _forward(self, flat)
        return out.reshape(*out.shape[:-2], *lead, out.shape[-1])


def mlp(
    key: Key,
    sizes: Sequence[int],
    *,
    members: int | None = None,
    layer_norm: bool = False,
    dropout: float = 0.0,
    head_gain: float = 1.0,
) -> Mlp:
    """Orthogonal weights (gain sqrt 2, `head_gain` for the last layer), zero biases; `members` stacks an ensemble."""
    if members is not None:
        make = partial(mlp, sizes=sizes, layer_norm=layer_norm, dropout=dropout, head_gain=head_gain)
        return jax.vmap(make)(jax.random.split(key, members))
    gains = [2**0.5] * (len(sizes) - 2) + [head_gain]
    shapes = itertools.pairwise(sizes)
    layers = tuple(
        Layer(orthogonal(g)(k, shape), jnp.zeros(shape[1]))
        for k, g, shape in zip(split(key, len(gains)), gains, shapes, strict=True)
    )
    norms = tuple(Norm(jnp.ones(n), jnp.zeros(n)) for n in sizes[1:-1]) if layer_norm else ()
    return Mlp(layers, norms, dropout)


def _dropout(net: Mlp, n: int, key: Key) -> list[Array]:
    keep = 1 - net.dropout
    keys = split(key, max(len(net.layers) - 1, 1))
    widths = [layer.weight.shape[-1] for layer in net.layers[:-1]]
    lead = net.layers[0].weight.shape[:-2]
    return [jax.random.bernoulli(k, keep, (*lead, n, w)) / keep for k, w in zip(keys, widths, strict=True)]


def _forward(net: Mlp, inputs: tuple[Array, ...], masks: Sequence[Array] = ()) -> Array:
    """Plain form, the reference of the fast one: ``[N, in] -> [*E, N, out]``."""
    h = jnp.concatenate(inputs, -1)
    for i, layer in enumerate(net.layers[:-1]):
        z = h @ layer.weight + _row(layer.bias)
        if net.norms:
            mean = z.mean(-1, keepdims=True)
            z = (z - mean) * lax.rsqrt(((z - mean) ** 2).mean(-1, keepdims=True) + NORM_EPS)
            z = z * _row(net.norms[i].scale) + _row(net.norms[i].shift)
        h = jax.nn.relu(z) if net.activation == "relu" else jax.nn.silu(z)
        if masks:
            h = h * masks[i]
    return h @ net.layers[-1].weight + _row(net.layers[-1].bias)


# -------------------------------------------------------------------------------------------------- fast gradient form

NORM_EPS = 1e-6
_FORM: list[Literal["auto", "fast", "plain"]] = ["auto"]


@contextmanager
def gradients(form: Literal["auto", "fast", "plain"]) -> Iterator[None]:
    """Trace networks with the fast or the plain gradient inside this block ("auto": fast on a CPU)."""
    _FORM.append(form)
    try:
        yield
    finally:
        _FORM.pop()


def _fast() -> bool:
    return _FORM[-1] == "fast" or (_FORM[-1] == "auto" and jax.default_backend() == "cpu")


def _row(b: Array) -> Array:
    return b[..., None, :]


def _swap(x: Array) -> Array:
    return jnp.swapaxes(x, -1, -2)


def _transposed(x: Array) -> Array:
    return lax.optimization_barrier(_swap(x))  # a real transpose: XLA's transposed-left products are slow


@jax.custom_vjp
def _mlp(net: Mlp, inputs: tuple[Array, ...]) -> Array:
    return _mlp_forward(net, inputs)[0]


def _mlp_forward(net: Mlp, inputs: tuple[Array, ...]) -> tuple[Array, tuple]:
    x = jnp.concatenate(inputs, -1)
    ensemble = net.layers[0].weight.shape[:-2]
    if ensemble:  # behind a barrier, else XLA makes one wide product and a transpose of it
        x = lax.optimization_barrier(jnp.broadcast_to(x, (*ensemble, *x.shape)))
    h, hidden, slopes, normed = x, [], [], []
    for i, layer in enumerate(net.layers[:-1]):
        z = h @ layer.weight + _row(layer.bias)
        if net.norms:
            width = z.shape[-1]
            column = jnp.full((width, 1), 1 / width, z.dtype)  # row means as products
            z = z - z @ column
            r = lax.rsqrt((z * z) @ column + NORM_EPS)  # of centred values: E[z^2] - E[z]^2 may round below zero
            n = z * r
            normed.append((n, r))
            z = n * _row(net.norms[i].scale) + _row(net.norms[i].shift)
        if net.activation == "relu":
            h = jnp.maximum(z, 0)
        else:
            gate = jax.nn.sigmoid(z)
            h = z * gate
            slopes.append(gate + h * (1 - gate))
        hidden.append(h)
    out = h @ net.layers[-1].weight + _row(net.layers[-1].bias)
    return out, (net, inputs, x, hidden, slopes, normed)


def _mlp_backward(residuals: tuple, g: Array) -> tuple[Mlp, tuple[Array, ...]]:
    net, inputs, x, hidden, slopes, normed = residuals
    ones = jnp.ones((1, g.shape[-2]), g.dtype)
    column_sum = lambda z: (ones @ z)[..., 0, :]

    head = net.layers[-1]
    if head.weight.shape[-1] == 1:
        weight, dh = _swap(_swap(g) @ hidden[-1]), g * _swap(head.weight)
    else:  # a narrow head: the barrier keeps XLA from the slow form
        weight, dh = _swap(lax.optimization_barrier(_transposed(g) @ hidden[-1])), g @ _swap(head.weight)
    layers, norms = [Layer(weight, g.sum(-2))], []

    x_t = _transposed(x)
    for i in reversed(range(len(net.layers) - 1)):
        dz = dh * slopes[i] if slopes else jnp.where(hidden[i] > 0, dh, 0)
        if net.norms:
            (n, r), scale = normed[i], net.norms[i].scale
            norms.append(Norm(column_sum(dz * n), column_sum(dz)))
            mean_scale = (scale / scale.shape[-1])[..., None]  # [*E, width, 1]
            dz = r * (dz * _row(scale) - dz @ mean_scale - n * ((dz * n) @ mean_scale))
        if i == 0:
            h_t = x_t
        elif i == 1 and not net.norms and not slopes:
            # the first layer again, already transposed: cheaper than a transpose
            first = net.layers[0]
            h_t = jnp.maximum(_transposed(first.weight) @ x_t + first.bias[..., None], 0)
        else:
            h_t = _transposed(hidden[i - 1])
        layers.append(Layer(h_t @ dz, column_sum(dz)))
        dh = dz @ _swap(net.layers[i].weight) if i else dz

    # one product per input, so that XLA removes those that nobody asks for (a critic's observation)
    edges = [0]
    for z in inputs:
        edges.append(edges[-1] + z.shape[-1])
    w = net.layers[0].weight
    d_inputs = tuple(dh @ _swap(w[..., a:b, :]) for a, b in itertools.pairwise(edges))
    if w.ndim == 3:
        d_inputs = tuple(d.sum(0) for d in d_inputs)
    return Mlp(tuple(layers[::-1]), tuple(norms[::-1]), net.dropout, net.activation), d_inputs


_mlp.defvjp(_mlp_forward, _mlp_backward)

# ---------------------------------------------------------------------------------------------------------- value nets


class Critic(Module):
    """Q(s, a): an ensemble of E members."""

    net: Mlp

    def __call__(self, obs: Float[Array, "*B obs"], action: Float[Array, "*B act"]) -> Float[Array, E * B]:  # type: ignore[valid-type]
        return self.net(obs, action)[..., 0]

    @property
    def size(self) -> int:
        """E."""
        return self.net.layers[-1].bias.shape[0]

    def members(self, which: Int[Array, " m"]) -> Critic:
        """The ensemble of these members alone."""
        return jax.tree.map(lambda x: x[which], self)


class Value(Module):
    """V(s)."""

    net: Mlp

    def __call__(self, obs: Float[Array, "*B obs"]) -> Float[Array, "*B"]:
        return self.net(obs)[..., 0]


def aggregated(aggregation: losses.Aggregation, critic: Critic, key: Key, s: Array, a: Array) -> Float[Array, "*E B"]:
    """``aggregation(critic(s, a), key)``, s repeated for several actions; of `RandomMin` the drawn members alone."""
    s = repeated(s, a.shape[0]) if a.ndim > s.ndim else s
    if isinstance(aggregation, losses.RandomMin):
        return critic.members(aggregation.drawn(critic.size, key))(s, a).min(0)
    return aggregation(critic(s, a), key)


def critic(
    key: Key, spec: Spec, hidden: Sequence[int], members: int = 2, layer_norm: bool = False, head_gain: float = 1.0
) -> Critic:
    sizes = (spec.obs_dim + spec.act_dim, *hidden, 1)
    return Critic(mlp(key, sizes, members=members, layer_norm=layer_norm, head_gain=head_gain))


def value(key: Key, spec: Spec, hidden: Sequence[int], layer_norm: bool = False) -> Value:
    return Value(mlp(key, (spec.obs_dim, *hidden, 1), layer_norm=layer_norm))


# ------------------------------------------------------------------------------------------------------- distributions


def normal_log_prob(x: Float[Array, "*B A"], mean: Array, std: Array) -> Float[Array, "*B"]:
    """Log-density of a diagonal Gaussian, summed over the last axis."""
    return (-0.5 * (((x - mean) / std) ** 2 + LOG_2PI) - jnp.log(std)).sum(-1)


@jax.custom_jvp
def log_det_tanh(u: Array) -> Array:
    """log(1 - tanh(u)^2) without cancellation."""
    magnitude = jnp.abs(u)
    return 2 * (jnp.log(2.0).astype(u.dtype) - magnitude - jnp.log1p(jnp.exp(-2 * magnitude)))


@log_det_tanh.defjvp
def _log_det_tanh_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (u,), (du,) = primals, tangents
    return log_det_tanh(u), -2 * jnp.tanh(u) * du


class Normal(Module):
    """Diagonal Gaussian over actions, not squashed: samples may leave the box (the environment's door clips them)."""

    mean: Float[Array, "*B A"]
    std: Float[Array, "*B A"]

    def mode(self) -> Array:
        return self.mean

    def sample(self, key: Key) -> Array:
        return self.mean + self.std * jax.random.normal(key, self.mean.shape, self.mean.dtype)

    def sample_and_log_prob(self, key: Key) -> tuple[Array, Array]:
        a = self.sample(key)
        return a, self.log_prob(a)

    def log_prob(self, action: Array) -> Float[Array, "*B"]:
        return normal_log_prob(action, self.mean, self.std)


class TanhNormal(Module):
    """Diagonal Gaussian through tanh; `mean` and `std` are those before the tanh."""

    mean: Float[Array, "*B A"]
    std: Float[Array, "*B A"]

    def mode(self) -> Array:
        return jnp.tanh(self.mean)

    def sample(self, key: Key) -> Array:
        return jnp.tanh(self.mean + self.std * jax.random.normal(key, self.mean.shape, self.mean.dtype))

    def sample_and_log_prob(self, key: Key) -> tuple[Array, Array]:
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        u = self.mean + self.std * noise
        log_prob = (-0.5 * (noise**2 + LOG_2PI) - jnp.log(self.std) - log_det_tanh(u)).sum(-1)
        return jnp.tanh(u), log_prob

    def log_prob(self, action: Array) -> Float[Array, "*B"]:
        u = jnp.arctanh(jnp.clip(action, -ACTION_LIMIT, ACTION_LIMIT))
        return normal_log_prob(u, self.mean, self.std) - log_det_tanh(u).sum(-1)


class Deterministic(Module):
    """A point mass."""

    action: Float[Array, "*B A"]

    def mode(self) -> Array:
        return self.action

    def sample(self, key: Key) -> Array:
        return self.action

    def sample_and_log_prob(self, key: Key) -> tuple[Array, Array]:
        raise TypeError("a deterministic actor has no log-probability")

    def log_prob(self, action: Array) -> Array:
        raise TypeError("a deterministic actor has no log-probability")


def repeated(x: Array, n: int) -> Array:
    """`n` times the same along a new first axis."""
    return jnp.broadcast_to(x, (n, *x.shape))


def samples(pi: TanhNormal, key: Key, n: int) -> tuple[Array, Array]:
    """`n` actions for each observation, ``[n, *B, A]``, and their log-probabilities, ``[n, *B]``."""
    return jax.tree.map(lambda x: repeated(x, n), pi).sample_and_log_prob(key)


def uniform_samples(key: Key, like: Float[Array, "*B A"]) -> tuple[Float[Array, "*B A"], Float[Array, "*B"]]:
    """Actions uniform in the box, as many as those of `like`, with their log-density."""
    a = jax.random.uniform(key, like.shape, like.dtype, -1, 1)
    return a, jnp.full_like(a[..., 0], -a.shape[-1] * math.log(2))


# -------------------------------------------------------------------------------------------------------------- actors


class GaussianActor(Module):
    """N(tanh(net(s)), std): tanh on the mean only, one free log-std per action dimension (IQL, AWAC)."""

    net: Mlp
    log_std: Float[Array, " A"]
    limits: tuple[float, float] = eqx.field(static=True, default=(-5.0, 2.0))

    def __call__(self, obs: Array, key: Key | None = None) -> Normal:
        mean = jnp.tanh(self.net(obs, key=key))
        return Normal(mean, jnp.broadcast_to(jnp.exp(jnp.clip(self.log_std, *self.limits)), mean.shape))


class SquashedActor(Module):
    """tanh N(mean(s), std(s)) (SAC)."""

    net: Mlp
    limits: tuple[float, float] = eqx.field(static=True, default=(-20.0, 2.0))

    def __call__(self, obs: Array, key: Key | None = None) -> TanhNormal:
        mean, log_std = jnp.split(self.net(obs, key=key), 2, -1)
        return TanhNormal(mean, jnp.exp(jnp.clip(log_std, *self.limits)))


class MixtureActor(Module):
    """tanh N(mean(s), std(s)) with the mean and variance of an equal mixture of N Gaussians, those before the tanh."""

    net: Mlp  # an ensemble of N
    limits: tuple[float, float] = eqx.field(static=True, default=(-20.0, 2.0))

    def __call__(self, obs: Array, key: Key | None = None) -> TanhNormal:
        mean, log_std = jnp.split(self.net(obs, key=key), 2, -1)  # [N, *B, A]
        centre = mean.mean(0)
        spread = (jnp.exp(2 * jnp.clip(log_std, *self.limits)) + (mean - centre) ** 2).mean(0)
        return TanhNormal(centre, jnp.minimum(jnp.sqrt(spread), math.exp(self.limits[1])))


class DeterministicActor(Module):
    """tanh(net(s)) (TD3)."""

    net: Mlp

    def __call__(self, obs: Array, key: Key | None = None) -> Deterministic:
        return Deterministic(jnp.tanh(self.net(obs, key=key)))


Actor = GaussianActor | SquashedActor | MixtureActor | DeterministicActor


def actor(key: Key, spec: Spec, hidden: Sequence[int], head: Head, dropout: float = 0.0, members: int = 1) -> Actor:
    """An actor whose first actions lie near the middle of the box; of several squashed `members` their mixture."""
    outputs = 2 * spec.act_dim if head == "squashed" else spec.act_dim
    sizes = (spec.obs_dim, *hidden, outputs)
    if members > 1:
        if head != "squashed":
            raise ConfigError(f"a mixture has squashed members, not {head!r} ones")
        return MixtureActor(mlp(key, sizes, members=members, dropout=dropout, head_gain=1e-2))
    net = mlp(key, sizes, dropout=dropout, head_gain=1e-2)
    if head == "squashed":
        return SquashedActor(net)
    if head == "gaussian":
        return GaussianActor(net, jnp.zeros(spec.act_dim))
    if head == "deterministic":
        return DeterministicActor(net)
    raise ConfigError(f"head must be 'gaussian', 'squashed' or 'deterministic', not {head!r}")
