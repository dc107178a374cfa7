"""A linter for the columns of a dataset, before the entrance (`segue.tasks.dataset`) would mend or refuse them.

An *error* is what the entrance refuses. A *warning* is what it takes and what usually means that the data were recorded
or converted wrongly. A *note* is what a reader of results should know. Columns are read in pieces, so they may be
memory maps; of a row are kept a hash and flags, which with their sorting take about 30 bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from segue.errors import DataError
from segue.tasks.dataset import GAP, SLACK, _check_shapes, _match, _numeric, _time_limit

PIECE = 2**21  # bytes of a column that are looked at at a time
SHOWN = 5  # row numbers that a finding names
LARGEST = float(np.finfo(np.float32).max)  # what the store can hold
COARSE = 1000  # float32 steps over the range of a column's entry, below which converting it is told
UNUSED = 0.25  # share of an action's range in use, below which its units are in doubt
AT_BOUND = 1e-6  # distance from the bounds, in units of [-1, 1], that counts as at them
SATURATED = 0.5  # share of rows at the bounds of an action, above which it is told
REPEATED = 0.01  # share of rows that repeat earlier ones, above which it is a warning
MANY = 3  # terminal episodes of just the longest length, from which on they look like a time limit
NEAR = 0.9  # share of that length from which on others speak against one, if they are half as many
SHUFFLED = 0.5  # share of rows that jump, above which their order is in doubt
HUGE, TINY = 1e3, 1e-3  # largest absolute rewards beyond which learning rates and temperatures no longer fit
SHORT = 0.1  # share of episodes of one row, above which it is a warning

REAL, FLAGS = ("obs", "action", "reward", "next_obs"), ("terminal", "timeout")
SEVERITIES = ("error", "warning", "note")

Severity = Literal["error", "warning", "note"]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Finding:
    """What is the matter with a column."""

    severity: Severity
    rule: str  # "not finite", "constant", "action range", ...
    column: str  # as the file calls it; "" where it is about all of them
    count: int  # rows that it is true of (entries, of "constant", "range in use", "at the bounds", "precision")
    rows: tuple[int, ...]  # the first `SHOWN` of these rows, counted from 0
    text: str  # what is there, in one sentence
    way_out: str  # what to do about it, where the sentence does not say it


@dataclass
class _Rows:
    """How many rows, and the first of them."""

    count: int = 0
    first: list[int] = field(default_factory=list)

    def add(self, rows: np.ndarray, start: int = 0) -> None:
        self.count += len(rows)
        self.first += (start + rows[: SHOWN - len(self.first)]).tolist()

    def of(self, severity: Severity, rule: str, column: str, text: str, way_out: str) -> Iterator[Finding]:
        """The finding, if there are such rows."""
        if self.count:
            yield Finding(severity, rule, column, self.count, tuple(self.first), text, way_out)


class _Range:
    """Least and largest value of each entry of a column, and its rows that float32 cannot hold."""

    def __init__(self, width: int) -> None:
        self.low, self.high = np.full(width, np.inf), np.full(width, -np.inf)
        self.bad = _Rows()

    def add(self, piece: np.ndarray, start: int) -> None:
        with np.errstate(over="ignore"):
            low, high = (x.astype(np.float64) for x in (piece.min(axis=0), piece.max(axis=0)))  # NaN spreads
        if not (np.all(low >= -LARGEST) and np.all(high <= LARGEST)):
            with np.errstate(over="ignore"):
                fine = np.isfinite(piece.astype(np.float32))
            self.bad.add(np.flatnonzero(~fine.all(axis=1)), start)
            low = np.where(fine, piece, np.inf).min(axis=0)
            high = np.where(fine, piece, -np.inf).max(axis=0)
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)


class _Facts:
    """What one pass over the columns gathers."""

    def __init__(self, raw: Mapping[str, np.ndarray], low: np.ndarray, high: np.ndarray) -> None:
        self.raw, self.low, self.high = raw, low, high
        rows = len(raw["obs"])
        self.ranges = {column: _Range(raw[column].shape[1]) for column in REAL if column in raw}
        self.outside, self.beyond = _Rows(), _Rows()
        self.farthest = 0.0  # largest absolute action in units of [-1, 1]
        self.saturated = np.zeros(len(low), np.int64)
        self.gap = np.zeros(rows, bool)  # the next row starts elsewhere than this one ended
        self.goes_on = np.zeros(rows, bool)  # the next row starts just there
        self.keys = np.zeros(rows, np.uint64)  # a hash of each row
        words = sum(_words(raw[column]) for column in self.ranges)
        self._weights = np.random.default_rng(0).integers(0, 2**64, words, np.uint64)

    def gather(self, progress: Progress | None) -> None:
        rows = len(self.gap)
        widest = max(self.raw[column][:1].nbytes for column in self.ranges)
        length = max(PIECE // widest, 1)
        for start in range(0, rows, length):
            stop, used = min(start + length, rows), 0
            for column, range_ in self.ranges.items():
                piece = np.ascontiguousarray(self.raw[column][start:stop])
                range_.add(piece, start)
                words = _words(piece)
                bits = piece.view(f"u{min(piece.itemsize, 4)}").reshape(stop - start, words)
                self.keys[start:stop] += np.einsum("ij,j->i", bits, self._weights[used : used + words])
                used += words
                if column == "action":
                    self._actions(piece, start)
            if "next_obs" in self.raw:
                self._gaps(start, min(stop, rows - 1))
            if progress is not None:
                progress(stop, rows)

    def _actions(self, piece: np.ndarray, start: int) -> None:
        with np.errstate(invalid="ignore"):
            unit = np.abs(2 * (piece.astype(np.float64) - self.low) / (self.high - self.low) - 1)
        largest = unit.max(axis=1)
        self.farthest = np.fmax.reduce(largest, initial=self.farthest)  # past NaN
        self.outside.add(np.flatnonzero(largest > 1 + SLACK), start)
        self.beyond.add(np.flatnonzero((largest > 1 + AT_BOUND) & (largest <= 1 + SLACK)), start)
        self.saturated += (unit >= 1 - AT_BOUND).sum(axis=0)

    def _gaps(self, start: int, stop: int) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            after = self.raw["obs"][start + 1 : stop + 1].astype(np.float32)
            move = after - self.raw["next_obs"][start:stop].astype(np.float32)
            distance = np.sqrt(np.einsum("ij,ij->i", move, move))
        self.gap[start:stop], self.goes_on[start:stop] = distance > GAP, distance <= GAP  # NaN is neither


def lint(
    columns: Mapping[str, Any],
    *,
    own: bool = False,
    action_low: Any = None,
    action_high: Any = None,
    clip_actions: bool = False,
    terminals: str = "end",
    max_episode_steps: int | None = None,
    ignored: Iterable[str] = (),
    progress: Progress | None = None,
) -> list[Finding]:
    """What is the matter with `columns`, worst first; nothing of clean data.

    The columns are those that `dataset_from_arrays` takes, under our names or D4RL's: N rows, ``obs`` [N, obs_dim],
    ``action`` [N, act_dim] and so on, of any type of numbers. `own`: of our own format, whose actions lie in [-1, 1]
    whatever the bounds. `action_low`, `action_high`: the environment's bounds, scalars or [act_dim], default -1 and 1;
    with `clip_actions` actions outside them will be clipped. With `terminals` of ``"cut"`` terminal flags are cuts.
    `max_episode_steps`: the time limit. `ignored`: names of further columns of the file, one of which may be misspelt.
    ``progress(done, total)`` counts rows.

    There is an error among the findings if and only if the entrance refuses the columns.
    """
    try:
        names, raw = _structure(columns, ignored)
        low, high = _bounds(raw["action"].shape[1], *((None, None) if own else (action_low, action_high)))
    except DataError as error:
        return [Finding("error", "structure", "", 0, (), str(error).removeprefix(": "), "")]
    facts = _Facts(raw, low, high)
    facts.gather(progress)
    found = [
        *_values(facts, names),
        *_actions(facts, names["action"], clip_actions),
        *_rewards(facts, names["reward"]),
        *_repeats(facts),
        *_episodes(facts, names, max_episode_steps, terminals),
    ]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def _structure(columns: Mapping[str, Any], ignored: Iterable[str]) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """The file's name and the values [N, width] of each of our columns, flags [N]. Raises ``DataError``."""
    names = _match(columns, "", ignored)
    raw = {column: _numeric(columns[key], key, "") for column, key in names.items()}
    _check_shapes(raw, names, "")
    return names, raw | {"reward": raw["reward"][:, None]}


