"""What came out of runs: a table, one HTML page with pictures, and the same numbers for machines.

A run directory holds ``config.json`` and ``metrics.jsonl``; nothing else of it is read. Runs that differ in nothing but
the seed form an *arm*. The numbers of one run are defined in :class:`Summary`; over the seeds of an arm they are given
as interquartile mean with 95 % stratified bootstrap intervals (:mod:`segue.runs.statistics`).
"""

from __future__ import annotations

import base64
import functools
import io
import itertools
import json
import math
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from segue.errors import CheckpointError
from segue.files import replacing
from segue.runs.statistics import bootstrap_band, interquartile_mean, stratified_bootstrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMAT = 1
DEPTH = 3  # folders below a given one that are searched for runs
POINTS, SHARE = 5.0, 0.10  # a hand-over is safe within max(5 points, 10 % of the offline score)

# --------------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class RunRecord:
    """One run directory, read and checked."""

    path: Path
    config: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]  # row i stands in line i + 1 of metrics.jsonl
    torn: bool = False  # the last line was incomplete and is left out

    @property
    def method(self) -> str:
        return self.config["method"]

    @property
    def task(self) -> str:
        return self.config["task"]["name"]

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def phases(self) -> list[Mapping[str, Any]]:
        return self.config["phases"]

    @property
    def handover(self) -> int | None:
        """Index of the first online phase."""
        return next((i for i, phase in enumerate(self.phases) if phase["online"]), None)

    def starts(self) -> list[int]:
        """Position of each phase's step 0, and of the end, on one axis whose 0 is the hand-over.

        Updates of the phases before it count downwards from 0. Without an online phase, 0 is the end of the run.
        """
        ends = list(itertools.accumulate((phase["steps"] for phase in self.phases), initial=0))
        zero = ends[-1] if self.handover is None else ends[self.handover]
        return [end - zero for end in ends]

    def of(self, kind: str, mode: str | None = None) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """``(phase index, row)`` of one kind, evaluations of one mode, in the order written."""
        index = {phase["name"]: i for i, phase in enumerate(self.phases)}
        for row in self.rows:
            if row["kind"] == kind and (mode is None or row["mode"] == mode):
                yield index[row["phase"]], row


def find_runs(paths: Iterable[Path | str]) -> list[Path]:
    """Run directories among and below the given ones, three folders deep, each once, in the order of their names.

    Raises:
        CheckpointError: a path is no directory, or holds no run.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            raise CheckpointError(f"{path}: no such directory; give a run directory or a folder of them")
        runs = list(_runs_below(path, DEPTH))
        if not runs:
            raise CheckpointError(
                f"{path}: no run in it or up to {DEPTH} folders below (no config.json); "
                "is this a run directory? `segue run` writes them"
            )
        found |= {run.resolve(): run for run in runs}
    return list(found.values())


def _runs_below(path: Path, depth: int) -> Iterator[Path]:
    if (path / "config.json").exists() or (path / "metrics.jsonl").exists():
        yield path
    elif depth:
        for child in sorted((c for c in path.iterdir() if c.is_dir()), key=_natural):
            yield from _runs_below(child, depth - 1)


def _natural(path: Path) -> list[tuple[int, int | str]]:
    """``seed-10`` after ``seed-9``."""
    parts = ("".join(group) for _, group in itertools.groupby(path.name, str.isdecimal))
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]


def read_run(path: Path | str) -> RunRecord:
    """Read and check one run directory.

    A last line without a newline is that of a run still writing and is left out if it is not whole. Rows of a kind that
    is not known here are kept and not used. A ``null`` number is NaN.

    Raises:
        CheckpointError: a file is missing, unreadable or of another format, or a line or field of it does not fit.
    """
    path = Path(path)
    config = _read_config(path / "config.json")
    rows, torn = _read_rows(path / "metrics.jsonl", {phase["name"]: phase for phase in config["phases"]})
    return RunRecord(path, config, rows, torn)


def _read_bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(
            f"{file}: not found; is {file.parent} a run directory? `segue run` writes config.json and metrics.jsonl"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror}); check its permissions") from None


def _read_config(file: Path) -> Mapping[str, Any]:
    try:
        config = json.loads(_read_bytes(file))
    except ValueError as error:
        raise CheckpointError(f"{file}: not JSON ({error}); the run must be started again") from None

    def need(holder: Any, where: str, **kinds: type | tuple[type, ...]) -> None:
        if not isinstance(holder, dict):
            raise CheckpointError(f"{file}: {where or 'the file'} must be an object, not {holder!r:.40}")
        for field, kind in kinds.items():
            name = f"{where}.{field}" if where else field
            if field not in holder:
                raise CheckpointError(f"{file}: field {name!r} is missing; `segue run` writes it")
            if not _is(holder[field], kind):
                raise CheckpointError(f"{file}: field {name!r} is {holder[field]!r:.40}, not {_kind_name(kind)}")

    need(config, "", format=int)
    if config["format"] != FORMAT:
        raise CheckpointError(
            f"{file}: format {config['format']}, but this version of segue reads format {FORMAT}; "
            "report the run with the version that wrote it"
        )
    need(config, "", method=str, task=dict, seed=int, digest=str, phases=list, settings=dict)
    need(config["task"], "task", name=str)
    need(config["settings"], "settings", eval_episodes=int)
    if not config["phases"]:
        raise CheckpointError(f"{file}: field 'phases' is empty; a run has at least one phase")
    for i, phase in enumerate(config["phases"]):
        need(phase, f"phases.{i}", name=str, steps=int, online=bool)
    twice = [name for name, n in Counter(phase["name"] for phase in config["phases"]).items() if n > 1]
    if twice:
        raise CheckpointError(f"{file}: two phases are named {twice[0]!r}; their rows cannot be told apart")
    dataset, reference = config.get("dataset"), config.get("reference")
    if dataset is not None:
        need(dataset, "dataset")
        for mean in ("return_mean", "score_mean"):
            if not _is(dataset.get(mean), (float, type(None))):
                need(dataset, "dataset", **{mean: float})
    if reference is not None:
        need(reference, "reference", minimum=float, maximum=float)
    return config


_FIELDS: dict[str, dict[str, Any]] = {
    "train": {"step": int, "metrics": dict},
    "episode": {"step": int, "return": (float, type(None))},
    "evaluation": {"step": int, "mode": str, "score": (float, type(None))},
    "handover": {},
}


def _read_rows(file: Path, phases: Mapping[str, Any]) -> tuple[tuple[Mapping[str, Any], ...], bool]:
    lines = _read_bytes(file).split(b"\n")
    rows: list[Mapping[str, Any]] = []
    last: dict[tuple[str, ...], int] = {}  # the step before, to see that steps rise
    for number, line in enumerate(lines, 1):
        is_last = number == len(lines)
        if is_last and not line:
            break
        try:
            row = json.loads(line)
        except ValueError as error:
            if is_last:
                return tuple(rows), True
            raise CheckpointError(f"{file}, line {number}: not JSON ({error}); only a last line may be torn") from None
        _check_row(row, f"{file}, line {number}", phases, last)
        rows.append(row)
    return tuple(rows), False


def _check_row(row: Any, where: str, phases: Mapping[str, Any], last: dict[tuple[str, ...], int]) -> None:
    if not isinstance(row, dict) or not isinstance(row.get("kind"), str):
        raise CheckpointError(f"{where}: not a row with a 'kind'; the file was not written by `segue run`")
    kind = row["kind"]
    if kind not in _FIELDS:
        return
    for field, expected in {"phase": str, **_FIELDS[kind]}.items():
        if field not in row:
            raise CheckpointError(f"{where}: {kind} row without {field!r}; the file was not written by `segue run`")
        if not _is(row[field], expected):
            raise CheckpointError(
                f"{where}: {kind} row with {field!r} = {row[field]!r:.40}, not {_kind_name(expected)}"
            )
    if row["phase"] not in phases:
        raise CheckpointError(f"{where}: phase {row['phase']!r} is not in config.json; known: {', '.join(phases)}")
    if kind == "train":
        for key, value in row["metrics"].items():
            if not _is(value, (float, type(None))):
                raise CheckpointError(f"{where}: metric {key!r} is {value!r:.40}, not a number")
    if kind == "evaluation":
        key = (row["phase"], row["mode"])
        if row["step"] <= last.get(key, -1):
            raise CheckpointError(
                f"{where}: {row['mode']} evaluation at step {row['step']} after one at step {last[key]} "
                f"of phase {row['phase']!r}; was the file joined from two runs?"
            )
        last[key] = row["step"]


def _is(value: Any, kind: type | tuple[type, ...]) -> bool:
    """isinstance, where an int is a float too and a bool is neither int nor float."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, kinds) or (float in kinds and isinstance(value, int))


