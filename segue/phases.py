"""Phases and the one loop that runs them.

A run is a tuple of phases. `run` carries a `RunState` through them and yields it with the rows that it produced; it
knows no method by name and neither prints, logs nor saves. Every random number is a function of the run's seed, the
phase and a counter, so it does not matter where a run was cut.

    dataset -> store - indices -> batch - bonus -> learner.update -> state
                 ^                                                     |
                 +------ row <- environment <- learner.act <-----------+
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from segue.bonuses import Nothing
from segue.errors import ConfigError, Diverged, EnvironmentFault
from segue.evaluate import Environment, Interrupted, act, begin, evaluate, seed_of
from segue.replays import Uniform
from segue.store import Affine, Ring, Rows, Store, close_episode, make_store, with_returns
from segue.transitions import Fresh
from segue.types import Batch, Bonus, Episode, Handover, Key, Learner, Module, Replay, Spec, Transition, Wrapper, split

Row = dict[str, Any]

# ----------------------------------------------------------------------------------------------------------- schedules


@dataclass(frozen=True)
class PerStep:
    """`n` batches per environment step (the update-to-data ratio)."""

    n: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.n < math.inf:
            raise ConfigError(f"PerStep.n must be at least 0, not {self.n}")

    def owed(self, step: int, closed: int | None) -> int:
        return int(step * self.n) - int((step - 1) * self.n)


@dataclass(frozen=True)
class PerEpisode:
    """At each episode's end `n` batches, or `per_step` for each of its steps."""

    n: int = 0
    per_step: float = 0.0

    def __post_init__(self) -> None:
        if self.n < 0 or not 0 <= self.per_step < math.inf:
            raise ConfigError(f"PerEpisode: n ({self.n}) and per_step ({self.per_step}) must be at least 0")

    def owed(self, step: int, closed: int | None) -> int:
        return 0 if closed is None else self.n + round(self.per_step * closed)


@dataclass(frozen=True)
class Block:
    """After every `collect` steps `updates` batches in a row, for the first time after `first` steps.

    The first block has `opening` times as many.
    """

    collect: int = 1000
    updates: int = 1000
    first: int = 0
    opening: int = 1

    def __post_init__(self) -> None:
        if min(self.collect, self.opening) < 1 or min(self.updates, self.first) < 0:
            raise ConfigError(
                f"Block: collect ({self.collect}) and opening ({self.opening}) must be at least 1, updates "
                f"({self.updates}) and first ({self.first}) at least 0"
            )

    def owed(self, step: int, closed: int | None) -> int:
        if step % self.collect or step < self.first:
            return 0
        return self.updates * (self.opening if step - self.collect < max(self.first, 1) else 1)


@dataclass(frozen=True)
class Warmup:
    """The first `steps` environment steps of a phase without updates, by the policy or by uniform actions."""

    steps: int = 0
    actions: str = "policy"

    def __post_init__(self) -> None:
        if self.actions not in ("policy", "uniform"):
            raise ConfigError(f"Warmup.actions is 'policy' or 'uniform', not {self.actions!r}")
        if self.steps < 0:
            raise ConfigError(f"Warmup.steps must be at least 0, not {self.steps}")


@dataclass(frozen=True)
class Phase:
    """One stretch of learning with one learner. `steps` are batches offline, environment steps online."""

    name: str
    learner: Learner
    steps: int
    online: bool = False
    source: str | None = None  # whose final state the transition gets; None: the phase before
    transition: Transition = field(default_factory=Fresh)
    replay: Replay = field(default_factory=Uniform)
    bonus: Bonus = field(default_factory=Nothing)
    reward: Affine = field(default_factory=Affine)  # the learner's convention; the store keeps the task's rewards
    batch_size: int = 256
    updates: PerStep | PerEpisode | Block = field(default_factory=PerStep)
    warmup: Warmup = field(default_factory=Warmup)
    refit_every: int | None = None

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch_size < 1 or (self.refit_every is not None and self.refit_every < 1):
            raise ConfigError(
                f"phase {self.name!r}: steps must be at least 0, batch_size at least 1, refit_every None or at least 1"
            )
        if not self.online and self.steps % (stride := self.learner.stride):
            raise ConfigError(
                f"phase {self.name!r}: {type(self.learner).__name__} takes {self.learner.stride} batches an update, "
                f"which does not divide steps={self.steps}; give {-(-self.steps // stride) * stride}"
            )
        if self.learner.windows and self.reward != Affine():
            raise ConfigError(
                f"phase {self.name!r}: its learner asks for returns as the task pays them, so its rewards cannot be "
                "transformed; leave `reward` as it is and set the learner's return_scale"
            )

    @property
    def work(self) -> Work:
        return Work(self.learner, self.replay, self.bonus, self.reward, self.batch_size)


class Work(NamedTuple):
    """What an update depends on: the static half of a compiled program."""

    learner: Learner
    replay: Replay
    bonus: Bonus
    reward: Affine
    batch_size: int


