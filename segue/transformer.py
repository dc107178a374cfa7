"""A causal transformer over trajectories, and the context that acting remembers.

    x_t = LN( W_R R_t + w_t ),  LN( W_s s_t + w_t ),  LN( W_a a_t + w_t )     three tokens a step; w_t embeds the time
    x ← x + W_o softmax( q kᵀ / √d + mask ) v,   q, k, v = W_qkv LN(x)
    x ← x + W_2 φ( W_1 LN(x) )                                               `layers` times

The mask is causal and hides padded steps: neither what follows nor padding reaches an output. A token always sees
itself, for the softmax of a padded one would otherwise be over nothing. What is decided at time t is read off the token
of s_t, which has seen R_t, s_t and every step before.

Products are between matrices, tokens of all windows one below the other: as batched products XLA transposes both
sides of a weight's gradient on a CPU, a fifth of the time of a whole update.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from segue.errors import ConfigError, within
from segue.nets import Layer, Norm
from segue.types import Batch, Key, Learner, Module, Spec, replace, split

Activation = Literal["gelu", "relu"]
NORM_EPS = 1e-5
WEIGHT_STD = 0.02  # of weights and the table of times at the start
LONGEST = 1000  # steps of an episode where the task has no time limit


class Block(Module):
    norm_1: Norm
    qkv: Layer  # query | key | value side by side, heads contiguous within each
    out: Layer
    norm_2: Norm
    up: Layer
    down: Layer


class Windows(Module):
    """Stretches of episodes as tokens want them: ``[B, K, ...]``."""

    return_to_go: Float[Array, "*B K"]  # in units of the network
    obs: Float[Array, "*B K obs"]
    action: Float[Array, "*B K act"]
    time: Float[Array, "*B K"]
    valid: Float[Array, "*B K"]


class Transformer(Module):
    times: Float[Array, "T embed"]  # learned embedding of the step in the episode; no rows: no word of time
    embed_return: Layer
    embed_obs: Layer
    embed_action: Layer
    norm_in: Norm
    blocks: tuple[Block, ...]
    norm_out: Norm
    heads: int = eqx.field(static=True)
    activation: Activation = eqx.field(static=True)
    dropout: float = eqx.field(static=True, default=0.0)  # of embeddings, attention and both branches

    def __call__(self, w: Windows, key: Key | None = None) -> Float[Array, "B K embed"]:
        """Outputs at the observations. Dropout acts only where a call brings a ``key``."""
        keys = iter(split(key, 1 + 3 * len(self.blocks)) if self.dropout and key is not None else ())
        drop = lambda x: x if (k := next(keys, None)) is None else _dropout(x, self.dropout, k)
        act = ACTIVATIONS[self.activation]
        x = drop(normalised(self.norm_in, self.tokens(w)))
        n = x.shape[-2]
        visible = jnp.repeat(w.valid > 0, 3, -1)[..., None, :] & jnp.tril(jnp.ones((n, n), bool))
        visible |= jnp.eye(n, dtype=bool)
        for b in self.blocks:
            mixed = _attention(linear(b.qkv, normalised(b.norm_1, x)), visible, self.heads, drop)
            x = x + drop(linear(b.out, mixed))
            x = x + drop(linear(b.down, act(linear(b.up, normalised(b.norm_2, x)))))
        return normalised(self.norm_out, x[..., 1::3, :])

    def tokens(self, w: Windows) -> Float[Array, "B 3*K embed"]:
        """Embeddings before their normalisation. Times beyond the table share its last row."""
        parts = (
            linear(self.embed_return, w.return_to_go[..., None]),
            linear(self.embed_obs, w.obs),
            linear(self.embed_action, w.action),
        )
        x = jnp.stack(parts, -2)  # [B, K, 3, embed]
        if rows := self.times.shape[0]:
            x = x + self.times[jnp.clip(w.time, 0, rows - 1).astype(jnp.int32)][..., None, :]
        return x.reshape(*x.shape[:-3], -1, x.shape[-1])


def init(
    key: Key,
    spec: Spec,
    *,
    embed: int,
    layers: int,
    heads: int,
    activation: Activation,
    times: int,
    dropout: float = 0.0,
) -> Transformer:
    """Weights N(0, 0.02²), biases 0; `times` rows in the table of times, 0 for none."""
    keys = iter(split(key, 4 + 4 * layers))
    normal = lambda *shape: WEIGHT_STD * jax.random.normal(next(keys), shape)
    layer = lambda i, o: Layer(normal(i, o), jnp.zeros(o))
    norm = lambda: Norm(jnp.ones(embed), jnp.zeros(embed))
    block = lambda: Block(
        norm(), layer(embed, 3 * embed), layer(embed, embed), norm(), layer(embed, 4 * embed), layer(4 * embed, embed)
    )
    return Transformer(
        times=normal(times, embed),
        embed_return=layer(1, embed),
        embed_obs=layer(spec.obs_dim, embed),
        embed_action=layer(spec.act_dim, embed),
        norm_in=norm(),
        blocks=tuple(block() for _ in range(layers)),
        norm_out=norm(),
        heads=heads,
        activation=activation,
        dropout=dropout,
    )


def table_of_times(spec: Spec, context: int) -> int:
    """Rows of the table of times: the steps of an episode and, as in the authors' code, a context more."""
    return (spec.horizon or LONGEST) + context