def _kind_name(kind: type | tuple[type, ...]) -> str:
    names = {int: "an integer", float: "a number", str: "a string", bool: "true or false", list: "a list"}
    return names.get(kind[0] if isinstance(kind, tuple) else kind, "an object")


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


# ----------------------------------------------------------------------------------------------------- one run


@dataclass(frozen=True)
class Summary:
    """The numbers of one run. Scores are in points (0 and 100: the ends of the task's reference), greedy if not said.

    *Online time* is environment steps since the hand-over, over all online phases one after the other. A score that is
    NaN in the log makes every number that uses it NaN. None means that there is no such number for this run.

    Attributes:
        seed: of the run.
        status: ``finished``, or ``stopped at phase X step N`` with the last row logged.
        finished: the last phase has its greedy evaluation at its last step.
        offline_score: at the end of pre-training, the last offline phase before the first online one (without an online
            phase, the last phase); None without such a phase or before its end.
        handover_score: right after the hand-over, at step 0 of the first online phase.
        handover_acting_score: the same with actions as in training instead of greedy, if it was evaluated.
        deepest_drop: ``max(0, offline_score - lowest online score)``, points. As a minimum over noisy evaluations it is
            above 0 for a policy that does not change, too.
        deepest_step: online time of that lowest score; the last one if several are equal.
        steps_to_recover: online time of the first evaluation at or after the deepest point whose score is at least
            ``offline_score``; 0 if no score was below it; None if there is none yet, see ``recovered``.
        recovered: whether ``steps_to_recover`` was reached; None where the question does not arise.
        final_score: at the last evaluation of the run, of any phase.
        best_score: the highest of all evaluations; optimistic, being chosen by the evaluations themselves.
        regret: cumulative regret in its time-average form, ``1/T ∫ (100 - score(t)) / 100 dt`` over online time by
            trapezoids, unclipped and without unit: 0 at score 100 throughout, 1 at score 0, 1 minus the mean score
            over 100 (Nakamoto et al. 2023, Cal-QL). None with fewer than two online evaluations.
        online_steps: online time of the last online evaluation; None without one.
    """

    seed: int
    status: str
    finished: bool
    offline_score: float | None
    handover_score: float | None
    handover_acting_score: float | None
    deepest_drop: float | None
    deepest_step: int | None
    steps_to_recover: int | None
    recovered: bool | None
    final_score: float | None
    best_score: float | None
    regret: float | None
    online_steps: int | None


def tolerance(offline_score: float) -> float:
    """The drop, in points, up to which a hand-over counts as safe: ``max(5, 10 % of the offline score)``."""
    return max(POINTS, SHARE * offline_score)