# ----------------------------------------------------------------------------------------------------------- run state


class Parts(NamedTuple):
    """States that an update changes."""

    learner: Any
    replay: Any
    bonus: Any


class Sums(NamedTuple):
    """Metrics summed one update after another since the last row, and their number."""

    total: dict[str, Array]
    count: Array


class Episodes(NamedTuple):
    """Closed episodes of the interaction: first row ever written, length, undiscounted raw return, score."""

    start: np.ndarray
    length: np.ndarray
    return_: np.ndarray
    score: np.ndarray

    @classmethod
    def empty(cls) -> Episodes:
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0))

    def add(self, start: int, length: int, return_: float, score: float) -> Episodes:
        return Episodes(*(np.append(c, v) for c, v in zip(self, (start, length, return_, score), strict=True)))

    @property
    def closed(self) -> int:
        """Rows ever written that lie in closed episodes."""
        return int(self.start[-1] + self.length[-1]) if len(self.start) else 0


class Live(NamedTuple):
    """The open episode: where the environment stands and what the learner is about to do."""

    obs: np.ndarray
    action: np.ndarray
    reward: np.float32
    length: int
    return_: float
    memory: Any


class RunState(NamedTuple):
    """Everything; a checkpoint holds exactly this. A yielded state's arrays are valid until the next one is asked for.

    `parts` is None before the first phase was entered, `live` between episodes.
    """

    seed: int
    phase: int = 0
    step: int = 0  # within the phase
    calls: int = 0  # updates of the phase so far
    owed: int = 0  # batches due by the schedule and not yet taken
    entered: bool = False
    evaluated: int = -1  # step of the phase at which the last evaluation was made,
    logged: int = 0  # the last row of metrics,
    refitted: int = 0  # and the last finished refit (-1: none in this phase yet)
    piece: int = 0  # of a refit under way
    env_steps: int = 0  # rows ever written
    parts: Parts = None  # type: ignore[assignment]
    ring: Ring = None  # type: ignore[assignment]
    episodes: Episodes = Episodes.empty()
    live: Live | None = None
    sums: Sums = None  # type: ignore[assignment]
    act_sums: Sums = None  # type: ignore[assignment]
    score: float | None = None  # of the last greedy evaluation
    snapshots: dict[str, Any] | None = None  # final learner states that later phases name, and lent ones
    wall: float = 0.0  # seconds spent, all sessions

    @property
    def learner(self) -> Any:
        """The learner's state."""
        return None if self.parts is None else self.parts.learner


@dataclass(frozen=True)
class Settings:
    """What a run does beside learning."""

    eval_every: int = 5000
    eval_episodes: int = 10
    log_every: int = 500
    piece_seconds: float = 1.0  # a stretch of updates or of interaction takes about this long at most

    def __post_init__(self) -> None:
        if self.eval_every < 1 or self.log_every < 1 or self.eval_episodes < 0:
            raise ConfigError("eval_every and log_every must be at least 1, eval_episodes at least 0")


INIT, UPDATE, ACT, BEGIN, REPLAY, BONUS, REFIT = range(7)  # random streams of a phase
TRAINING, GREEDY, ACTING = range(3)  # random streams of environments


def phase_key(seed: int, phase: int, stream: int) -> Key:
    """The root key of a stream."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), phase), stream)


# ------------------------------------------------------------------------------------------------------------- updates


def draw_rows(work: Work, rstate: Any, store: Store, key: Key) -> tuple[Array, Array]:
    """Indices and weights of one update, drawn slice by slice, so that a replay's exact shares hold in each."""
    n = work.learner.slices
    if n == 1:
        return work.replay.indices(rstate, store, key, work.batch_size)
    drawn = [work.replay.indices(rstate, store, k, work.batch_size) for k in split(key, n)]
    return jnp.concatenate([i for i, _ in drawn]), jnp.concatenate([w for _, w in drawn])


def update_once(work: Work, store: Store, parts: Parts, key: Key, batch: Batch | None = None) -> tuple[Parts, dict]:
    """One update of learner, bonus and replay; `batch` where its rows were drawn before."""
    (state, rstate, bstate), (k_i, k_b, k_u, k_r) = parts, split(key, 4)
    indices = None
    if batch is None:
        indices, weight = draw_rows(work, rstate, store, k_i)
        batch = store.at(indices, work.reward, weight)
    bstate, b = work.bonus.update(bstate, batch, k_b)
    state, m = work.learner.update(state, work.bonus.relabel(bstate, batch), k_u)
    r: dict[str, Array] = {}
    if indices is not None:
        rstate, r = work.replay.update(rstate, store, indices, batch, k_r)
    metrics = m | b | r
    if len(metrics) < len(m) + len(b) + len(r):
        shared = sorted(k for k in metrics if (k in m) + (k in b) + (k in r) > 1)
        raise ConfigError(f"learner, bonus and replay report {shared} twice")
    ended = (batch.valid > 0) & jnp.isfinite(batch.mc_return)  # its episode has: what values are to be held against
    return_ = jnp.where(ended, batch.mc_return, 0).sum() / jnp.maximum(ended.sum(), 1)
    rows = jnp.maximum(batch.valid.sum(), 1)
    own = {"replay/offline": batch.offline.sum() / rows, "replay/ended": ended.sum() / rows, "replay/return": return_}
    return Parts(state, rstate, bstate), metrics | own