def _bounds(dim: int, low: Any, high: Any) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the actions, [dim] float64 each. Raises ``DataError`` where they do not fit."""
    try:
        lo = np.broadcast_to(np.asarray(-1.0 if low is None else low, np.float64), (dim,))
        hi = np.broadcast_to(np.asarray(1.0 if high is None else high, np.float64), (dim,))
    except ValueError as error:
        raise DataError(
            f"an action has {dim} entries, and the bounds (of the environment, or --action-low and --action-high) have "
            "another number of them"
        ) from error
    if not (np.isfinite(lo).all() and np.isfinite(hi).all() and (lo < hi).all()):
        raise DataError(f"action bounds are {lo.tolist()} and {hi.tolist()}; they must be finite, low below high")
    return lo, hi


def _values(facts: _Facts, names: Mapping[str, str]) -> Iterator[Finding]:
    """Cells that are no number, entries that never change, entries that float32 rounds away."""
    for column, range_ in facts.ranges.items():
        key, low, high = names[column], range_.low, range_.high
        yield from range_.bad.of(
            "error",
            "not finite",
            key,
            f"{_rows(range_.bad.count, 'hold')} NaN, infinity or more than float32 can",
            "remove their episodes, and look for the step that wrote them",
        )
        same = np.flatnonzero(low == high)
        if column in ("obs", "action") and len(same):
            text = f"{_entries(same, len(low))} always {_list(f'{low[i]:.4g}' for i in same)}"
            if column == "obs":
                yield Finding("note", "constant", key, len(same), (), text, "nothing, if the task has such entries")
            else:
                way_out = "leave these actions out of the file and the environment; data cannot teach them"
                yield Finding("warning", "constant", key, len(same), (), text, way_out)
        if facts.raw[column].dtype.kind in "iu" or facts.raw[column].dtype.itemsize > 4:
            largest = np.maximum(np.abs(low), np.abs(high))
            with np.errstate(invalid="ignore", over="ignore"):
                steps = (high - low) / np.spacing(largest.astype(np.float32))
            coarse = np.flatnonzero(
                (high > low) & (steps < COARSE) & (largest > 2.0**24 * _fineness(facts.raw[column]))
            )
            if len(coarse):
                i = coarse[0]
                text = (
                    f"{_entries(coarse, len(low))} too far from 0 for float32: entry {i} runs from {low[i]:.9g} to "
                    f"{high[i]:.9g}, of which {int(steps[i]) + 1} values are left"
                )
                yield Finding(
                    "warning", "precision", key, len(coarse), (), text, "subtract a constant from these entries"
                )


def _fineness(array: np.ndarray) -> float:
    """Least difference that counts: whole numbers below 2^24 are exact in float32."""
    return 1.0 if array.dtype.kind in "iu" else 0.0


def _actions(facts: _Facts, key: str, clip: bool) -> Iterator[Finding]:
    """Actions outside their bounds, far inside them, or at them."""
    range_ = facts.ranges["action"]
    if not (range_.low <= range_.high).all():  # no finite number at all
        return
    lows, highs = np.unique(facts.low), np.unique(facts.high)
    bounds = f"[{lows[0]:.4g}, {highs[0]:.4g}]" if len(lows) == len(highs) == 1 else "the bounds of their entries"
    seen = f"{range_.low.min():.4g} to {range_.high.max():.4g}"
    severity, way_out = (
        "error",
        "give the bounds that they were recorded with: --action-low and --action-high, or --env",
    )
    way_out += "; --clip-actions only cuts off what lies outside"
    if clip and facts.farthest > LARGEST:
        way_out = "remove their episodes or mend the bounds: in units of these float32 cannot hold them"
    elif clip:
        severity, way_out = "note", "they will be clipped"
    yield from facts.outside.of(
        severity,
        "action range",
        key,
        f"{_rows(facts.outside.count, 'lie')} outside {bounds}; the file's actions run from {seen}",
        way_out,
    )
    yield from facts.beyond.of(
        "note",
        "action rounding",
        key,
        f"{_rows(facts.beyond.count, 'lie')} outside {bounds} by less than a thousandth",
        "nothing; they are clipped",
    )
    width = facts.high - facts.low
    used = (range_.high - range_.low) / width
    little = np.flatnonzero((used < UNUSED) & (used > 0))
    if len(little):
        i = little[0]
        text = (
            f"{_entries(little, len(used))} within less than a quarter of their bounds: entry {i} runs from "
            f"{range_.low[i]:.4g} to {range_.high[i]:.4g} of [{facts.low[i]:.4g}, {facts.high[i]:.4g}]"
        )
        way_out = (
            "compare with the units that were recorded: give their bounds, --action-low and --action-high or --env"
        )
        yield Finding("warning", "range in use", key, len(little), (), text, way_out)
    share = facts.saturated / len(facts.gap)
    full = np.flatnonzero((share > SATURATED) & (used > 0))
    if len(full):
        i = int(full[np.argmax(share[full])])
        text = f"{_entries(full, len(used))} mostly at their bounds: entry {i} in {share[i]:.0%} of the rows"
        way_out = "nothing, but squashed policies have no finite likelihood at a bound"
        yield Finding("note", "at the bounds", key, len(full), (), text, way_out)


def _rewards(facts: _Facts, key: str) -> Iterator[Finding]:
    """Rewards that never change, or of a scale that learning rates do not fit."""
    low, high = facts.ranges["reward"].low[0], facts.ranges["reward"].high[0]
    rows = len(facts.gap)
    if low == high:
        text = f"the reward is {low:.4g} in all rows"
        yield Finding(
            "warning", "reward", key, rows, (), text, "check that it was recorded; returns tell nothing apart"
        )
    elif low < high:
        largest = max(abs(low), abs(high))
        if not TINY <= largest <= HUGE:
            text = f"rewards run from {low:.4g} to {high:.4g}"
            way_out = "scale them: the defaults of the methods are made for rewards about 1"
            yield Finding("warning", "reward scale", key, rows, (), text, way_out)


def _repeats(facts: _Facts) -> Iterator[Finding]:
    """Rows that are equal, in all of observation, action, reward and next observation, to an earlier one."""
    order = np.argsort(facts.keys, kind="stable")
    sorted_ = facts.keys[order]
    same = np.flatnonzero(sorted_[1:] == sorted_[:-1])
    later, earlier = order[1:][same], order[:-1][same]
    equal = np.ones(len(later), bool)
    for column in facts.ranges:
        array = facts.raw[column]
        length = max(PIECE // array[:1].nbytes, 1)
        for start in range(0, len(later), length):  # hashes may collide
            part = slice(start, start + length)
            equal[part] &= (array[later[part]] == array[earlier[part]]).all(axis=1)
    found = _Rows()
    found.add(np.sort(later[equal]))
    yield from found.of(
        "warning" if found.count > REPEATED * len(order) else "note",
        "duplicates",
        "",
        f"{_rows(found.count, 'repeat')} an earlier row in every column",
        "if a file was joined twice, remove one copy; a fixed simulator without noise may repeat itself",
    )


def _episodes(facts: _Facts, names: Mapping[str, str], limit: int | None, terminals: str) -> Iterator[Finding]:
    """Flags that are none, ends that are not known, contradictory, at the time limit, missing or ignored."""
    raw, rows, gap = facts.raw, len(facts.gap), facts.gap
    flags, broken = dict[str, np.ndarray](), False
    for column in FLAGS:
        if column in raw:
            odd = _Rows()
            odd.add(np.flatnonzero((raw[column] != 0) & (raw[column] != 1)))
            text = f"{_rows(odd.count, 'hold')} something else than 0 and 1"
            yield from odd.of("error", "flags", names[column], text, "a flag is 0 or 1")
            flags[column], broken = raw[column].astype(bool), broken or bool(odd.count)
    if limit is not None and limit < 1:
        yield Finding("error", "ends", "", 0, (), f"the time limit is {limit}", "give at least 1")
        return
    if broken:
        return
    if terminals == "cut" and "terminal" in flags:
        flags = {"timeout": flags["terminal"] | flags.get("timeout", False)}
    unknown = "'terminals' and 'timeouts'" if not flags else "'timeouts'"
    if limit is None and "timeout" not in flags and (not flags or "next_obs" not in raw):
        text = f"no column {unknown}, so it is not known where episodes end"
        yield Finding(
            "error", "ends", "", rows, (), text, "add it, or give the environment whose time limit holds (--env)"
        )
        return
    terminal = flags.get("terminal", np.zeros(rows, bool))
    if "timeout" in flags:
        cut = flags["timeout"]
    elif limit is not None:
        cut = _time_limit(terminal | gap, limit)
    else:
        cut = np.zeros(rows, bool)
    yield from _flagged(facts, names, terminal, cut)
    cut = (cut | gap) & ~terminal
    if not (terminal[-1] or cut[-1]):
        cut[-1] = True
        if limit is None:
            text = "the last row ends no episode"
            yield Finding("note", "open end", "", 1, (rows - 1,), text, "nothing; it is taken as a cut")
    if "next_obs" not in raw and rows - int(cut.sum()) < 2:
        text = f"{int(cut.sum()):,} of {rows:,} rows end an episode that was cut and have no next observation"
        way_out = "record 'next_observations'; such rows are dropped, which leaves fewer than 2"
        yield Finding("error", "ends", "", int(cut.sum()), (), text, way_out)
    ends = np.flatnonzero(terminal | cut)
    lengths = np.diff(ends, prepend=-1)
    short = _Rows()
    short.add(ends[lengths == 1])
    yield from short.of(
        "warning" if short.count > SHORT * len(ends) else "note",
        "short episodes",
        "",
        f"{short.count} of {len(ends)} episodes have one row",
        "look whether an end is flagged at every row behind it, or rows are missing",
    )
    top = limit or int(lengths.max())
    at_top = _Rows()
    at_top.add(ends[terminal[ends] & (lengths == top)])
    below = int(((lengths >= NEAR * top) & (lengths < top)).sum())
    if at_top.count >= MANY and at_top.count > 2 * below and top > 1:
        yield from at_top.of(
            "warning",
            "time limits",
            names.get("terminal", ""),
            f"{at_top.count} of {len(ends)} episodes are terminal at just {top} steps, which looks like a time limit",
            "flag these rows in 'timeouts' instead: a value behind a time limit is not 0",
        )


def _flagged(facts: _Facts, names: Mapping[str, str], terminal: np.ndarray, cut: np.ndarray) -> Iterator[Finding]:
    """Rows that are both, rows that jump unflagged, terminal rows that go on."""
    if "timeout" in names:
        both = _Rows()
        both.add(np.flatnonzero(terminal & cut))
        text = f"{_rows(both.count, 'are')} terminal and cut"
        way_out = "nothing, if the task ended there; they are taken as terminal"
        yield from both.of("note", "both ends", names["timeout"], text, way_out)
    if "next_obs" not in names:
        return
    jumps, goes_on = _Rows(), _Rows()
    jumps.add(np.flatnonzero(facts.gap & ~terminal & ~cut))
    yield from jumps.of(
        "warning",
        "jumps",
        names["next_obs"],
        f"{_rows(jumps.count, 'end')} no episode, and the next row starts elsewhere than they ended",
        "put the rows in the order of their episodes: nearly each would be an episode of its own"
        if jumps.count > SHUFFLED * len(terminal)
        else "flag them in 'timeouts' if they are ends; they are taken as cuts",
    )
    goes_on.add(np.flatnonzero(terminal & facts.goes_on))
    yield from goes_on.of(
        "warning",
        "goes on",
        names.get("terminal", ""),
        f"{_rows(goes_on.count, 'are')} terminal, and the next row starts just where they ended",
        "clear the flag if it means success and not an end, or record the observation before the reset",
    )


def _words(array: np.ndarray) -> int:
    """Words of at most 32 bits in a row."""
    return array.shape[1] * max(array.itemsize // 4, 1)


def _rows(n: int, verb: str) -> str:
    """``"1 row holds"``, ``"2 rows hold"``"""
    return f"1 row {'is' if verb == 'are' else verb + 's'}" if n == 1 else f"{n:,} rows {verb}"


def _list(items: Iterable[str]) -> str:
    """``"1, 2, 3 and 9 more"``"""
    words = list(items)
    rest = len(words) - SHOWN
    return ", ".join(words[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _entries(which: np.ndarray, of: int) -> str:
    one = len(which) == 1
    return f"entr{'y' if one else 'ies'} {_list(map(str, which))} of {of} {'is' if one else 'are'}"