def summarise(record: RunRecord) -> Summary:
    """The numbers of one run as :class:`Summary` defines them."""
    greedy = [(i, row["step"], _number(row["score"])) for i, row in record.of("evaluation", "greedy")]
    first = record.handover
    before = [i for i, phase in enumerate(record.phases[:first]) if not phase["online"]]
    offline_score = None
    if before:
        at_end = [s for i, step, s in greedy if i == before[-1] and step >= record.phases[i]["steps"]]
        offline_score = at_end[-1] if at_end else None

    times, scores = _online_curve(record, greedy)
    drop = deepest_step = recover = recovered = regret = None
    if offline_score is not None and scores.size:
        lowest = int(scores.size - 1 - np.argmin(scores[::-1]))  # the last of equal ones; a NaN if there is one
        drop, deepest_step = float(np.maximum(0.0, offline_score - scores[lowest])), int(times[lowest])
        if not math.isnan(drop):
            back = np.flatnonzero(scores[lowest:] >= offline_score)
            recovered = drop == 0.0 or back.size > 0
            recover = 0 if drop == 0.0 else int(times[lowest + back[0]]) if back.size else None
    if times.size and times[-1] > times[0]:
        regret = float(np.trapezoid((100.0 - scores) / 100.0, times) / (times[-1] - times[0]))

    def at_handover(mode: str) -> float | None:
        found = (_number(row["score"]) for i, row in record.of("evaluation", mode) if i == first and row["step"] == 0)
        return next(found, None)

    last = record.phases[-1]
    ends = (row for row in record.rows if row.get("phase") == last["name"] and row["kind"] in ("train", "evaluation"))
    finished = any(row["step"] >= last["steps"] for row in ends)
    if record.config["settings"]["eval_episodes"]:
        finished = any(i == len(record.phases) - 1 and step >= last["steps"] for i, step, _ in greedy)
    return Summary(
        seed=record.seed,
        status="finished" if finished else _where(record),
        finished=finished,
        offline_score=offline_score,
        handover_score=at_handover("greedy"),
        handover_acting_score=at_handover("acting"),
        deepest_drop=drop,
        deepest_step=deepest_step,
        steps_to_recover=recover,
        recovered=recovered,
        final_score=greedy[-1][2] if greedy else None,
        best_score=float(np.max([s for *_, s in greedy])) if greedy else None,
        regret=regret,
        online_steps=int(times[-1]) if times.size else None,
    )


