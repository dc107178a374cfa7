"""The same as the command line, from Python: one call from a dataset to a fine-tuned policy."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segue import overrides, tasks
from segue.errors import ConfigError
from segue.evaluate import act, begin
from segue.phases import Phase, Settings, run, start
from segue.recipes import phases_of
from segue.runs.codec import allow
from segue.runs.compiled import forget_many
from segue.runs.run import Progress, check_arrays, check_rows, create, execute, make_config
from segue.tasks.task import Task
from segue.types import Learner


@dataclass(frozen=True)
class Result:
    """What training returns."""

    learner: Learner
    state: Any  # the learner's final state: arrays only
    history: list[dict[str, Any]]  # rows as in metrics.jsonl: handover, refit, train, episode, evaluation
    task: Task
    phases: tuple[Phase, ...]

    def policy(self, seed: int = 0) -> Callable[..., np.ndarray]:
        """The greedy policy as a function from one observation ``[obs_dim]`` to an action in [-1, 1] ``[act_dim]``.

        It keeps the learner's acting memory (most methods have none): ask for a new one at each episode's start.
        Decision transformers ask for what is left of a return: they want ``choose(obs, reward)``, with the reward that
        the task paid for the action before.
        """
        key = jax.random.key(seed)
        memory, t = begin(self.learner, self.state, key, True), 0

        def choose(obs: np.ndarray, reward: float = 0.0) -> np.ndarray:
            nonlocal memory, t
            seen = jnp.asarray(obs, jnp.float32)
            action, memory, _ = act(self.learner, self.state, memory, seen, np.float32(reward), key, np.int32(t), True)
            t += 1
            return np.asarray(action)

        return choose


def train(
    method: str | tuple[Phase, ...],
    dataset: str | Path | None = None,
    env: str | None = None,
    task: str | Task | None = None,
    *,
    offline_steps: int | None = None,
    online_steps: int | None = None,
    seed: int = 0,
    reading: tasks.Reading | None = None,
    filters: Sequence[str] = (),
    set: Mapping[str, Any] | None = None,
    eval_every: int = 5000,
    eval_episodes: int = 10,
    out: str | Path | None = None,
    lend: Mapping[str, Any] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Result:
    """Pre-train, hand over, fine-tune.

    Args:
        method: a name of `segue list`, or phases of your own.
        dataset: a file (.npz, .hdf5, .csv, .parquet), a folder of Minari or ``minari:ID``: the data of the `env`, or in
            place of those of a named task.
        env: a Gymnasium id or ``module:Class``.
        task: a named task (``"hopper-medium"``) or a Task.
        reading: how the file is to be understood (``tasks.Reading(columns={"obs": "sensor_*"})``); default: as the
            named task says, else as the file says itself.
        filters: words of `segue.tasks.filters`, in order: ``("truncate=20",)`` leaves rows of the data out.
        offline_steps, online_steps: budgets; None takes the recipe's own, 0 leaves the phase out.
        set: fields to change by path, as with ``--set``: ``{"phases.online.learner.base.beta": 5.0}``.
        out: a run directory: checkpoints are kept there, and the same call goes on where it stopped.
        lend: final states of other runs, also on other tasks (`Result.state`), by the names that the `source` of
            phases of your own gives them; shapes must fit. Not with `out`: a directory holds all that its run needs.
        progress: called with every stretch of work.

    Raises:
        SegueError: anything that the caller can mend, in one sentence (`segue.errors`).
        KeyboardInterrupt: a signal asked to stop; with `out` everything is saved first.
    """
    forget_many()  # a sweep in one process compiles anew for every setting
    task = tasks.filtered(_task(task, env, dataset, reading), filters)
    phases = method if isinstance(method, tuple) else phases_of(method, task, offline_steps, online_steps)
    for path, value in (set or {}).items():
        phases = overrides.apply(phases, path, value)
    settings = Settings(eval_every=eval_every, eval_episodes=eval_episodes)
    name = method if isinstance(method, str) else "+".join(p.name for p in phases)
    if out is not None:
        if lend:
            raise ConfigError("segue.train: a run with lent states cannot be kept in a directory; leave `out` out")
        from segue.runs.report import read_run

        folder = Path(out)
        allow(phases)  # classes of the caller's own may stand in this run's files
        create(folder, make_config(name, task, phases, seed, settings, ["segue.train"], dict(set or {})))
        state, finished = execute(folder, progress or _quiet, say=warnings.warn)
        if not finished:
            raise KeyboardInterrupt(f"stopped and saved in {folder}; the same call goes on")
        return Result(phases[-1].learner, state.learner, [dict(row) for row in read_run(folder).rows], task, phases)

    data = task.dataset if task.load_dataset is not None else None
    first, fixed = start(seed, phases, task.spec, data, lend)
    history: list[dict[str, Any]] = []
    for state, rows in run(phases, task, first, fixed, settings):
        check_rows(rows)
        history += [row for row in rows if row["kind"] != "progress"]
        if progress:
            progress(Progress(phases[min(state.phase, len(phases) - 1)], state, rows))
    check_arrays(state, phases)
    return Result(phases[-1].learner, state.learner, history, task, phases)


def _task(task: str | Task | None, env: str | None, dataset: str | Path | None, reading: tasks.Reading | None) -> Task:
    if reading is not None and dataset is None:
        raise ConfigError("segue.train: `reading` says how a file is read; give it with `dataset`")
    if task is None:
        if env is None and dataset is None:
            raise ConfigError("segue.train takes a task, or an env, a dataset or both")
        return tasks.custom_task(env, dataset, reading=reading or tasks.Reading())
    if env is not None:
        raise ConfigError(
            "segue.train takes either a task, or env and dataset; `dataset` alone replaces the data of a named task"
        )
    if isinstance(task, str):
        return tasks.get(task, dataset=dataset, reading=reading)
    if dataset is not None:
        raise ConfigError("segue.train: a Task has its data; give the task's name with `dataset`, or the Task alone")
    return task


def _quiet(*_: Any) -> None:
    """Say nothing."""
