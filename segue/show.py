"""What a method resolves to on a task, where each number comes from, and what it will cost."""

from __future__ import annotations

import copy
import dataclasses
import math
import resource
import time
from typing import Any, NamedTuple

import jax
from rich.console import Console
from rich.table import Table

from segue import presets, recipes
from segue.errors import ConfigError
from segue.evaluate import evaluate
from segue.phases import Block, PerEpisode, PerStep, Phase, Settings, reenter, run, start
from segue.runs.codec import encode, leaves
from segue.store import Affine
from segue.types import Key, Learner, Refit

TRIAL_SECONDS, TRIAL_STEPS = 5.0, 100  # how long a phase is tried at least, if it has as many steps


def budgeted(method: str, task: Any, given: dict[str, int]) -> dict[tuple[str, str], str]:
    """The fields that a budget decides, by phase and path: those that another budget would change."""
    fields = lambda phases: {(p.name, path): value for p in phases for path, value in leaves(encode(p))}
    recipe, decided = recipes.recipe(method), {}
    phases = recipe(task, **given)
    for budget, online in (("offline_steps", False), ("online_steps", True)):
        unit = math.lcm(*(p.learner.stride for p in phases))  # offline budgets are whole updates
        for other in (unit, 10**9 // unit * unit) if any(p.online is online for p in phases) else ():
            there = fields(recipe(task, **given | {budget: other}))
            decided |= {k: budget for k, value in fields(phases).items() if there.get(k, value) != value}
    return decided


def origins(
    task: Any,
    phase: Phase,
    index: int,
    changed: dict[str, Any],
    decided: dict[tuple[str, str], str],
    given: dict[str, int],
    method: str = "",
) -> list[tuple[str, Any, str]]:
    """Path, value and origin of every field: the command line, a preset with its source, a default, or the recipe.

    Presets are those of the page and those of `method`, by its name up to a hyphen too.
    """
    rows = []
    for path, value in leaves(encode(phase)):
        if path == "@":
            continue
        name = path.rpartition(".")[2]
        if name == "@":
            rows.append((path.removesuffix(".@"), value.partition(":")[2], ""))
            continue
        budget = decided.get((phase.name, path))
        if any(f"phases.{which}.{path}" in changed for which in (str(index), phase.name)):
            origin = "--set"
        elif budget is not None and path == "steps" and budget in given:
            origin = f"--{budget.replace('_', '-')}"
        elif budget is not None:
            origin = "recipe" if path == "steps" else f"recipe, from {budget}"
        else:
            origin = _origin(task, _owner(phase, path), name, value, method)
        rows.append((path, value, origin))
    return rows


def _owner(phase: Phase, path: str) -> Any:
    node: Any = phase
    for part in path.split(".")[:-1]:
        node = node[int(part)] if part.isdigit() else getattr(node, part)
    return node


def _origin(task: Any, owner: Any, name: str, value: Any, method: str) -> str:
    families, fields = [type(owner).__name__.lower()], dataclasses.fields(owner)
    if isinstance(owner, Learner):
        families += [f for f in (method.replace("-", "_"), method.partition("-")[0]) if f]
    for family in dict.fromkeys(families):
        try:
            block = presets.block(family, task)
        except ModuleNotFoundError:
            continue
        if name in block.values and encode(block.values[name]) == value:
            return f"preset {family}: {block.source}"
    for f in fields:
        default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
        if f.name == name and default is not dataclasses.MISSING and encode(default) == value:
            return "default"
    return "preset: the family's reward convention" if isinstance(owner, Affine) else "recipe"


def show(
    method: str, task: Any, phases: tuple[Phase, ...], changed: dict[str, Any], given: dict[str, int] | None = None
) -> None:
    """Print all phases as tables. `given` holds the budgets of the command line by name: ``offline_steps``."""
    console, given = Console(), given or {}
    decided = budgeted(method, task, given)
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
        for path, value, origin in origins(task, phase, i, changed, decided, given, method):
            dim = "dim" if origin == "default" else ""
            table.add_row(path, _text(value), origin, style=dim)
        console.print(table)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def cost(task: Any, phases: tuple[Phase, ...]) -> dict[str, float]:
    """Run a shortened trial of every phase, at the real sizes; print and return hours, core-hours and memory for all.

    A phase is tried for `TRIAL_SECONDS` and `TRIAL_STEPS` behind its warm-up, or for `_trial_steps` if these take less;
    updates that come in blocks are spread over the steps, the longer first block is counted as steps more.
    Core-hours count the processor time of all cores; compilation and warm-up are left out, and so are refits in pieces,
    whose number the data decide: a line says what one piece takes. Evaluations are left out, aloud, where the task has
    no environment.
    """
    console = Console()
    try:
        env, missing = task.make_env(), ""
    except ConfigError as error:
        env, missing = None, str(error)
    pieces: dict[str, list[float]] = {p.name: [] for p in phases}
    trial = tuple(
        dataclasses.replace(
            p, steps=_trial_steps(p), learner=_cut_short(p.learner, pieces[p.name]), updates=_spread(p.updates)
        )
        for p in phases
    )
    first, fixed = start(0, phases, task.spec, task.dataset if task.load_dataset is not None else None)
    settings = Settings(eval_every=10**9, eval_episodes=0, log_every=20)
    marks: dict[str, list[Mark]] = {p.name: [] for p in phases}
    learners: dict[str, Any] = {}
    state, i = first, 0

    def enough() -> bool:
        return state.phase > i or _timed(marks[phases[i].name], phases[i])

    with console.status("timing a few seconds of each phase"):
        for i, p in enumerate(phases):
            begun = state
            for state, _ in run(trial, task, begun, fixed, settings, enough):
                if state.phase == i and state.entered:
                    marks[p.name].append(Mark(time.monotonic(), time.process_time(), state.step))
                    learners[p.name] = state.learner
            fixed = reenter(trial, state, fixed)
            if state.phase == i:  # its time was up: it ends here
                trial = (*trial[:i], dataclasses.replace(trial[i], steps=state.step), *trial[i + 1 :])
        evaluation = None if env is None else _per_evaluated_step(phases[-1].learner, learners[phases[-1].name], env)

    table = Table(
        title="predicted cost on this machine, one seed", title_justify="left", box=None, padding=(0, 2, 0, 0)
    )
    for column in ("phase", "steps", "ms a step", "hours", "core-hours"):
        table.add_column(column, justify="left" if column == "phase" else "right")
    hours = core_hours = 0.0
    episodes = sum(p.steps // Settings().eval_every + 1 for p in phases) * Settings().eval_episodes
    costs = [(p.name, p.steps + _opening(p), *_per_step(marks[p.name], p)) for p in phases]
    if evaluation is not None:
        costs.append((f"evaluation, at most {episodes} episodes", episodes * (task.horizon or 1000), *evaluation))
    for name, n, seconds, core_seconds in costs:
        hours, core_hours = hours + n * seconds / 3600, core_hours + n * core_seconds / 3600
        cells = (f"{1e3 * seconds:.2f}", f"{n * seconds / 3600:.2f}", f"{n * core_seconds / 3600:.2f}")
        table.add_row(name, f"{n:,}", *cells)
    table.add_row("all", "", "", f"{hours:.2f}", f"{core_hours:.2f}", style="bold")
    console.print(table)
    if env is None:
        console.print(f"not included: evaluations; {missing}", soft_wrap=True)
    for p in phases:
        if pieces[p.name]:
            again = f" and every {p.refit_every:,} steps" if p.refit_every else ""
            console.print(
                f"not included: what {p.name} learns in refits, at its start{again} (training of models, rollouts): "
                f"about {pieces[p.name][0]:.2g} s a piece, and the data decide how many pieces it takes",
                soft_wrap=True,
            )
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    console.print(
        f"memory: about {memory:.1f} GiB a seed (peak of this trial, which holds data and ring at full length)"
    )
    return {"hours": hours, "core_hours": core_hours, "memory_gib": memory}


def _per_evaluated_step(learner: Learner, state: Any, env: Any) -> tuple[float, float]:
    """Seconds and core-seconds per step of an evaluation; closes `env`."""
    evaluate(learner, state, env, 1, (1,))  # compiles
    wall, processor = time.monotonic(), time.process_time()
    steps = max(sum(o.length for o in evaluate(learner, state, env, 2, (0,))), 1)
    spent = ((time.monotonic() - wall) / steps, (time.process_time() - processor) / steps)
    env.close()
    return spent


def _cut_short(learner: Learner, seconds: list[float]) -> Learner:
    """`learner`, but a refit that takes more than two pieces ends there, as if it had not been, and no other begins.

    The second piece's time goes to `seconds`: the first compiles.
    """
    before: list[Any] = []

    def refit(state: Any, rows: Any, key: Key, piece: int) -> Refit:
        if seconds:
            return Refit(state)
        if piece == 0:
            before[:] = [state]
        clock = time.monotonic()
        part = learner.refit(state, rows, key, piece)
        if part.done or piece == 0:
            return part
        jax.block_until_ready(part.state)
        seconds.append(time.monotonic() - clock)
        return Refit(before.pop())

    cut = copy.copy(learner)  # of the same type, equal: its programs are the run's
    object.__setattr__(cut, "refit", refit)
    return cut


class Mark(NamedTuple):
    """Where a trial stood: seconds on the wall, seconds of all cores, step of the phase."""

    wall: float
    processor: float
    step: int


def _learning(marks: list[Mark], p: Phase) -> list[Mark]:
    """The marks behind the warm-up."""
    return [m for m in marks if m.step > (p.warmup.steps if p.online else 0)]


def _timed(marks: list[Mark], p: Phase) -> bool:
    """Whether a phase has been tried for long enough; some of its first steps waited for compilation.

    One that learns at the ends of episodes never has: there must be some.
    """
    if isinstance(p.updates, PerEpisode) or not (learning := _learning(marks, p)):
        return False
    a, b = learning[0], learning[-1]
    return b.step - a.step >= TRIAL_STEPS and b.wall - a.wall > TRIAL_SECONDS


def _spread(updates: Any) -> Any:
    """A schedule of blocks as so many updates after every step."""
    return PerStep(updates.updates / updates.collect) if isinstance(updates, Block) else updates


def _opening(p: Phase) -> int:
    """The steps with as many updates as a longer first block has more."""
    if not p.online or not isinstance(p.updates, Block) or p.steps < max(p.updates.first, p.updates.collect):
        return 0
    return (p.updates.opening - 1) * p.updates.collect


def _trial_steps(p: Phase) -> int:
    steps = 2_000 + p.warmup.steps if p.online else 1_000
    return max(min(p.steps, steps) // p.learner.stride, 1) * p.learner.stride


def _per_step(marks: list[Mark], p: Phase) -> tuple[float, float]:
    """Seconds and core-seconds per step over the second half of the marks; over all of them in a very short phase."""
    learning = _learning(marks, p)
    late = learning[len(learning) // 2 :]
    a, b = (late[0], late[-1]) if len(late) > 1 and late[-1].step > late[0].step else (marks[0], marks[-1])
    n = max(b.step - a.step, 1)
    return (b.wall - a.wall) / n, (b.processor - a.processor) / n
