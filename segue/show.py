"""What a method resolves to on a task, where each number comes from, and what it will cost."""

from __future__ import annotations

import dataclasses
import resource
import time
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from segue import presets
from segue.evaluate import evaluate
from segue.phases import Phase, Settings, run, start
from segue.runs.codec import encode, leaves


def origins(method: str, task: Any, phase: Phase, index: int, changed: dict[str, Any]) -> list[tuple[str, Any, str]]:
    """Path, value and origin of every field: ``--set``, a preset with its source, a default, or the recipe."""
    rows = []
    for path, value in leaves(encode(phase)):
        if path == "@":
            continue
        name = path.rpartition(".")[2]
        if name == "@":
            rows.append((path.removesuffix(".@"), value.partition(":")[2], ""))
            continue
        owner = _owner(phase, path)
        rows.append((path, value, _origin(task, owner, name, value, changed, phase, index, path)))
    return rows


def _owner(phase: Phase, path: str) -> Any:
    node: Any = phase
    for part in path.split(".")[:-1]:
        node = node[int(part)] if part.isdigit() else getattr(node, part)
    return node


def _origin(
    task: Any, owner: Any, name: str, value: Any, changed: dict[str, Any], phase: Phase, index: int, path: str
) -> str:
    if any(f"phases.{which}.{path}" in changed for which in (str(index), phase.name)):
        return "--set"
    family = type(owner).__name__.lower()
    try:
        block = presets.block(family, task)
        if name in block.values and encode(block.values[name]) == value:
            return f"preset {family}: {block.source}"
    except ModuleNotFoundError:
        pass
    for f in dataclasses.fields(owner):
        default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
        if f.name == name and default is not dataclasses.MISSING and encode(default) == value:
            return "default"
    return "recipe"


def show(method: str, task: Any, phases: tuple[Phase, ...], changed: dict[str, Any]) -> None:
    """Print all phases as tables."""
    console = Console()
    reference = task.score_reference
    console.print(f"[bold]{method}[/bold] on [bold]{task.name}[/bold] (family {task.family})")
    console.print(
        f"observations {task.obs_dim}, actions {task.act_dim}, time limit {task.horizon}; score 0..100 = "
        + (f"{reference.minimum:g}..{reference.maximum:g} ({reference.name})" if reference else "the raw return")
    )
    for i, phase in enumerate(phases):
        table = Table(title=f"phase {i}: {phase.name}", title_justify="left", box=None, padding=(0, 2, 0, 0))
        for column in ("path (for --set: phases." + phase.name + ".PATH=VALUE)", "value", "from"):
            table.add_column(column, overflow="fold")
        for path, value, origin in origins(method, task, phase, i, changed):
            dim = "dim" if origin == "default" else ""
            table.add_row(path, _text(value), origin, style=dim)
        console.print(table)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def cost(task: Any, phases: tuple[Phase, ...], seconds: float = 4.0) -> dict[str, float]:
    """Time a few seconds of every phase and print core-hours and memory for all; the numbers, too.

    Phases are timed one after the other on a shortened run with the real sizes, compilation apart.
    """
    console = Console()
    needs_data = any(not p.online for p in phases)
    trial = tuple(dataclasses.replace(p, steps=_trial_steps(p)) for p in phases)
    first, fixed = start(0, phases, task.spec, task.dataset if needs_data or task.load_dataset else None)
    settings = Settings(eval_every=10**9, eval_episodes=0, log_every=20)
    marks: dict[str, list[tuple[float, int]]] = {p.name: [] for p in phases}
    learners: dict[str, Any] = {}
    with console.status("timing a few seconds of each phase"):
        skip: set[str] = set()
        for state, _ in run(trial, task, first, fixed, settings, lambda: False):
            name = trial[min(state.phase, len(trial) - 1)].name
            if state.entered and name not in skip:
                marks[name].append((time.monotonic(), state.step))
                learners[name] = state.learner
        table = Table(title="predicted cost on this machine", title_justify="left", box=None, padding=(0, 2, 0, 0))
        for column in ("phase", "steps", "ms a step", "core-hours"):
            table.add_column(column, justify="left" if column == "phase" else "right")
        total = 0.0
        for p in phases:
            ms = 1e3 * _per_step(marks[p.name], p)
            hours = ms * p.steps / 3.6e6
            total += hours
            table.add_row(p.name, f"{p.steps:,}", f"{ms:.2f}", f"{hours:.2f}")
        env = task.make_env()
        clock = time.monotonic()
        outcomes = evaluate(phases[-1].learner, learners[phases[-1].name], env, 2, (0,))
        per_step = (time.monotonic() - clock) / max(sum(o.length for o in outcomes), 1)
        env.close()
    evaluation = Settings()
    count = sum(p.steps // evaluation.eval_every + 1 for p in phases) * evaluation.eval_episodes
    longest = task.horizon or 1000
    hours = count * longest * per_step / 3600
    table.add_row("evaluation", f"{count} episodes", f"{per_step * 1e3:.2f}", f"up to {hours:.2f}")
    table.add_row("all, one seed", "", "", f"{total + hours:.2f}", style="bold")
    console.print(table)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    console.print(f"memory: about {memory:.1f} GiB a seed (peak of this trial, ring of the full length included)")
    cores = jax.device_count() if jax.default_backend() != "cpu" else None
    console.print(
        "a run of one seed uses "
        + ("the accelerator" if cores else "all cores; several seeds run one to a core, each somewhat slower")
    )
    return {"core_hours": total + hours, "memory_gib": memory}


def _trial_steps(p: Phase) -> int:
    steps = 2_000 if p.online else 1_000
    warm = p.warmup.steps if p.online else 0
    return max(min(p.steps, steps + warm) // p.learner.slices, 1) * p.learner.slices


def _per_step(marks: list[tuple[float, int]], p: Phase) -> float:
    """Seconds per step over the second half of the marks (the first holds compilation and warm-up)."""
    usable = [(t, s) for t, s in marks if s > (p.warmup.steps if p.online else 0)]
    usable = usable[len(usable) // 2 :]
    if len(usable) < 2 or usable[-1][1] == usable[0][1]:
        return float(np.nan)
    return (usable[-1][0] - usable[0][0]) / (usable[-1][1] - usable[0][1])