def _online_curve(
    record: RunRecord, greedy: Sequence[tuple[int, int, float]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``times [T], scores [T]`` over all online phases, phases without interaction between them taking no time."""
    lengths = [phase["steps"] if phase["online"] else 0 for phase in record.phases]
    start = list(itertools.accumulate(lengths, initial=0))
    online = [(start[i] + step, score) for i, step, score in greedy if record.phases[i]["online"]]
    times, scores = zip(*online, strict=True) if online else ((), ())
    return np.array(times, dtype=np.float64), np.array(scores, dtype=np.float64)


def _where(record: RunRecord) -> str:
    stepped = [row for row in record.rows if "phase" in row and _is(row.get("step"), int)]
    phase, step = (stepped[-1]["phase"], stepped[-1]["step"]) if stepped else (record.phases[0]["name"], 0)
    return f"stopped at phase {phase} step {step}"


def verdict(summary: Summary) -> str:
    """Whether the hand-over was safe, in words: never more than :func:`tolerance` below the offline score."""
    if summary.deepest_drop is None or summary.offline_score is None:
        return "not judged: " + ("no offline score" if summary.offline_score is None else "no online evaluation")
    if math.isnan(summary.deepest_drop):
        return "not judged: a score is not a number"
    if summary.deepest_drop <= tolerance(summary.offline_score):
        return "safe" if summary.finished else "safe so far"
    recovered = summary.steps_to_recover
    end = "not recovered" if recovered is None else f"recovered after {recovered:,} steps"
    return f"dropped {summary.deepest_drop:.1f} points, {end}"


# ------------------------------------------------------------------------------------------------------ many runs


@dataclass(frozen=True)
class Arm:
    """Runs that differ in nothing but the seed."""

    method: str
    task: str
    digest: str
    label: str  # the method; with the digest's beginning where a task has several arms of the method
    records: tuple[RunRecord, ...]
    summaries: tuple[Summary, ...]


@dataclass(frozen=True)
class Estimate:
    """Interquartile mean over seeds, and tasks if several, with its 95 % stratified bootstrap interval."""

    value: float  # inf: at least one of the runs in the mean has not recovered
    low: float  # NaN: no interval
    high: float
    seeds: int  # runs that have the number
    of: int  # runs


def arms(records: Iterable[RunRecord]) -> list[Arm]:
    """Runs grouped by method, task and configuration; arms in the order of task and method, members of their seeds.

    Raises:
        CheckpointError: two runs have the same method, task, configuration and seed.
    """
    groups: dict[tuple[str, str, str], dict[int, RunRecord]] = {}
    for record in records:
        members = groups.setdefault((record.task, record.method, record.config["digest"]), {})
        if record.seed in members:
            raise CheckpointError(
                f"{members[record.seed].path} and {record.path} are both seed {record.seed} of the same configuration; "
                "give one of them, for a seed counted twice makes the intervals too narrow"
            )
        members[record.seed] = record
    twins = Counter((task, method) for task, method, _ in groups)
    made = []
    for (task, method, digest), members in sorted(groups.items()):
        ordered = tuple(members[seed] for seed in sorted(members))
        label = method if twins[task, method] == 1 else f"{method} ({digest[:8]})"
        made.append(Arm(method, task, digest, label, ordered, tuple(summarise(record) for record in ordered)))
    return made


def _short_verdict(summary: Summary) -> str:
    return {"safe": "safe", "dropp": "not safe", "not j": "not judged"}[verdict(summary)[:5].strip()]


def arm_verdict(arm: Arm) -> str:
    """Whether the hand-over was safe for every seed, in words; else the deepest drop of all and how it ended."""
    judged = [s for s in arm.summaries if not verdict(s).startswith("not judged")]
    if not judged:
        return verdict(arm.summaries[0])
    unjudged = len(arm.summaries) - len(judged)
    unsafe = [s for s in judged if verdict(s).startswith("dropped")]
    rest = f"; {unjudged} not judged" if unjudged else ""
    if not unsafe:
        words = "safe" if all(s.finished for s in judged) and not unjudged else "safe so far"
        return f"{words} ({_count(len(judged), 'seed')}{rest})"
    worst = max(unsafe, key=lambda s: s.deepest_drop or 0.0)
    words = verdict(worst)
    if len(arm.summaries) == 1:
        return words
    lost = sum(not s.recovered for s in unsafe)
    return (
        f"{words} (seed {worst.seed}, the deepest of {len(unsafe)} of {len(judged)} seeds; {lost} not recovered{rest})"
    )


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" + ("" if n == 1 else "s")


@dataclass(frozen=True)
class Quantity:
    """One column of the table."""

    field: str
    heading: str
    meaning: str
    form: str


QUANTITIES = (
    Quantity("offline_score", "offline", "greedy score at the end of pre-training", ".1f"),
    Quantity("handover_score", "hand-over", "greedy score right after the hand-over, before any online step", ".1f"),
    Quantity("handover_acting_score", "as acted", "the same, with the actions that training takes", ".1f"),
    Quantity(
        "deepest_drop",
        "drop",
        "deepest fall of the online greedy score below the offline score, in points; a minimum over noisy evaluations "
        "is above 0 for an unchanged policy, too",
        ".1f",
    ),
    Quantity(
        "steps_to_recover",
        "recover",
        "environment steps until the first evaluation, from the deepest point on, that reaches the offline score again",
        ",.0f",
    ),
    Quantity("final_score", "final", "greedy score at the last evaluation", ".1f"),
    Quantity(
        "regret",
        "regret",
        "cumulative regret as time average over the online steps: 1 minus the mean score over 100",
        ".3f",
    ),
)


def estimate(strata: Mapping[str, Sequence[Summary]], field: str) -> Estimate | None:
    """A field of :class:`Summary` over seeds; each key of ``strata`` is a task. None if no run has the number.

    A run that has not recovered counts as infinitely many steps, so that it is not left out of the mean.
    """
    values = {task: [v for s in summaries if (v := _value(s, field)) is not None] for task, summaries in strata.items()}
    have, of = sum(map(len, values.values())), sum(map(len, strata.values()))
    if not all(values.values()):
        return None
    low, high = stratified_bootstrap(values)
    mean = interquartile_mean([value for seeds in values.values() for value in seeds])
    return Estimate(float(mean), low, high, have, of)


def _value(summary: Summary, field: str) -> float | None:
    if field == "steps_to_recover" and summary.steps_to_recover is None:
        if summary.deepest_drop is None:
            return None
        return math.nan if math.isnan(summary.deepest_drop) else math.inf
    value = getattr(summary, field)
    return None if value is None else float(value)


def overall(arms: Sequence[Arm]) -> dict[str, dict[str, Sequence[Summary]]]:
    """``{method: {task: summaries}}`` of the methods with two tasks or more and one configuration for each of them."""
    found: dict[str, list[Arm]] = {}
    for arm in arms:
        found.setdefault(arm.method, []).append(arm)
    return {
        method: {arm.task: arm.summaries for arm in members}
        for method, members in found.items()
        if len(members) > 1 and len({arm.task for arm in members}) == len(members)
    }


@dataclass(frozen=True)
class _Line:
    """A line of the table: the seed or IQM, the numbers, the last column."""

    seed: str
    cells: tuple[str, ...]
    note: str
    is_mean: bool


def _lines(arms: Sequence[Arm]) -> tuple[list[Quantity], list[tuple[str, list[_Line]]]]:
    """The columns that any run has a number for, and titled groups of lines: one an arm, one a mean over tasks."""
    every = [summary for arm in arms for summary in arm.summaries]
    shown = [q for q in QUANTITIES if any(_value(s, q.field) is not None for s in every)]
    groups = []
    for arm in arms:
        group = [
            _Line(
                str(s.seed),
                tuple(_cell(_value(s, q.field), q.form) for q in shown),
                _short_verdict(s) if s.finished else f"{_short_verdict(s)}\n{s.status}",
                False,
            )
            for s in arm.summaries
        ]
        safe = sum(_short_verdict(s) == "safe" for s in arm.summaries)
        mean = _mean_line({arm.task: arm.summaries}, shown, f"{safe} of {len(arm.summaries)} safe")
        groups.append((f"{arm.label} on {arm.task}", [*group, mean]))
    for method, strata in overall(arms).items():
        mean = _mean_line(strata, shown, _count(sum(map(len, strata.values())), "run"))
        groups.append((f"{method} over {len(strata)} tasks", [mean]))
    return shown, groups


def _mean_line(strata: Mapping[str, Sequence[Summary]], shown: Sequence[Quantity], note: str) -> _Line:
    cells = []
    for quantity in shown:
        found = estimate(strata, quantity.field)
        text = _cell(None if found is None else found.value, quantity.form, "not all")
        if found is not None and not (math.isnan(found.low) or math.isnan(found.high)):
            low, high = (_cell(x, quantity.form, "not all") for x in (found.low, found.high))
            text += f"\n[{low}, {high}]"
        if found is not None and found.seeds < found.of:
            text += f"\n{found.seeds} of {found.of} seeds"
        cells.append(text)
    if any(len(summaries) == 1 for summaries in strata.values()):
        note += "\n1 seed: no interval" if len(strata) == 1 else "\na task with 1 seed: no interval"
    return _Line("IQM", tuple(cells), note, True)


def _cell(value: float | None, form: str, infinite: str = "never") -> str:
    if value is None:
        return "–"
    if math.isinf(value):
        return infinite
    return format(value, form).replace("-", "−")


def _plain(text: object) -> str:
    """Text without control characters, which could steer a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "�" for c in str(text))


def table(arms: Sequence[Arm], width: int | None = None) -> Table:
    """One line a seed and one for the interquartile mean with ``[low, high]``, arm by arm.

    ``–``: there is no such number; ``never``: the offline score was not reached again (within the run so far).
    With less than 110 characters of ``width`` the first and last column are narrow, so that all numbers are whole.
    """
    is_narrow = width is not None and width < 110
    shown, groups = _lines(arms)
    made = Table(
        title="Scores in points; steps to recover in environment steps",
        caption="IQM: interquartile mean with 95 % stratified bootstrap interval. Safe: never more than "
        f"max({POINTS:.0f} points, {SHARE:.0%} of the offline score) below the offline score.",
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    made.add_column("seed", overflow="fold", width=14 if is_narrow else 26)
    for quantity in shown:
        made.add_column(quantity.heading.replace("-", "-\n"), justify="right", overflow="fold")
    made.add_column("verdict", overflow="fold", width=10 if is_narrow else 20)
    for title, lines in groups:
        made.add_row(Text(_plain(title), style="bold"))
        for line in lines:
            texts = [Text(_plain(cell)) for cell in (f"  {line.seed}", *line.cells, line.note)]
            made.add_row(*texts, style="bold" if line.is_mean else "", end_section=line is lines[-1])
    return made


def to_json(arms: Sequence[Arm]) -> dict[str, Any]:
    """The same numbers for machines: strict JSON, where NaN and infinity are null.

    ``{"format": 1, "arms": [{"method", "task", "digest", "verdict", "seeds": [Summary and "verdict"], "iqm": {field:
    {"value", "low", "high", "seeds", "of"}}}], "overall": {method: {"tasks": [...], "iqm": {...}}}}``
    """

    def finite(value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    def means(strata: Mapping[str, Sequence[Summary]]) -> dict[str, Any]:
        found = {q.field: estimate(strata, q.field) for q in QUANTITIES}
        return {f: None if e is None else {k: finite(v) for k, v in vars(e).items()} for f, e in found.items()}

    return {
        "format": FORMAT,
        "arms": [
            {
                "method": arm.method,
                "task": arm.task,
                "digest": arm.digest,
                "verdict": arm_verdict(arm),
                "seeds": [{k: finite(v) for k, v in vars(s).items()} | {"verdict": verdict(s)} for s in arm.summaries],
                "iqm": means({arm.task: arm.summaries}),
            }
            for arm in arms
        ],
        "overall": {method: {"tasks": list(s), "iqm": means(s)} for method, s in overall(arms).items()},
    }


# ------------------------------------------------------------------------------------------------------- pictures

# Okabe and Ito's palette without its yellow: told apart with any colour vision, readable on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#000000", "#E69F00")
DASHES = ("-", "--", "-.", ":")  # from the eighth arm on the colours come again with other dashes
PANELS = 12
GREY = "#555555"
_STYLE = {
    "font.size": 11,
    "text.parse_math": False,  # a name with dollar signs is a name
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "legend.frameon": False,
}

Points = tuple[NDArray[np.float64], NDArray[np.float64]]  # x [T], y [T]


def _points(pairs: Iterable[tuple[float, float | None]]) -> Points:
    xy = np.array([(x, _number(y)) for x, y in pairs], dtype=np.float64).reshape(-1, 2)
    return xy[:, 0], xy[:, 1]


def _look(index: int) -> dict[str, Any]:
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index // len(COLOURS) % len(DASHES)]}


def _picture(draw: Callable[[Figure], object], width: float, height: float) -> str:
    """A PNG as data URI. Sizes in inches at 144 dots each."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(_STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=144)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _curve(record: RunRecord) -> dict[tuple[int, int], float]:
    """Greedy score by (phase index, step): the end of one phase and the start of the next stay two points."""
    return {(i, row["step"]): _number(row["score"]) for i, row in record.of("evaluation", "greedy")}


def _draw_curves(figure: Figure, members: Sequence[Arm]) -> None:
    axes = figure.add_subplot()
    for index, arm in enumerate(members):
        look, curves = _look(index), [_curve(record) for record in arm.records]
        starts = arm.records[0].starts()
        for curve in curves if len(curves) > 1 else ():
            x, y = _points((starts[i] + step, score) for (i, step), score in curve.items())
            axes.plot(x, y, linewidth=0.8, alpha=0.4, **look)
        common = sorted(set.intersection(*map(set, curves)))
        x = np.array([starts[i] + step for i, step in common])
        scores = np.array([[curve[key] for key in common] for curve in curves])  # [S, T]
        mean = interquartile_mean(scores, axis=0)
        axes.plot(x, mean, linewidth=2.4, marker="o" if x.size < 3 else None, **look)
        if len(curves) > 1 and x.size:
            low, high = bootstrap_band(scores)
            axes.fill_between(x, low, high, color=look["color"], alpha=0.16, linewidth=0)
    handles = [_handle(linewidth=2.4, **_look(i)) for i in range(len(members))]
    labels = [_plain(arm.label) for arm in members]
    behaviour = {b for arm in members for record in arm.records if (b := _behaviour_score(record.config)) is not None}
    for score in sorted(behaviour):
        axes.axhline(score, color=GREY, linestyle=(0, (1, 2)), linewidth=1.6)
    if behaviour:
        handles.append(_handle(color=GREY, linestyle=(0, (1, 2)), linewidth=1.6))
        labels.append("mean episode of the dataset")
    axes.set_ylabel("score (greedy evaluation)")
    _phase_axis(axes, members)
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(handles)))


def _behaviour_score(config: Mapping[str, Any]) -> float | None:
    """Mean score of the dataset's episodes; None where the dataset or the reference is not known."""
    dataset, reference = config.get("dataset") or {}, config.get("reference")
    mean = dataset.get("return_mean")
    if reference is not None and dataset.get("score_mean") is not None:
        return float(dataset["score_mean"])
    if mean is None or reference is None or reference["maximum"] == reference["minimum"]:
        return None
    return 100.0 * (mean - reference["minimum"]) / (reference["maximum"] - reference["minimum"])


def _handle(**look: Any) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], **look)


def _extent(members: Sequence[Arm]) -> tuple[int, int]:
    starts = [record.starts() for arm in members for record in arm.records]
    return min(s[0] for s in starts), max(s[-1] for s in starts)


def _steps_axis(axes: Axes, left: float, right: float, ticks: int) -> float:
    """Limits and ticks of a run's axis; the side before 0 is stretched by the factor returned if it, or the other,
    would have less than 2/7 of the width."""
    from matplotlib.ticker import MaxNLocator

    ratio = 1.0
    if left < 0 < right and not 0.4 <= -left / right <= 2.5:
        ratio = (0.4 if -left < right else 1.0) * right / -left
        scale = functools.partial(_stretch, ratio=ratio), functools.partial(_stretch, ratio=1.0 / ratio)
        axes.set_xscale("function", functions=scale)
    margin = 0.02 * (max(right, 0) - min(left, 0) * ratio) or 1.0
    axes.set_xlim(left - (margin / ratio if left <= 0 else margin), right + (margin if right >= 0 else margin / ratio))
    places = {0.0}
    for low, high in ((left, 0), (0, right)):
        if low < high:
            places |= {t for t in MaxNLocator(ticks).tick_values(low, high) if low <= t <= high}
    axes.set_xticks(sorted(places))
    axes.xaxis.set_major_formatter(lambda x, _: _thousands(x))
    return ratio


def _phase_axis(axes: Axes, members: Sequence[Arm], only_after: bool = False) -> None:
    """The x axis of a run: phases named above it, the hand-over marked at 0, a readable share for both sides of it."""
    records = [arm.records[0] for arm in members]
    left, right = _extent(members)
    left = max(left, 0) if only_after and right > 0 else left
    ratio = _steps_axis(axes, left, right, ticks=4)
    online = any(r.handover is not None for r in records)
    words = [
        w
        for w, is_there in (
            ("updates before the hand-over (negative)", left < 0),
            ("environment steps after it" if left < 0 else "environment steps after the hand-over", right > 0),
        )
        if is_there
    ]
    label = ", ".join(words) if online else "updates (0: the end)"
    axes.set_xlabel(label + (", the two sides to different scales" if ratio != 1.0 else ""))

    above = axes.get_xaxis_transform()
    for x in sorted({start for r in records for start in r.starts()[1:-1]} - {0}):
        if x > left:
            axes.axvline(x, color=GREY, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1.5)
    layouts = {tuple((p["name"], p["steps"]) for p in r.phases) for r in records}
    names_fit = len(layouts) == 1 and _name_phases(axes, records[0], ratio, left)
    if online:
        axes.axvline(0, color="black", linewidth=1.4, zorder=1.5)
        height = 1.075 if names_fit else 1.01
        axes.text(0, height, "hand-over", transform=above, ha="center", va="bottom", fontweight="bold", fontsize=10)


def _name_phases(axes: Axes, record: RunRecord, ratio: float, left: float) -> bool:
    """Each phase's name above its stretch of the axis from ``left`` on, where it has room; whether any has."""
    starts = _stretch(np.maximum(record.starts(), left), ratio)
    named = False
    for phase, start, end in zip(record.phases, starts, starts[1:], strict=False):
        name, share = _short(phase["name"], 24), (end - start) / (starts[-1] - starts[0] or 1.0)
        if share * 90 < len(name) or end <= start:  # about 90 characters fit over the axis
            continue
        centre = float(_stretch(np.array((start + end) / 2), 1.0 / ratio))
        axes.text(centre, 1.01, name, transform=axes.get_xaxis_transform(), ha="center", va="bottom", color=GREY)
        named = True
    return named


def _stretch(x: NDArray[np.float64], ratio: float) -> NDArray[np.float64]:
    return np.where(np.asarray(x) < 0, np.asarray(x) * ratio, x)


def _thousands(x: float) -> str:
    size = abs(x)
    text = f"{size / 1e6:g}M" if size >= 1e6 else f"{size / 1e3:g}k" if size >= 1e3 else f"{size:g}"
    return "−" + text if x < 0 else text


def _short(text: object, length: int) -> str:
    plain = _plain(text).replace("\n", " ")
    return plain if len(plain) <= length else plain[: length - 1] + "…"


def _draw_episodes(figure: Figure, members: Sequence[Arm]) -> None:
    axes, bins = figure.add_subplot(), 40
    for index, arm in enumerate(members):
        look, pooled = _look(index), []
        for record in arm.records:
            starts = record.starts()
            x, y = _points((starts[i] + row["step"], row["return"]) for i, row in record.of("episode"))
            axes.plot(x, y, "o", markersize=2.5, alpha=0.35, color=look["color"], markeredgewidth=0)
            pooled.append((x, y))
        x, y = (np.concatenate(part) for part in zip(*pooled, strict=True))
        if x.size:
            edges = np.linspace(x.min(), x.max() + 1, bins + 1)
            place = np.digitize(x, edges) - 1
            inside = [(x[place == b].mean(), y[place == b].mean()) for b in range(bins) if (place == b).any()]
            axes.plot(*_points(inside), linewidth=2.2, **look)
    axes.set_ylabel("return of training episodes")
    _phase_axis(axes, members, only_after=True)
    handles, labels = (
        [_handle(linewidth=2.4, **_look(i)) for i in range(len(members))],
        [_plain(a.label) for a in members],
    )
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(handles)))


