"""Probabilistic models of a task, learnt from the store, and imagined rollouts in them.

An ensemble of E nets predicts from (s, a) a Gaussian of (r, s' - s) (Chua et al. 2018, arXiv:1805.12114; the numbers
are those of MBPO and MOPO). Members see different bootstraps of the rows; rows held out from all of them tell when to
stop and which members to trust. `begin_fit`, `fit_piece` and `fitted` make up one training, a piece of which lasts
about a second; `imagine` rolls a policy out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from segue import losses
from segue.errors import ConfigError, Diverged
from segue.nets import Layer, Mlp, mlp
from segue.optim import descend, trained
from segue.store import Rows
from segue.types import Batch, Key, Learner, Module, Spec, Trained, replace, split

DECAY = 2.5e-5, 5e-5, 7.5e-5, 1e-4  # weight decay of the first, second, further hidden layers, and the head
HOLDOUT = 1000  # rows held out at most,
HOLDOUT_SHARE = 0.2  # and at most this share of them
IMPROVEMENT = 0.01  # of a member's hold-out error, relative, that counts
Deviation = Literal["total", "learnt"]
PIECE = 100  # batches in one stretch without interruption
CHUNK = 2500  # rows that are rolled out together: larger ones leave the processor's cache
SENSELESS = 1e2  # hold-out error in units of the targets' mean square beyond which a model is given up


@dataclass(frozen=True)
class Models:
    """How the models look and learn."""

    members: int = 7  # E
    elites: int = 5  # members that rollouts sample from: those with the smallest hold-out error
    hidden: tuple[int, ...] = (200, 200, 200, 200)
    lr: float = 1e-3
    batch_size: int = 256
    patience: int = 5  # epochs in which no member improved, after which training stops
    max_epochs: int | None = None  # epochs of a training at most

    def __post_init__(self) -> None:
        if not 1 <= self.elites <= self.members:
            raise ConfigError(f"models: elites ({self.elites}) must lie in 1..members ({self.members})")
        if min(self.batch_size, self.patience, 1 if self.max_epochs is None else self.max_epochs) < 1:
            raise ConfigError("models: batch_size, patience and max_epochs must be at least 1")


class Ensemble(Module):
    """E nets from scaled (s, a) to the Gaussian of (r, s' - s), log-variances within learnt bounds."""

    net: Mlp  # [E] members
    low: Float[Array, "E D"]  # of the log-variance; D = 1 + obs
    high: Float[Array, "E D"]

    def __call__(self, x: Float[Array, "E B in"]) -> tuple[Float[Array, "E B D"], Float[Array, "E B D"]]:
        """Mean and log-variance, each member on its own inputs."""
        mean, log_var = jnp.split(jax.vmap(lambda net, x: net(x))(self.net, x), 2, -1)
        low, high = self.low[:, None], self.high[:, None]
        log_var = high - jax.nn.softplus(high - log_var)
        return mean, low + jax.nn.softplus(log_var - low)


class Scale(Module):
    """Mean and standard deviation of (s, a) over the rows of the first training; the rest is of the latest one."""

    mean: Float[Array, " in"]
    std: Float[Array, " in"]
    low: Float[Array, " obs"]  # range of s over all rows
    high: Float[Array, " obs"]
    variance: Float[Array, ""]  # of the targets, mean over their entries
    square: Float[Array, ""]  # mean of the targets' squares: the error of a model that predicts 0

    def __call__(self, obs: Array, action: Array) -> Float[Array, "*B in"]:
        return (jnp.concatenate([obs, action], -1) - self.mean) / self.std


class Fit(Module):
    """Where a training stands."""

    epoch: Int[Array, ""]
    batch: Int[Array, ""]  # within the epoch
    stale: Int[Array, ""]  # epochs since a member improved
    best: Ensemble  # each member as it was at its smallest hold-out error,
    error: Float[Array, " E"]  # which is this; -1 before the first


class Dynamics(Module):
    ensemble: Trained[Ensemble]
    scale: Scale
    elites: Int[Array, " elites"]
    ending: Trained[Mlp]  # learnt rule of termination, a logit of (s, a, s' - s); unused where the task gives the rule
    fit: Fit
    rows: Int[Array, ""]  # that the store had ever held when the last training began; -1: never trained


def init(key: Key, spec: Spec, settings: Models) -> Dynamics:
    """Untrained models."""
    d_in, d_out = spec.obs_dim + spec.act_dim, 1 + spec.obs_dim
    k_net, k_end = split(key)
    ensemble = Ensemble(
        _truncated(k_net, (d_in, *settings.hidden, 2 * d_out), settings.members),
        -10.0 * jnp.ones((settings.members, d_out)),
        0.5 * jnp.ones((settings.members, d_out)),
    )
    scale = Scale(
        jnp.zeros(d_in), jnp.ones(d_in), jnp.zeros(spec.obs_dim), jnp.zeros(spec.obs_dim), jnp.ones(()), jnp.ones(())
    )
    ending = mlp(k_end, (d_in + spec.obs_dim, 64, 64, 1))
    zero = jnp.zeros((), jnp.int32)
    fit = Fit(zero, zero, zero, jax.tree.map(jnp.copy, ensemble), -jnp.ones(settings.members))
    return Dynamics(trained(ensemble), scale, jnp.arange(settings.elites), trained(ending), fit, zero - 1)


def _truncated(key: Key, sizes: tuple[int, ...], members: int) -> Mlp:
    """Weights N(0, 1 / (4 fan_in)) cut at two standard deviations, biases 0, SiLU between."""
    layers = []
    for k, i, o in zip(split(key, len(sizes) - 1), sizes[:-1], sizes[1:], strict=True):
        weight = jax.random.truncated_normal(k, -2.0, 2.0, (members, i, o)) / (2 * i**0.5)
        layers.append(Layer(weight, jnp.zeros((members, o))))
    return Mlp(tuple(layers), activation="silu")


# ------------------------------------------------------------------------------------------------------------ learning


def held_out(indices: Int[Array, "*n"], size: Array | int) -> Bool[Array, "*n"]:
    """Whether rows are held out: a fixed pseudo-random share of them, of about 1000 of `size` and at most a fifth.

    The share falls as a store grows, so a row that models have learnt from is never held out later.
    """
    share = jnp.minimum(HOLDOUT_SHARE, HOLDOUT / jnp.maximum(size, 1))
    hashed = indices.astype(jnp.uint32) * jnp.uint32(2654435761)  # Knuth's multiplicative hash
    return hashed.astype(jnp.float32) < share * 2.0**32


def _target(batch: Batch) -> Float[Array, "*B D"]:
    return jnp.concatenate([batch.reward[..., None], batch.next_obs - batch.obs], -1)


def seen(rows: Rows) -> int:
    """Rows that the store has ever held."""
    return rows.store.size_offline + int(rows.store.ring.written)


def _bootstrap(rows: Rows, key: Key, settings: Models) -> Int[Array, "E n"]:
    """Row numbers of each member's bootstrap, the same at every call with `key`."""
    n = _bootstrapped(rows)
    return jax.vmap(lambda k: rows.indices(k, n))(jax.random.split(jax.random.fold_in(key, 0), settings.members))


def _bootstrapped(rows: Rows) -> int:
    """Rows of a bootstrap: as many as the dataset has, or the ring may hold; a constant, so programs are kept."""
    return rows.store.size_offline or rows.store.ring.capacity


def epoch_batches(rows: Rows, settings: Models) -> int:
    """Batches that make up an epoch."""
    return -(-_bootstrapped(rows) // settings.batch_size)


def begin_fit(dynamics: Dynamics, rows: Rows, key: Key) -> Dynamics:
    """Ready for a training: fresh optimisers and counters; the inputs keep the scale of the first one."""
    if not int(rows.store.size):
        raise ConfigError("models learn from rows, and there are none: begin with a phase on a dataset")
    zero = jnp.zeros((), jnp.int32)
    ensemble, error = dynamics.ensemble.net, -jnp.ones_like(dynamics.fit.error)
    scale = _measure(rows, jax.random.fold_in(key, 3))
    if int(dynamics.rows) >= 0:  # trained models are the first to beat
        scale = replace(scale, mean=dynamics.scale.mean, std=dynamics.scale.std)
        error = _errors(ensemble, scale, rows, _held_rows(rows, jax.random.fold_in(key, 2)))
    fit = Fit(zero, zero, zero, jax.tree.map(jnp.copy, ensemble), error)
    known, ending = jnp.asarray(seen(rows), jnp.int32), trained(dynamics.ending.net)
    return replace(dynamics, ensemble=trained(ensemble), scale=scale, ending=ending, fit=fit, rows=known)


def _measure(rows: Rows, key: Key) -> Scale:
    """Of the rows that models may learn from; the range of s is that of all of them."""
    indices, held = _draw(rows, key, min(_bootstrapped(rows), 1_000_000))
    return _moments(rows, np.resize(indices[~held], len(indices)))  # of one length, so one program


@jax.jit
def _moments(rows: Rows, indices: Int[Array, " n"]) -> Scale:
    batch = rows.at(indices)
    x, target = jnp.concatenate([batch.obs, batch.action], -1), _target(batch)
    std = x.std(0)
    store, ring = rows.store, rows.store.ring
    written = jnp.arange(store.size_offline + ring.capacity) < store.size
    c = store.layout.columns(jnp.concatenate([store.offline[: store.size_offline], ring.rows]))
    both, written = jnp.concatenate([c["obs"], c["next_obs"]]), jnp.tile(written, 2)[:, None]
    return Scale(
        mean=x.mean(0),
        std=jnp.where(std < 1e-12, 1.0, std),
        low=jnp.where(written, both, jnp.inf).min(0),
        high=jnp.where(written, both, -jnp.inf).max(0),
        variance=target.var(0).mean() + 1e-12,
        square=(target**2).mean() + 1e-12,
    )


@partial(jax.jit, static_argnames="settings")
def _learn(
    settings: Models, dynamics: Dynamics, rows: Rows, key: Key, first: Array, count: Array
) -> tuple[Dynamics, Array]:
    """`count` batches from the training's `first` onwards; the mean loss of a member."""
    bootstrap = _bootstrap(rows, key, settings)
    size = rows.store.size
    learns_ends = rows.spec.terminates is None

    def body(i: Array, carry: tuple) -> tuple:
        ensemble, ending, total = carry
        shape = (settings.members, settings.batch_size)
        k = jax.random.fold_in(jax.random.fold_in(key, 1), first + i)
        indices = jnp.take_along_axis(bootstrap, jax.random.randint(k, shape, 0, bootstrap.shape[1]), 1)
        batch, weight = rows.at(indices), 1.0 - held_out(indices, size)
        x, target = dynamics.scale(batch.obs, batch.action), _target(batch)

        def nll(net: Ensemble) -> losses.Loss:
            loss, info = losses.gaussian_nll(*net(x), target, weight)
            bounds = 0.01 * (net.high.sum() - net.low.sum())
            return loss + bounds + _decay(net.net), info

        ensemble, info = descend(settings.lr, ensemble, nll)
        if learns_ends:  # on the first member's batch
            z = _ending_input(dynamics.scale, *(c[0] for c in (batch.obs, batch.action, batch.next_obs)))
            ending, _ = descend(
                settings.lr, ending, lambda net: (losses.binary(net(z)[..., 0], batch.terminal[0], weight[0]), {})
            )
        return ensemble, ending, total + info["model/nll"]

    carry = dynamics.ensemble, dynamics.ending, jnp.zeros(())
    ensemble, ending, total = jax.lax.fori_loop(0, count, body, carry)
    return replace(dynamics, ensemble=ensemble, ending=ending), total / jnp.maximum(count, 1)


def _decay(net: Mlp) -> Float[Array, ""]:
    rates = [DECAY[min(i, 2)] for i in range(len(net.layers) - 1)] + [DECAY[-1]]
    return sum(
        (0.5 * rate * (layer.weight**2).sum() for rate, layer in zip(rates, net.layers, strict=True)), jnp.zeros(())
    )


def _ending_input(scale: Scale, obs: Array, action: Array, next_obs: Array) -> Array:
    return jnp.concatenate([scale(obs, action), (next_obs - obs) / scale.std[: obs.shape[-1]]], -1)


def _of_all(ensemble: Ensemble, scale: Scale, obs: Array, action: Array) -> tuple[Array, Array]:
    """Mean and log-variance of all members on the same (s, a)."""
    x = scale(obs, action)
    return ensemble(jnp.broadcast_to(x, (ensemble.low.shape[0], *x.shape)))


@jax.jit
def _errors(ensemble: Ensemble, scale: Scale, rows: Rows, indices: Int[Array, " n"]) -> Float[Array, " E"]:
    """Mean squared error of each member's mean on these rows."""
    batch = rows.at(indices)
    mean, _ = _of_all(ensemble, scale, batch.obs, batch.action)
    return ((mean - _target(batch)) ** 2).mean((1, 2))


def _draw(rows: Rows, key: Key, n: int) -> tuple[np.ndarray, np.ndarray]:
    """`n` row numbers as the replay draws them, and which of them are held out."""
    drawn = _drawn(rows, key, n)
    return np.asarray(drawn[0]), np.asarray(drawn[1])


@partial(jax.jit, static_argnames="n")
def _drawn(rows: Rows, key: Key, n: int) -> tuple[Array, Array]:
    indices = rows.indices(key, n)
    return indices, held_out(indices, rows.store.size)


def _held_rows(rows: Rows, key: Key) -> Int[Array, " H"]:
    """Up to 1000 held-out rows as the replay draws them; drawn until there are enough."""
    size, n = int(rows.store.size), _bootstrapped(rows)
    wanted = max(1, min(HOLDOUT, int(HOLDOUT_SHARE * size)))
    found: list[np.ndarray] = []
    for i in range(100):
        drawn, held = _draw(rows, jax.random.fold_in(key, i), n)
        found.append(drawn[held])
        if sum(map(len, found)) >= wanted:
            break
    held = np.concatenate(found)
    if not len(held):
        raise ConfigError(f"models need rows to be held out, and none of {size} was: give more data")
    return jnp.asarray(np.resize(held, wanted))


class Piece(NamedTuple):
    """What a piece of a training came to."""

    dynamics: Dynamics
    done: bool
    metrics: dict[str, float]
    progress: str


def fit_piece(dynamics: Dynamics, rows: Rows, key: Key, settings: Models) -> Piece:
    """At most 100 batches, and the epoch's hold-out errors at its end. `key` is that of the whole training.

    The rule of ends learns beside the ensemble and stops with it: it has no best moment of its own.
    ``model/nll`` is the mean over the epoch's last piece.

    Raises `Diverged` naming the member whose hold-out error is no number, or hopeless.
    """
    fit = dynamics.fit
    per_epoch = epoch_batches(rows, settings)
    epoch, at = int(fit.epoch), int(fit.batch)
    count = min(PIECE, per_epoch - at)
    dynamics, loss = _learn(settings, dynamics, rows, key, np.int32(epoch * per_epoch + at), np.int32(count))
    if at + count < per_epoch:
        text = f"models, epoch {epoch + 1}: {at + count}/{per_epoch} batches"
        return Piece(replace(dynamics, fit=replace(fit, batch=fit.batch + count)), False, {}, text)

    held = _held_rows(rows, jax.random.fold_in(key, 2))
    error = _errors(dynamics.ensemble.net, dynamics.scale, rows, held)
    _check(np.asarray(error), float(dynamics.scale.square), epoch + 1)
    fit = _epoch_over(fit, dynamics.ensemble.net, error)
    done = int(fit.stale) >= settings.patience or int(fit.epoch) == settings.max_epochs
    metrics = {"model/nll": float(loss), "model/holdout": float(error.mean()), "model/epoch": float(fit.epoch)}
    text = f"models, epoch {epoch + 1}: hold-out error {float(error.mean()):.3g}, {int(fit.stale)} without progress"
    return Piece(replace(dynamics, fit=fit), done, metrics, text)


@jax.jit
def _epoch_over(fit: Fit, ensemble: Ensemble, error: Float[Array, " E"]) -> Fit:
    """The next epoch, every member's best so far kept."""
    better = (error < (1 - IMPROVEMENT) * fit.error) | (fit.error < 0)
    pick = lambda new, old: jnp.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)
    return Fit(
        epoch=fit.epoch + 1,
        batch=jnp.zeros_like(fit.batch),
        stale=jnp.where(better.any(), 0, fit.stale + 1),
        best=jax.tree.map(pick, ensemble, fit.best),
        error=jnp.where(better, error, fit.error),
    )


def _check(error: np.ndarray, square: float, epoch: int) -> None:
    for member, e in enumerate(error):
        if not e < SENSELESS * square:
            raise Diverged(
                f"models: hold-out error of member {member} is {e:.3g} after epoch {epoch}, and predicting 0 errs by "
                f"{square:.3g}; the model diverges: lower models.lr, or look at the data's scale (segue data info)"
            )


def fitted(dynamics: Dynamics, settings: Models) -> Dynamics:
    """Every member of the ensemble as it was at its best, and the elites named."""
    elites = jnp.argsort(dynamics.fit.error)[: settings.elites]
    ensemble = Trained(jax.tree.map(jnp.copy, dynamics.fit.best), dynamics.ensemble.opt)
    return replace(dynamics, ensemble=ensemble, elites=elites)


def found_ends(dynamics: Dynamics, rows: Rows, key: Key) -> tuple[float, float] | None:
    """Of held-out terminal rows the share that the learnt rule finds, and of the others the share it takes for such;
    None without a terminal among them.
    """
    batch = rows.at(_held_rows(rows, key))
    z = _ending_input(dynamics.scale, batch.obs, batch.action, batch.next_obs)
    said, true = np.asarray(dynamics.ending.net(z)[..., 0] > 0), np.asarray(batch.terminal) > 0
    return (float(said[true].mean()), float(said[~true].mean())) if true.any() and not true.all() else None


def notes(dynamics: Dynamics, rows: Rows, key: Key) -> dict[str, str]:
    """How a training came out, in words; `key` is that of the training."""
    best = float(dynamics.fit.error[dynamics.elites].mean())
    explained = 1 - best / float(dynamics.scale.variance)
    found = {
        "models": f"trained for {int(dynamics.fit.epoch)} epochs, {explained:.1%} of the variance explained",
        "elites": ", ".join(str(int(i)) for i in dynamics.elites),
        "ends": "by the task's rule",
    }
    if rows.spec.terminates is None:
        ends = found_ends(dynamics, rows, jax.random.fold_in(key, 2))
        share = "no end among the held-out rows" if ends is None else "{:.0%} found, {:.2%} false".format(*ends)
        found["ends"] = f"learnt, as the task gives no rule: {share}"
    return found


def newest_error(dynamics: Dynamics, rows: Rows, since: int, most: int = 1000) -> float | None:
    """Mean squared error of the elites on the interaction's rows younger than `since`, at most the `most` newest."""
    ring = rows.store.ring
    n = min(most, seen(rows) - since, int(ring.size))
    if n <= 0:
        return None
    slots = (int(ring.written) - 1 - np.arange(most)) % ring.capacity
    slots = np.where(np.arange(most) < n, slots, slots[0])
    batch = rows.at(jnp.asarray(rows.store.size_offline + slots))
    mean, _ = _of_all(dynamics.ensemble.net, dynamics.scale, batch.obs, batch.action)
    error = ((mean[dynamics.elites] - _target(batch)) ** 2).mean((0, 2))
    return float(error[:n].mean())


# ------------------------------------------------------------------------------------------------------------ rollouts


def predict(
    dynamics: Dynamics, obs: Float[Array, "B obs"], action: Float[Array, "B act"]
) -> tuple[Float[Array, "E B D"], Float[Array, "E B D"]]:
    """Mean and standard deviation of (r, s' - s), all members."""
    mean, log_var = _of_all(dynamics.ensemble.net, dynamics.scale, obs, action)
    return mean, jnp.exp(0.5 * log_var)


def penalty(
    mean: Float[Array, "E B D"], std: Float[Array, "E B D"], deviation: Deviation = "total"
) -> Float[Array, " B"]:
    """The largest predicted deviation over all members: of the norms of their learnt deviations (Yu et al. 2020, sec.
    4.3), in "total" together with the distance of their mean from the members' common one.
    """
    square = (std**2).sum(-1)  # [E, B]
    if deviation == "total":
        square = square + ((mean - mean.mean(0)) ** 2).sum(-1)
    return jnp.sqrt(square).max(0)


class Imagined(NamedTuple):
    """Rows of rollouts, flat, in the store's layout; those behind an end are not to be kept."""

    rows: Float[Array, "M width"]
    keep: Bool[Array, " M"]
    metrics: dict[str, Array]


class Pool(Module):
    """Imagined rows, the oldest overwritten first."""

    rows: Float[Array, "capacity width"]
    written: Int[Array, ""]  # rows ever written

    @property
    def size(self) -> Int[Array, ""]:
        return jnp.minimum(self.written, self.rows.shape[0])

    @jax.jit
    def add(self, imagined: Imagined) -> Pool:
        """The pool with the rows to be kept, at most as many as it holds."""
        capacity = self.rows.shape[0]
        slots = (self.written + jnp.cumsum(imagined.keep) - 1) % capacity
        rows = self.rows.at[jnp.where(imagined.keep, slots, capacity)].set(imagined.rows, mode="drop")
        return Pool(rows, self.written + imagined.keep.sum())


@partial(jax.jit, static_argnames=("learner", "starts", "horizon", "coefficient", "deviation"))
def imagine(
    dynamics: Dynamics,
    learner: Learner,
    state: Any,
    rows: Rows,
    key: Key,
    starts: int,
    horizon: int,
    coefficient: float,
    deviation: Deviation = "total",
) -> Imagined:
    """`starts` rows of the replay rolled out for `horizon` steps by the learner's policy.

    Each row's next state and reward come from one elite, drawn anew at every step; rewards are less `coefficient` times
    the penalty. A rollout stops at a terminal, and where a prediction is no number.
    """
    k_start, k_roll = split(key)
    layout = rows.store.layout
    chunk = min(CHUNK, starts)
    chunks = -(-starts // chunk)
    scale, rule = dynamics.scale, rows.spec.terminates

    def step(carry: tuple, key: Key) -> tuple:
        obs, alive, t = carry
        k_act, k_member, k_noise = split(key, 3)
        action = jax.vmap(learner.policy, (None, 0, 0))(state, obs, jax.random.split(k_act, chunk))
        action = jnp.clip(action, -1, 1)
        mean, std = predict(dynamics, obs, action)
        member = dynamics.elites[jax.random.randint(k_member, (chunk,), 0, len(dynamics.elites))]
        pick = lambda x: jnp.take_along_axis(x, member[None, :, None], 0)[0]  # [B, D]
        change = pick(mean) + pick(std) * jax.random.normal(k_noise, (chunk, mean.shape[-1]))
        u = penalty(mean, std, deviation)
        reward, next_obs = change[:, 0] - coefficient * u, obs + change[:, 1:]
        sound = jnp.isfinite(change).all(-1) & jnp.isfinite(reward)
        next_obs, reward = jnp.where(sound[:, None], next_obs, obs), jnp.where(sound, reward, 0.0)
        if rule is None:
            terminal = dynamics.ending.net(_ending_input(scale, obs, action, next_obs))[..., 0] > 0
        else:
            terminal = rule(obs, action, next_obs)
        outside = ((next_obs < scale.low) | (next_obs > scale.high)).any(-1)
        scalars = jnp.stack([reward, terminal * 1.0, jnp.zeros(chunk), jnp.full(chunk, t)], -1)
        row = jnp.concatenate([obs, action, next_obs, scalars], -1)
        keep = alive & sound
        counts = jnp.stack([keep, keep & outside, keep & terminal, alive & ~sound]).sum(1).astype(jnp.float32)
        sums = jnp.stack([jnp.where(keep, x, 0).sum() for x in (u, reward)])
        return (next_obs, keep & ~terminal, t + 1.0), (row, keep, counts, sums)

    def roll(part: tuple) -> tuple:
        obs, alive, key = part
        return jax.lax.scan(step, (obs, alive, 0.0), jax.random.split(key, horizon))[1]

    obs = rows.at(rows.indices(k_start, chunks * chunk)).obs.reshape(chunks, chunk, -1)
    wanted = jnp.arange(chunks * chunk).reshape(chunks, chunk) < starts  # the last chunk may be wider than its rest
    parts = obs, wanted, jax.random.split(k_roll, chunks)
    row, keep, counts, sums = jax.lax.map(roll, parts)  # [chunks, horizon, chunk, ...]
    kept, outside, ends, broken = counts.sum((0, 1))
    n = jnp.maximum(kept, 1)
    metrics = {
        "model/penalty": sums.sum((0, 1))[0] / n,
        "model/reward": sums.sum((0, 1))[1] / n,  # penalised
        "model/outside": outside / n,  # share of rows that leave the range of the data
        "model/ends": ends / n,
        "model/broken": broken,  # predictions that were no numbers
        "model/rows": kept,
    }
    return Imagined(row.reshape(-1, layout.width), keep.reshape(-1), metrics)