def add_metrics(sums: Sums, metrics: dict[str, Array]) -> Sums:
    return Sums({k: sums.total[k] + metrics[k] for k in sums.total}, sums.count + 1)


def blank_sums(metrics: Any) -> Sums:
    """Zeros for the metrics of an abstract evaluation."""
    return Sums({k: jnp.zeros(()) for k in sorted(metrics)}, jnp.zeros((), jnp.int32))


def draw_block(work: Work, n: int, store: Store, rstate: Any, key: Key, first: Array) -> tuple[Array, Array]:
    """Indices and weights of `n` updates from the phase's `first` onwards, ``[n, ...]``."""
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(first + jnp.arange(n))
    k_i = jax.vmap(lambda k: jax.random.split(k, 4)[0])(keys)
    return jax.vmap(lambda k: draw_rows(work, rstate, store, k))(k_i)


def _block(
    work: Work, n: int, store: Store, parts: Parts, sums: Sums, key: Key, first: Array, given: Array | None = None
) -> tuple[Parts, Sums]:
    """`n` updates from the phase's `first` onwards in one scan; update i always uses the i-th key.

    Where updates teach the replay nothing, all rows are gathered before the scan. `given` holds those on disk.
    """
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(first + jnp.arange(n))
    batches = None
    if type(work.replay).update is Replay.update:
        indices, weight = draw_block(work, n, store, parts.replay, key, first)
        batches = store.at(indices, work.reward, weight, given)

    def body(carry: tuple[Parts, Sums], x: tuple[Key, Batch | None]) -> tuple[tuple[Parts, Sums], None]:
        (parts, sums), (k, batch) = carry, x
        parts, metrics = update_once(work, store, parts, k, batch)
        return (parts, add_metrics(sums, metrics)), None

    return jax.lax.scan(body, (parts, sums), (keys, batches))[0]


@partial(jax.jit, static_argnames=("work", "n"))
def update_many(
    work: Work, n: int, blocks: Array, store: Store, parts: Parts, sums: Sums, key: Key, first: Array
) -> tuple[Parts, Sums]:
    """``blocks * n`` updates. The number of blocks is no constant of the program: any stretch runs the same code."""

    def body(i: Array, carry: tuple[Parts, Sums]) -> tuple[Parts, Sums]:
        return _block(work, n, store, *carry, key, first + i * n)

    return jax.lax.fori_loop(0, blocks, body, (parts, sums))


@partial(jax.jit, static_argnames=("work", "n"))
def update_given(
    work: Work, n: int, store: Store, parts: Parts, sums: Sums, key: Key, first: Array, given: Array
) -> tuple[Parts, Sums]:
    """`n` updates on rows of which those on disk are `given`."""
    return _block(work, n, store, parts, sums, key, first, given)


@partial(jax.jit, static_argnames=("work", "n"))
def _indices(work: Work, n: int, store: Store, rstate: Any, key: Key, first: Array) -> Array:
    return draw_block(work, n, store, rstate, key, first)[0]


def fetch(work: Work, n: int, store: Store, rstate: Any, key: Key, first: int) -> np.ndarray:
    """The rows on disk that `n` updates will ask for, ``[n, ..., width]``."""
    return store.disk.take(np.asarray(_indices(work, n, store, rstate, key, np.int32(first))))


def update_from_disk(
    work: Work, n: int, blocks: int, store: Store, parts: Parts, sums: Sums, key: Key, first: int
) -> tuple[Parts, Sums]:
    """``blocks * n`` updates; the next block's rows are fetched while one is computed."""
    ahead = partial(fetch, work, n, store, parts.replay, key)
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(ahead, first)
        for i in range(blocks):
            given = coming.result()
            if i + 1 < blocks:
                coming = pool.submit(ahead, first + (i + 1) * n)
            parts, sums = update_given(work, n, store, parts, sums, key, np.int32(first + i * n), given)
            jax.block_until_ready(sums.count)
    return parts, sums