def _metric_keys(members: Sequence[Arm]) -> tuple[list[str], list[str]]:
    """The metrics to show, at most :data:`PANELS`, every prefix in turn; and those left out. Both sorted by prefix."""
    keys = {key for arm in members for record in arm.records for _, row in record.of("train") for key in row["metrics"]}
    first = {"critic": 0, "actor": 1, "value": 2}

    def prefix(key: str) -> tuple[int, str]:
        word = key.split("/")[0]
        return first.get(word, len(first)), word

    families = [sorted(group) for _, group in itertools.groupby(sorted(keys, key=lambda k: (prefix(k), k)), prefix)]
    turns = [key for row in itertools.zip_longest(*families) for key in row if key is not None]
    rank = {key: (prefix(key), key) for key in turns}
    return sorted(turns[:PANELS], key=rank.__getitem__), sorted(turns[PANELS:], key=rank.__getitem__)


def _mean_over_seeds(seeds: Sequence[Points]) -> Points:
    """Mean of the seeds that have a value at a point of time; NaN where one of them is NaN."""
    x, y = (np.concatenate(part) for part in zip(*seeds, strict=True))
    at, place, count = np.unique(x, return_inverse=True, return_counts=True)
    return at, np.bincount(place, weights=y, minlength=at.size) / count