def check_sizes(learner: Any) -> None:
    """Raises `ConfigError` naming the field of a transformer's learner that makes no sense."""
    within(learner, **dict.fromkeys(("context", "embed", "layers", "heads", "warmup"), "[1, inf)"))
    within(learner, dropout="[0, 1)", return_scale="(0, inf]")
    if learner.embed % learner.heads:
        name = type(learner).__name__
        raise ConfigError(f"{name}: embed ({learner.embed}) must be a multiple of heads ({learner.heads})")


# --------------------------------------------------------------------------------------------------------------- parts

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "relu": jax.nn.relu,
}


def linear(layer: Layer, x: Float[Array, "... i"]) -> Float[Array, "... o"]:
    y = x.reshape(-1, x.shape[-1]) @ layer.weight + layer.bias
    return y.reshape(*x.shape[:-1], -1)


def normalised(norm: Norm, x: Float[Array, "... o"]) -> Float[Array, "... o"]:
    """Layer normalisation."""
    z = x - x.mean(-1, keepdims=True)
    return z * lax.rsqrt((z**2).mean(-1, keepdims=True) + NORM_EPS) * norm.scale + norm.shift


def _attention(
    qkv: Float[Array, "B N 3*embed"], visible: Bool[Array, "B N N"], heads: int, drop: Callable[[Array], Array]
) -> Float[Array, "B N embed"]:
    b, n, width = qkv.shape
    apart = lambda x: x.reshape(b, n, heads, -1).swapaxes(1, 2)  # [B, heads, N, d]
    q, k, v = map(apart, jnp.split(qkv, 3, -1))
    logits = q @ k.swapaxes(-1, -2) / (width // 3 // heads) ** 0.5
    p = drop(jax.nn.softmax(jnp.where(visible[:, None], logits, -jnp.inf), -1))
    return (p @ v).swapaxes(1, 2).reshape(b, n, -1)


def _dropout(x: Array, rate: float, key: Key) -> Array:
    """By 16 random bits an element, half the random numbers of 32: `rate` is met to 1 in 65,536."""
    dropped = round(rate * 65536)
    keep = jax.random.bits(key, x.shape, jnp.uint16) >= dropped
    return jnp.where(keep, x * (65536 / (65536 - dropped)), 0)


# ------------------------------------------------------------------------------------------------- windows and contexts


def windows(batch: Batch, return_scale: float) -> Windows:
    """What a batch of windows says to the network: the returns to go are those obtained."""
    return Windows(batch.mc_return / return_scale, batch.obs, batch.action, batch.step, batch.valid)


class Context(Module):
    """The last K steps of an episode, newest last, padded on the left; returns to go are those still asked for."""

    return_to_go: Float[Array, " K"]  # in units of the task
    obs: Float[Array, "K obs"]
    action: Float[Array, "K act"]
    time: Float[Array, " K"]
    valid: Float[Array, " K"]

    def grown(self, obs: Float[Array, " obs"], last_reward: Array) -> Context:
        """With a next step whose action is still open; what was obtained is no longer asked for."""
        push = lambda column, new: jnp.concatenate([column[1:], jnp.asarray(new, column.dtype)[None]])
        return Context(
            push(self.return_to_go, self.return_to_go[-1] - last_reward),
            push(self.obs, obs),
            push(self.action, jnp.zeros_like(self.action[0])),
            push(self.time, self.time[-1] + 1),
            push(self.valid, 1.0),
        )

    def acted(self, action: Float[Array, " act"]) -> Context:
        """With the newest step's action."""
        return replace(self, action=self.action.at[-1].set(action))

    def windows(self, return_scale: float) -> Windows:
        """One window, ``[1, K, ...]``."""
        w = Windows(self.return_to_go / return_scale, self.obs, self.action, self.time, self.valid)
        return jax.tree.map(lambda x: x[None], w)


def begin(net: Transformer, length: int, target_return: float) -> Context:
    """An empty context of `length` steps that asks for `target_return`."""
    zeros = lambda *shape: jnp.zeros(shape, net.embed_obs.bias.dtype)
    obs, act = net.embed_obs.weight.shape[0], net.embed_action.weight.shape[0]
    return Context(
        zeros(length) + target_return, zeros(length, obs), zeros(length, act), zeros(length) - 1, zeros(length)
    )


def first_action(learner: Learner, state: Any, obs: Float[Array, " obs"], key: Key, greedy: bool) -> Array:
    """What a learner with a `Context` does first in an episode that begins at `obs`."""
    return learner.act(state, learner.begin(state, key, greedy), obs, jnp.zeros(()), key, greedy)[0]