@partial(
    jax.jit, static_argnames=("work", "n", "acts", "uniform"), donate_argnames=("ring", "parts", "sums", "act_sums")
)
def _online_step(
    work: Work,
    n: int,
    acts: bool,
    uniform: bool,
    fixed: Store,
    ring: Ring,
    parts: Parts,
    memory: Any,
    sums: Sums,
    act_sums: Sums,
    row: Array,
    counters: Array,
    k_update: Key,
    k_act: Key,
    given: Array | None,
) -> tuple:
    """Write one row, update `n` times, act on the row's next observation: one dispatch per environment step."""
    first, t = counters[0], counters[1]
    ring = ring.add(row)
    store = whole(fixed, ring)
    c = store.layout.columns(row)
    bstate, visit = work.bonus.visit(parts.bonus, store.layout.batch(row))
    parts = parts._replace(bonus=bstate, replay=work.replay.add(parts.replay, store))
    if n == 1:
        batch = None
        if given is not None:
            indices, weight = draw_block(work, 1, store, parts.replay, k_update, first)
            batch = store.at(indices[0], work.reward, weight[0], given[0])
        parts, metrics = update_once(work, store, parts, jax.random.fold_in(k_update, first), batch)
        sums = add_metrics(sums, metrics)
    elif n:
        parts, sums = _block(work, n, store, parts, sums, k_update, first, given)
    action = jnp.zeros(store.layout.act_dim)
    if acts:
        key = jax.random.fold_in(k_act, t)
        if uniform:
            action = jax.random.uniform(key, action.shape, minval=-1.0, maxval=1.0)
        else:
            action, memory, info = work.learner.act(parts.learner, memory, c["next_obs"], c["reward"], key, False)
            action = jnp.clip(action, -1, 1)
            act_sums = add_metrics(act_sums, info | visit)
    return ring, parts, memory, sums, act_sums, action


# ------------------------------------------------------------------------------------------------------------ the loop


class Context(NamedTuple):
    """What stays the same while a run lasts."""

    phases: tuple[Phase, ...]
    task: Any  # segue.tasks.task.Task
    settings: Settings
    store: Store  # its ring is a blank of one row; the real one travels in the RunState
    env: Callable[[str], Environment]  # "training" or "evaluation", made when first asked for
    interrupted: Callable[[], bool]
    faults: list[EnvironmentFault | Diverged]  # of the environment, raised once the steps before it are yielded


def ring_capacity(phases: tuple[Phase, ...]) -> int:
    """Rows that the interaction of all phases will write, at most a million."""
    return min(sum(p.steps for p in phases if p.online), 1_000_000)


def start(
    seed: int, phases: tuple[Phase, ...], spec: Spec, dataset: Any | None, lent: Mapping[str, Any] | None = None
) -> tuple[RunState, Store]:
    """The state before the first phase, and the store's fixed half.

    `lent` holds learners' states of other runs by the names under which phases ask for them as their `source`.
    """
    names, lent = [p.name for p in phases], dict(lent or {})
    if len({*names, *lent}) < len(names) + len(lent):
        raise ConfigError(f"phases and lent states need different names, not {[*names, *lent]}")
    if unasked := sorted(lent.keys() - {p.source for p in phases}):
        raise ConfigError(f"lent states {unasked} are the source of no phase; name them as one: Phase(..., source=...)")
    if wrong := [name for name, state in lent.items() if not isinstance(state, Module)]:
        raise ConfigError(f"lent {wrong} are no states of learners; give the result's `state` (Result.state)")
    for i, p in enumerate(phases):
        if p.source is not None and p.source not in (earlier := [*lent, *names[:i]]):
            raise ConfigError(f"phase {p.name!r}: its source {p.source!r} is no earlier phase; earlier: {earlier}")
        if not p.online and dataset is None and not any(q.online for q in phases[:i]):
            raise ConfigError(f"phase {p.name!r} learns from data, and the task has none: name a task with a dataset")
    store = make_store(spec, dataset, ring_capacity(phases))
    _check_phases(phases, spec, store, lent)
    return RunState(seed, ring=store.ring, snapshots=lent), fixed_half(store)


def _check_phases(phases: tuple[Phase, ...], spec: Spec, store: Store, lent: Mapping[str, Any]) -> None:
    """That states hand over and that learner, replay and warm-up go together, by shapes alone and before any work.

    Raises `HandoverError`, `ConfigError`, `DataError`.
    """
    key = phase_key(0, 0, INIT)
    states: dict[str | None, Any] = {**lent}
    for phase in phases:

        def enter(key: Key, pretrained: Any, phase: Phase = phase) -> Any:
            return phase.transition(phase.learner, Handover(spec, key, store, pretrained, None))[0]

        state = jax.eval_shape(enter, key, states.get(phase.source))
        states |= {phase.name: state, None: state}
        if phase.warmup.actions == "uniform" and phase.warmup.steps and jax.tree.leaves(_blank_memory(phase, state)):
            raise ConfigError(
                f"phase {phase.name!r}: its learner remembers what it did, and uniform actions are not its own; "
                f"warm up by the policy (--set phases.{phase.name}.warmup.actions=policy)"
            )
        if store.disk is not None:
            _check_disk(phase)
        rstate = phase.replay.init(key, spec, store)
        drawn = jax.eval_shape(lambda k, p=phase, r=rstate: draw_rows(p.work, r, store, k)[0], key)
        if (drawn.ndim == 2) != phase.learner.windows:
            takes = "windows of rows" if phase.learner.windows else "single rows"
            raise ConfigError(
                f"phase {phase.name!r}: its learner takes {takes}, which its replay {type(phase.replay).__name__} does "
                "not draw; Sequences draws windows, the others rows"
            )