def _draw_metrics(figure: Figure, members: Sequence[Arm], keys: Sequence[str]) -> None:
    columns = min(3, len(keys))
    grid = figure.subplots(math.ceil(len(keys) / columns), columns, squeeze=False).flat
    for axes, key in itertools.zip_longest(grid, keys):
        if key is None:
            axes.set_axis_off()
            continue
        drawn = []
        for index, arm in enumerate(members):
            look, seeds = _look(index), []
            for record in arm.records:
                starts, rows = record.starts(), list(record.of("train"))
                pairs = ((starts[i] + r["step"], r["metrics"][key]) for i, r in rows if key in r["metrics"])
                seeds.append(_points(pairs))
            if len(seeds) > 1:
                for x, y in seeds:
                    axes.plot(x, y, linewidth=0.5, alpha=0.25, **look)
            x, y = _mean_over_seeds(seeds)
            axes.plot(x, y, linewidth=1.3, **look)
            drawn += [y[np.isfinite(y)] for _, y in seeds]
        values = np.concatenate(drawn)
        is_wide = values.size > 0 and values.min() > 0 and values.max() > 1e3 * values.min()
        if is_wide:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
            axes.yaxis.set_minor_formatter(lambda *_: "")
        axes.set_title(_short(key, 36) + (" (log)" if is_wide else ""), fontsize=11)
        if any(arm.records[0].handover is not None for arm in members):
            axes.axvline(0, color="black", linewidth=1.0, zorder=1.5)
        _steps_axis(axes, *_extent(members), ticks=2)
        axes.tick_params(labelsize=9)
    if len(members) > 1:
        handles = [_handle(linewidth=2.4, **_look(i)) for i in range(len(members))]
        figure.legend(
            handles, [_plain(a.label) for a in members], loc="outside lower center", ncols=min(4, len(handles))
        )