def _check_disk(phase: Phase) -> None:
    """That the phase's learner and replay can do with rows that stay on disk. Raises `ConfigError`."""
    learner, replay = phase.learner, phase.replay
    while isinstance(learner, Wrapper) and type(learner).refit is Wrapper.refit:
        learner = learner.base
    looks = {
        type(learner): type(learner).refit is not Learner.refit,
        type(replay): any(
            getattr(type(replay), verb) is not getattr(Replay, verb) for verb in ("init", "add", "update")
        ),
    }
    for part, at_everything in looks.items():
        if at_everything:
            raise ConfigError(
                f"phase {phase.name!r}: {part.__name__} looks at the whole dataset, which is larger than the memory "
                "that may be used and stays on disk; allow more (--memory-limit), take a part of the data that fits "
                "(--filter truncate=20), or a method that learns from batches alone (iql, direct, pex)"
            )


def fixed_half(store: Store) -> Store:
    """The store without its ring, which travels in the RunState."""
    return eqx.tree_at(lambda s: s.ring, store, None)


def whole(fixed: Store, ring: Ring) -> Store:
    """The store of a fixed half and a ring."""
    return eqx.tree_at(lambda s: s.ring, fixed, ring, is_leaf=lambda x: x is None)


def run(
    phases: tuple[Phase, ...],
    task: Any,
    state: RunState,
    fixed: Store,
    settings: Settings,
    interrupted: Callable[[], bool] = lambda: False,
    envs: dict[str, Environment] | None = None,
) -> Iterator[tuple[RunState, list[Row]]]:
    """Yield ``(state, rows)`` through all phases, from wherever `state` stands, until the end or an interruption.

    After an interruption the last yielded state is whole: saved and run again, it continues as if nothing had happened.
    `envs` may bring a "training" environment that stands in the state's open episode.
    Raises `EnvironmentFault` naming phase, step and episode, `HandoverError`, `ConfigError`.
    """
    envs = dict(envs or {})

    def env(purpose: str) -> Environment:
        if purpose not in envs:
            envs[purpose] = task.make_env()
        return envs[purpose]

    try:
        while state.phase < len(phases) and not interrupted():
            c = Context(phases, task, settings, fixed, env, interrupted, [])
            phase, clock = phases[state.phase], time.monotonic()
            if not state.entered:
                state, fixed, rows = _enter(c, phase, state)
            elif state.owed >= phase.learner.stride:
                state, rows = _work_off(c, phase, state), []
            elif _refit_due(phase, state):
                state, rows = _refit(c, phase, state)
            elif _due(settings.log_every, state.logged, phase, state):
                state, rows = _log(c, phase, state)
            elif settings.eval_episodes and _due(settings.eval_every, state.evaluated, phase, state):
                state, rows = _evaluation(c, phase, state)
            elif state.step < phase.steps:
                state, rows = _interact(c, phase, state) if phase.online else (_update(c, phase, state), [])
            else:
                state, rows = _leave(c, phase, state), []
            state = state._replace(wall=state.wall + time.monotonic() - clock)
            yield state, [row | {"wall": round(state.wall, 3)} for row in rows]
            if c.faults:
                raise c.faults[0]
    finally:
        for e in envs.values():
            e.close()


def reenter(phases: tuple[Phase, ...], state: RunState, fixed: Store) -> Store:
    """The store's fixed half for a state read from a checkpoint: return-to-go of the dataset as its phase has it."""
    if state.entered and state.phase < len(phases):
        p = phases[state.phase]
        return fixed_half(with_returns(whole(fixed, state.ring), p.reward, p.learner.discount, state.episodes.closed))
    return fixed