# ----------------------------------------------------------------------------------------------------------- page

_CSS = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 72rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.3rem; margin-top: 2.5rem; border-bottom: 1px solid #ddd; }
h3 { font-size: 1.05rem; margin-top: 1.8rem; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .3rem .6rem; text-align: right; vertical-align: top; white-space: pre-line; }
th:first-child, td:first-child, th:last-child, td:last-child { text-align: left; }
tbody th { padding-top: .7rem; overflow-wrap: anywhere; }
td:not(:first-child):not(:last-child) { white-space: pre; }
thead th { border-bottom: 2px solid #888; } tr.mean td { font-weight: 600; background: #f4f6f8; }
tbody + tbody { border-top: 1px solid #bbb; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; } figcaption, .note { color: #444; font-size: .9rem; }
dt { font-weight: 600; } dd { margin: 0 0 .4rem 1.2rem; overflow-wrap: anywhere; }
pre { background: #f4f6f8; padding: .6rem .8rem; overflow-x: auto; font-size: .85rem; }
li { overflow-wrap: anywhere; } .good { color: #005a3c; } .bad { color: #9a3412; }
"""


def _safe(text: object) -> str:
    return escape(_plain(text))


def write_html(arms: Sequence[Arm], path: Path | str) -> None:
    """Write one self-contained page: verdicts, table, pictures, configurations. No script, nothing from the network.

    The file appears whole or not at all.

    Raises:
        CheckpointError: nothing to report, or the file cannot be written.
    """
    if not arms:
        raise CheckpointError("no runs to report; give at least one run directory")
    path, page = Path(path), _page(arms)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(page.encode())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror}); give another file with --html") from None


def _page(arms: Sequence[Arm]) -> str:
    tasks = {task: [arm for arm in arms if arm.task == task] for task in sorted({arm.task for arm in arms})}
    parts = [_verdicts(arms), _html_table(arms)]
    for task, members in tasks.items():
        parts += [f"<h2>{_safe(task)}</h2>", *_pictures(task, members)]
    parts += ["<h2>Configuration</h2>", *map(_configuration, arms)]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>segue report: {_safe(', '.join(tasks))}</title><style>{_CSS}</style></head><body>"
        f"<h1>segue report</h1>{''.join(parts)}</body></html>\n"
    )


def _verdicts(arms: Sequence[Arm]) -> str:
    items = []
    for arm in arms:
        words = arm_verdict(arm)
        colour = "good" if words.startswith("safe") else "bad" if words.startswith("dropped") else "note"
        items.append(
            f'<li><b>{_safe(arm.label)}</b> on <b>{_safe(arm.task)}</b>: <b class="{colour}">{_safe(words)}</b>.</li>'
        )
    rule = (
        f"Safe: the greedy score was never more than max({POINTS:.0f} points, {SHARE:.0%} of the offline score) "
        "below the offline score, for every seed."
    )
    return f'<h2>Was the hand-over safe?</h2><ul>{"".join(items)}</ul><p class="note">{rule}</p>'


def _html_table(arms: Sequence[Arm]) -> str:
    shown, groups = _lines(arms)
    heads = ["seed", *(q.heading for q in shown), "verdict"]
    bodies = []
    for title, lines in groups:
        rows = (
            f"<tr{' class=mean' if line.is_mean else ''}>"
            + "".join(f"<td>{_safe(cell)}</td>" for cell in (line.seed, *line.cells, line.note))
            + "</tr>"
            for line in lines
        )
        head = f'<tr><th colspan="{len(heads)}" scope="rowgroup">{_safe(title)}</th></tr>'
        bodies.append(f"<tbody>{head}{''.join(rows)}</tbody>")
    meanings = "".join(f"<dt>{q.heading}</dt><dd>{q.meaning}</dd>" for q in shown)
    split = sorted({a.method for a in arms if sum(b.method == a.method for b in arms) > 1} - set(overall(arms)))
    notes = [f"<p>No mean over tasks for {_safe(m)}: a task has several configurations of it.</p>" for m in split]
    return (
        '<h2>Numbers</h2><div class="wide"><table><thead><tr>'
        + "".join(f"<th>{head}</th>" for head in heads)
        + f"</tr></thead>{''.join(bodies)}</table></div>{''.join(notes)}"
        '<p class="note">IQM: interquartile mean over seeds, below it its 95 % stratified bootstrap interval '
        "(Agarwal et al. 2021); such intervals are too narrow with few seeds. “–”: no such number. “never”: the "
        "offline score was not reached again within the run; in a mean, “not all”, it counts as infinitely many.</p>"
        f"<details><summary>What the columns mean</summary><dl>{meanings}</dl></details>"
    )


def _pictures(task: str, members: Sequence[Arm]) -> Iterator[str]:
    seeds = ", ".join(f"{arm.label}: {_count(len(arm.records), 'seed')}" for arm in members)
    several = any(len(arm.records) > 1 for arm in members)
    spread = (
        " Thin lines: single seeds; bold: their interquartile mean, as far as the shortest run; shaded: pointwise "
        "95 % bootstrap interval."
        if several
        else " One seed: no interval."
    )
    records = [record for arm in members for record in arm.records]
    if any(True for record in records for _ in record.of("evaluation", "greedy")):
        source = _picture(lambda figure: _draw_curves(figure, members), 10, 5.2)
        yield _figure("Learning curve", source, f"Greedy score of {task} along the run ({seeds}).{spread}{_BOUNDARIES}")
    else:
        yield '<p class="note">No evaluation has been logged.</p>'
    if any(True for record in records for _ in record.of("episode")):
        source = _picture(lambda figure: _draw_episodes(figure, members), 10, 4.6)
        caption = (
            "Dots: returns of the episodes met in training; line: their mean over 40 equal stretches, seeds pooled."
        )
        yield _figure("Training episodes", source, caption)
    keys, left_out = _metric_keys(members)
    if keys:
        height = 2.5 * math.ceil(len(keys) / 3) + 0.5
        source = _picture(lambda figure: _draw_metrics(figure, members, keys), 10 if len(keys) > 1 else 5, height)
        caption = "Training metrics" + (": thin lines seeds, bold their mean." if several else ".")
        if any(record.handover is not None for record in records):
            caption += " Vertical line: the hand-over."
        if left_out:
            caption += f" {len(left_out)} more in metrics.jsonl: {', '.join(left_out)}."
        yield _figure("Training metrics", source, caption)


_BOUNDARIES = " Vertical lines: the hand-over and, dashed, other boundaries of phases."


def _figure(title: str, source: str, caption: str) -> str:
    return (
        f'<h3>{_safe(title)}</h3><figure><img src="{source}" alt="{_safe(f"{title}. {caption}")}">'
        f"<figcaption>{_safe(caption)}</figcaption></figure>"
    )


def _configuration(arm: Arm) -> str:
    configs = [record.config for record in arm.records]

    def said(field: str) -> str:
        """The value of a field; with the seeds of each where they differ."""
        texts: dict[str, list[int]] = {}
        for config in configs:
            texts.setdefault(_said(config.get(field)), []).append(config["seed"])
        if len(texts) == 1:
            return next(iter(texts))
        return "; ".join(f"{text} (seed {', '.join(map(str, seeds))})" for text, seeds in texts.items())

    fields = ("commit", "versions", "machine", "threads", "dataset", "reference", "settings")
    phases = "".join(
        f"<li><b>{_safe(p['name'])}</b>: {p['steps']:,} {'environment steps' if p['online'] else 'updates'}"
        + "".join(f"; {_safe(k)} {_safe(_said(v))}" for k, v in p.items() if k not in ("name", "steps", "online"))
        + "</li>"
        for p in configs[0]["phases"]
    )
    facts = "".join(f"<dt>{f.replace('_', ' ')}</dt><dd>{_safe(said(f))}</dd>" for f in fields)
    commands = "\n".join(map(_command, configs))
    return (
        f"<h3>{_safe(arm.label)} on {_safe(arm.task)}</h3><dl><dt>configuration</dt><dd>{_safe(arm.digest)}</dd>{facts}"
        f"<dt>phases</dt><dd><ol>{phases}</ol></dd><dt>to run it again</dt><dd><pre>{_safe(commands)}</pre></dd></dl>"
    )


def _said(value: Any) -> str:
    if value is None:
        return "not recorded"
    if isinstance(value, dict):
        return ", ".join(f"{k} {_said(v)}" for k, v in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(_said, value)) or "none"
    return str(value)


def _command(config: Mapping[str, Any]) -> str:
    """The command recorded as field ``command`` (a list of words or one string), ready for a shell."""
    command = config.get("command")
    if isinstance(command, list):
        return shlex.join(map(str, command))
    if isinstance(command, str):
        return command
    words = shlex.join(["segue", "run", config["method"], config["task"]["name"], "--seeds", str(config["seed"])])
    return f"{words}  # the command was not recorded: add the settings above that are not the method's own"


def report(paths: Sequence[Path | str], html: Path | str | None, console: Console) -> None:
    """Read the runs in and below ``paths``, print their table and write their page.

    Args:
        paths: run directories and folders of them, in any mixture, up to three folders deep.
        html: the page's file; None is ``report.html`` in the first of ``paths``.
        console: where the table, the verdicts and the page's path are printed.

    Raises:
        CheckpointError: no run, or one that cannot be read, or the page cannot be written.
    """
    if not paths:
        raise CheckpointError("no directory to report; give run directories or folders of them: segue report DIR...")
    found = arms(read_run(run) for run in find_runs(paths))
    console.print(table(found, console.width))
    console.print("Was the hand-over safe?")
    for arm in found:
        console.print(Text(_plain(f"  {arm.label} on {arm.task}: {arm_verdict(arm)}")))
    target = Path(paths[0]) / "report.html" if html is None else Path(html)
    write_html(found, target)
    console.print(Text(_plain(f"page: {target}")), soft_wrap=True)