def _due(every: int | None, last: int, phase: Phase, state: RunState) -> bool:
    """Whether a multiple of `every`, or the phase's end, lies in (last, step]."""
    step = state.step
    return every is not None and last < step and (step // every > last // every or step == phase.steps)


def _enter(c: Context, phase: Phase, state: RunState) -> tuple[RunState, Store, list[Row]]:
    """The transition; replay and bonus begun or carried; return-to-go by the phase's convention; the first refit."""
    clock = time.monotonic()
    earlier = c.phases[state.phase - 1] if state.phase else None
    pretrained = (state.snapshots or {})[phase.source] if phase.source else state.learner
    store = with_returns(whole(c.store, state.ring), phase.reward, phase.learner.discount, state.episodes.closed)
    key = lambda stream: phase_key(state.seed, state.phase, stream)

    handover = Handover(c.task.spec, key(INIT), store, pretrained, state.score)
    learner, report = phase.transition(phase.learner, handover)
    report = {n: f"{what}, held still" if n in phase.learner.held else what for n, what in report.items()}
    carried = state.parts if earlier is not None else None
    draws = lambda p: (p.replay, p.reward, p.learner.discount)  # on which a replay's state may depend
    rstate = carried.replay if carried and draws(earlier) == draws(phase) else None
    rstate = phase.replay.init(key(REPLAY), c.task.spec, store) if rstate is None else rstate
    bstate = carried.bonus if carried and earlier.bonus == phase.bonus else None
    bstate = phase.bonus.init(key(BONUS), c.task.spec, store) if bstate is None else bstate
    parts = Parts(learner, rstate, bstate)

    if not phase.online and not bool((draw_rows(phase.work, rstate, store, key(UPDATE))[0] < store.size).all()):
        raise ConfigError(
            f"phase {phase.name!r}: its replay {type(phase.replay).__name__} asks for online rows, and there are none; "
            "give it a share of the dataset"
        )
    abstract = jax.eval_shape(partial(metrics_of, phase.work, store), parts, key(UPDATE))
    infos: dict[str, Any] = {}
    if phase.online:
        obs = jnp.zeros(c.task.spec.obs_dim)
        memory = _blank_memory(phase, learner)
        infos = jax.eval_shape(
            lambda s, m, k: phase.learner.act(s, m, obs, jnp.zeros(()), k, False)[2], learner, memory, key(ACT)
        )
        infos |= jax.eval_shape(
            lambda b: phase.bonus.visit(b, store.layout.batch(jnp.zeros(store.layout.width)))[1], bstate
        )
    state = state._replace(
        parts=parts,
        ring=store.ring,
        entered=True,
        step=0,
        calls=0,
        owed=0,
        evaluated=-1 if phase.online else 0,
        logged=0,
        refitted=-1,
        piece=0,
        live=None,
        sums=blank_sums(abstract),
        act_sums=blank_sums(infos),
    )
    row = {"kind": "handover", "phase": phase.name, "step": 0, "report": report}
    return state, fixed_half(store), [row | {"seconds": round(time.monotonic() - clock, 3)}]


def metrics_of(work: Work, store: Store, parts: Parts, key: Key) -> dict[str, Array]:
    """The metrics of an update."""
    batch = None
    if store.disk is not None:
        indices, weight = draw_rows(work, parts.replay, store, key)
        batch = store.at(indices, work.reward, weight, jnp.zeros((*indices.shape, store.layout.width)))
    return update_once(work, store, parts, key, batch)[1]


def _blank_memory(phase: Phase, learner: Any) -> Any:
    """The acting memory's shapes."""
    key = phase_key(0, 0, ACT)
    return jax.eval_shape(lambda s: phase.learner.begin(s, key, False), learner)


def _refit_due(phase: Phase, state: RunState) -> bool:
    """At the phase's start and at every multiple of ``refit_every`` before its end."""
    every, last = phase.refit_every, state.refitted
    return last < 0 or (every is not None and state.step // every > last // every and state.step < phase.steps)


def _refit(c: Context, phase: Phase, state: RunState) -> tuple[RunState, list[Row]]:
    """A piece of the learner's refit."""
    if type(phase.learner).refit is Learner.refit:
        return state._replace(refitted=state.step), []
    rows = Rows(whole(c.store, state.ring), state.parts.replay, phase.replay, phase.reward, c.task.spec)
    key = jax.random.fold_in(phase_key(state.seed, state.phase, REFIT), state.step)
    try:
        refit = phase.learner.refit(state.learner, rows, key, state.piece)
    except Diverged as fault:
        raise Diverged(f"phase {phase.name!r}, step {state.step}: {fault}") from fault
    row = {"phase": phase.name, "step": state.step}
    rows = [row | {"kind": "progress", "text": refit.progress}] if refit.progress else []
    if refit.metrics or refit.notes:
        rows.append(row | {"kind": "refit", "metrics": dict(refit.metrics), "report": dict(refit.notes)})
    state = state._replace(
        parts=state.parts._replace(learner=refit.state),
        refitted=state.step if refit.done else state.refitted,
        piece=0 if refit.done else state.piece + 1,
    )
    return state, rows


def _leave(c: Context, phase: Phase, state: RunState) -> RunState:
    """On to the next phase; the final state is kept where a later phase names it."""
    snapshots = dict(state.snapshots or {})
    if any(p.source == phase.name for p in c.phases[state.phase + 1 :]):
        snapshots[phase.name] = jax.tree.map(jnp.copy, state.learner)
    return state._replace(phase=state.phase + 1, entered=False, step=0, live=None, snapshots=snapshots)


def _log(c: Context, phase: Phase, state: RunState) -> tuple[RunState, list[Row]]:
    """The metrics' means since the last row."""
    metrics: dict[str, float] = {}
    for sums in (state.sums, state.act_sums):
        if count := int(sums.count):
            metrics |= {k: float(v) / count for k, v in sums.total.items()}
    zero = lambda sums: jax.tree.map(jnp.zeros_like, sums)
    state = state._replace(sums=zero(state.sums), act_sums=zero(state.act_sums), logged=state.step)
    return state, [{"kind": "train", "phase": phase.name, "step": state.step, "metrics": metrics}] if metrics else []


def _evaluation(c: Context, phase: Phase, state: RunState) -> tuple[RunState, list[Row]]:
    """Greedy episodes, and as-acted ones at both ends of a phase."""
    rows = []
    at_an_end = state.step == phase.steps or (phase.online and state.step == 0)
    modes = {"greedy": GREEDY} | ({"acting": ACTING} if at_an_end else {})
    for mode, stream in modes.items():
        seed = (state.seed, stream, state.phase, state.step)
        greedy = mode == "greedy"
        try:
            outcomes = evaluate(
                phase.learner, state.learner, c.env("evaluation"), c.settings.eval_episodes, seed, greedy, c.interrupted
            )
        except Interrupted:
            return state, []
        except (EnvironmentFault, Diverged) as fault:
            raise type(fault)(f"phase {phase.name!r}, step {state.step}: {fault}") from fault
        returns = [o.return_ for o in outcomes]
        mean, length = float(np.mean(returns)), float(np.mean([o.length for o in outcomes]))
        names = sorted({k for o in outcomes for k in o.extras})
        extras = {k: float(np.mean([o.extras[k] for o in outcomes if k in o.extras])) for k in names}
        s = float(np.mean([c.task.score(o.return_, o.extras.get("success")) for o in outcomes]))
        if greedy:
            seen = Episode(s, mean, round(length), True)
        rows.append(
            {"kind": "evaluation", "phase": phase.name, "step": state.step, "mode": mode, "score": s, "return": mean}
            | {"length": length, "returns": returns, "extras": extras}
        )
    learner = phase.learner.observe(state.learner, seen)
    return state._replace(parts=state.parts._replace(learner=learner), score=seen.score, evaluated=state.step), rows


def _next_mark(c: Context, phase: Phase, step: int) -> int:
    """The next step at which anything is due."""
    every = [n for n in (c.settings.log_every, c.settings.eval_every, phase.refit_every) if n]
    return min([phase.steps, *(step - step % n + n for n in every)])


BLOCK = 20  # updates whose rows are gathered together
_SECONDS: dict[tuple[Work, int], float] = {}  # per update of compiled programs, so that stretches stay short


def _stretch(c: Context, phase: Phase, state: RunState, calls: int) -> tuple[RunState, int]:
    """At most `calls` updates without interruption, of about `piece_seconds`; how many it were."""
    n = BLOCK if calls >= BLOCK else 1
    program, clock = (phase.work, n), time.monotonic()
    blocks = 1
    if program in _SECONDS:
        blocks = min(calls // n, max(1, int(c.settings.piece_seconds / (n * _SECONDS[program]))))
    key = phase_key(state.seed, state.phase, UPDATE)
    store = whole(c.store, state.ring)
    if store.disk is None:
        parts, sums = update_many(
            phase.work, n, np.int32(blocks), store, state.parts, state.sums, key, np.int32(state.calls)
        )
    else:
        parts, sums = update_from_disk(phase.work, n, blocks, store, state.parts, state.sums, key, state.calls)
    jax.block_until_ready(sums.count)
    _SECONDS[program] = (time.monotonic() - clock) / (blocks * n)  # the first call compiles: the second is short again
    return state._replace(parts=parts, sums=sums, calls=state.calls + blocks * n), blocks * n


def _update(c: Context, phase: Phase, state: RunState) -> RunState:
    """A stretch of offline updates."""
    stride = phase.learner.stride
    calls = -(-(_next_mark(c, phase, state.step) - state.step) // stride)  # passes a mark by less than one update
    state, n = _stretch(c, phase, state, calls)
    return state._replace(step=min(state.step + n * stride, phase.steps))


def _work_off(c: Context, phase: Phase, state: RunState) -> RunState:
    """A stretch of a block of updates; after the last one the learner acts again."""
    stride = phase.learner.stride
    state, n = _stretch(c, phase, state, state.owed // stride)
    state = state._replace(owed=state.owed - n * stride)
    return _choose(c, phase, state) if state.owed < stride and state.live is not None else state


# --------------------------------------------------------------------------------------------------------- interaction


def _open_episode(c: Context, phase: Phase, state: RunState) -> RunState:
    """Reset the training environment, begin the acting memory, choose the first action."""
    number = len(state.episodes.start)
    obs = c.env("training").reset(seed_of(state.seed, TRAINING, number))
    key = jax.random.fold_in(phase_key(state.seed, state.phase, BEGIN), number)
    memory = begin(phase.learner, state.learner, key, False)
    live = Live(obs, np.zeros(0, np.float32), np.float32(0), 0, 0.0, memory)
    return _choose(c, phase, state._replace(live=live))


def _choose(c: Context, phase: Phase, state: RunState) -> RunState:
    """Act on the open episode's observation."""
    live = state.live
    key = phase_key(state.seed, state.phase, ACT)
    if phase.warmup.actions == "uniform" and state.step < phase.warmup.steps:
        k = jax.random.fold_in(key, state.step)
        action = jax.random.uniform(k, (c.task.spec.act_dim,), minval=-1.0, maxval=1.0)
        return state._replace(live=live._replace(action=np.array(action)))
    t = np.int32(state.step)
    action, memory, info = act(phase.learner, state.learner, live.memory, live.obs, live.reward, key, t, False)
    act_sums = state.act_sums
    if not act_sums.total.keys() - info.keys():  # a bonus's visit metrics come with rows only
        act_sums = add_metrics(act_sums, info)
    return state._replace(live=live._replace(action=np.array(action), memory=memory), act_sums=act_sums)


MOST_FUSED = 32  # updates that one environment step's program may hold; longer blocks go through `_work_off`


def _interact(c: Context, phase: Phase, state: RunState) -> tuple[RunState, list[Row]]:
    """Environment steps up to the next mark; fewer on an interruption, before a long block of updates, and where they
    take longer than `piece_seconds`.
    """
    rows: list[Row] = []
    clock = time.monotonic()
    stride, mark = phase.learner.stride, _next_mark(c, phase, state.step)
    k_update, k_act = (phase_key(state.seed, state.phase, stream) for stream in (UPDATE, ACT))
    env = c.env("training")
    while state.step < mark:
        try:
            if state.live is None:
                state = _open_episode(c, phase, state)
            live = state.live
            result = env.step(live.action)
        except (EnvironmentFault, Diverged) as fault:
            where = f"phase {phase.name!r}, step {state.step}, episode {len(state.episodes.start)}"
            c.faults.append(type(fault)(f"{where}: {fault}"))
            break
        step, length = state.step + 1, live.length + 1
        cut = step == phase.steps and not (result.terminal or result.timeout)  # the phase ends: as a time limit
        ended = result.terminal or result.timeout or cut
        row = c.store.layout.pack(
            live.obs, live.action, result.reward, result.obs, result.terminal, result.timeout or cut, live.length
        )
        owed = state.owed
        if step > phase.warmup.steps:
            owed += phase.updates.owed(step - phase.warmup.steps, length if ended else None)
        closes = ended and isinstance(phase.updates, PerEpisode)  # learns from the episode once it is closed
        fused = owed // stride <= MOST_FUSED and not closes
        n = owed // stride if fused else 0
        uniform = phase.warmup.actions == "uniform" and step < phase.warmup.steps
        given = None
        if n and c.store.disk is not None:
            longer = eqx.tree_at(lambda r: r.written, state.ring, state.ring.written + 1)
            given = fetch(phase.work, n, whole(c.store, longer), state.parts.replay, k_update, state.calls)
        ring, parts, memory, sums, act_sums, action = _online_step(
            phase.work, n, fused and not ended, uniform, c.store, state.ring, state.parts, live.memory, state.sums,
            state.act_sums, row, np.array([state.calls, step], np.int32), k_update, k_act, given,
        )  # fmt: skip
        return_ = live.return_ + result.reward
        state = state._replace(
            step=step,
            calls=state.calls + n,
            owed=owed - n * stride,
            env_steps=state.env_steps + 1,
            ring=ring,
            parts=parts,
            sums=sums,
            act_sums=act_sums,
            live=Live(result.obs, np.array(action), np.float32(result.reward), length, return_, memory),
        )
        if ended:
            state, row = _close(c, phase, state, cut, result.info.get("episode", {}).get("success"))
            rows.append(row)
        if not fused or c.interrupted() or time.monotonic() - clock > c.settings.piece_seconds:
            break
    return state, rows


def _close(c: Context, phase: Phase, state: RunState, cut: bool, success: float | None) -> tuple[RunState, Row]:
    """Return-to-go, the episode table; the learner sees the score, unless the phase's end cut the episode."""
    live = state.live
    score = float(c.task.score(live.return_, success))
    row = {"kind": "episode", "phase": phase.name, "step": state.step, "episode": len(state.episodes.start)}
    learner, start = state.learner, state.env_steps - live.length
    if not cut:
        learner = phase.learner.observe(learner, Episode(score, live.return_, live.length, False))
    ring = close_episode(state.ring, live.length, phase.reward, phase.learner.discount)
    replay = phase.replay.close(state.parts.replay, start, live.length)
    state = state._replace(
        ring=ring,
        parts=state.parts._replace(learner=learner, replay=replay),
        episodes=state.episodes.add(start, live.length, live.return_, score),
        live=None,
    )
    return state, row | {"return": live.return_, "length": live.length, "score": score, "cut": cut}
