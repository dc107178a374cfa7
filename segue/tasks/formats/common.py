"""What the pages of formats share: how a file is to be understood, what it gave, limits, and our own envelope.

Files come from anywhere: nothing is unpickled, no link is followed out of a file, sizes are checked before anything is
allocated, and whatever a parser raises ends in one ``DataError``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from segue.errors import ConfigError, DataError, SegueError, nearest
from segue.files import replacing
from segue.tasks.dataset import COLUMNS, D4RL, Dataset, check_options
from segue.tasks.formats.memory import check_fits, fits

KINDS = ("segue", "npz", "d4rl", "minari", "ogbench", "table")
FORMAT = 1  # of our own files: columns as in `Dataset`, actions already in [-1, 1]
SUSPECT = 2**30, 1000  # bytes, times: columns larger than the first and packed tighter than the second are refused
WANTED = {*COLUMNS, *D4RL.values()}  # names of columns that are read

GoesOn = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(obs, next_obs) of terminal rows and the obs of the rows behind them, [K, D] each -> whether the recording goes on
there, [K] bool. Without next observations a row's own stands for it."""


def _bound(name: str, value: Any) -> float | tuple[float, ...] | None:
    """A bound of actions as a number, or as one number per entry. Raises ``ConfigError``."""
    if value is None:
        return None
    try:
        array = np.asarray(value)
        good = array.dtype.kind in "iuf" and array.ndim <= 1 and array.size > 0 and bool(np.isfinite(array).all())
    except ValueError:  # ragged
        good = False
    if not good:
        raise ConfigError(f"reading: {name} is {value!r}; give a finite number, or one per entry of an action")
    numbers = tuple(map(float, array.ravel()))
    return numbers[0] if len(numbers) == 1 else numbers


def _check_bounds(low: Any, high: Any) -> None:
    """Raises ``ConfigError`` unless there are both or none, of one length, each low below its high."""
    if low is None and high is None:
        return
    if low is None or high is None:
        raise ConfigError(
            "reading: --action-low and --action-high (`action_low`, `action_high`) go together; give both"
        )
    if np.ndim(low) and np.ndim(high) and len(low) != len(high):
        raise ConfigError(
            f"reading: --action-low has {len(low)} numbers and --action-high {len(high)} (`action_low`, "
            "`action_high`); give one number for all entries of an action, or one per entry"
        )
    lows, highs = np.broadcast_arrays(np.atleast_1d(low), np.atleast_1d(high))
    if (lows >= highs).any():
        i = int(np.argmax(lows >= highs))
        raise ConfigError(
            f"reading: --action-low is {lows[i]:g} and --action-high {highs[i]:g} in entry {i} (`action_low`, "
            "`action_high`); low must lie below high"
        )


def _agree(ours: tuple[Any, Any], theirs: tuple[Any, Any]) -> bool:
    """Whether two pairs of bounds are the same, a number standing for every entry; up to rounding to float32."""
    try:
        return all(np.allclose(a, b, rtol=1e-6) for a, b in zip(ours, theirs, strict=True))
    except ValueError:  # of other lengths
        return False


def _told(bound: Any) -> str:
    """``0`` or ``[0, 0.5]``"""
    values = [f"{x:g}" for x in np.atleast_1d(bound)]
    return values[0] if len(set(values)) == 1 else f"[{', '.join(values)}]"


@dataclass(frozen=True)
class Reading:
    """How a file is to be understood. All values are JSON-able; `docs/formats.md` says which file wants what.

    ``kind``: one of `KINDS`; None: found from the path and the content.
    ``columns``: our column -> patterns of the file's columns, several parted by commas, ``{"obs": "sensor_*"}``. For
    tables, and for the entries of Minari's Dict observations and actions.
    ``episode``: the column of a table that numbers the episodes.
    ``action_low, action_high``: bounds of the file's actions as recorded, a number or one per entry; actions are mapped
    from them to [-1, 1]. Given both or neither.
    ``clip_actions, rewards, terminals, terminal_reward``: as in `dataset_from_arrays`.
    ``task``: OGBench's environment id, or the name of one of its single-task data sets, whose rewards are computed.

    Raises ``ConfigError`` naming the field.
    """

    kind: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    episode: str | None = None
    action_low: float | tuple[float, ...] | None = None
    action_high: float | tuple[float, ...] | None = None
    clip_actions: bool = False
    rewards: str = "transition"
    terminals: str = "end"
    terminal_reward: float | None = None
    task: str | None = None

    def __post_init__(self) -> None:
        if self.kind is not None and self.kind not in KINDS:
            raise ConfigError(f"reading: unknown kind of file {self.kind!r}{nearest(str(self.kind), KINDS)}")
        check_options(self.rewards, self.terminals)
        if not isinstance(self.columns, Mapping):
            raise ConfigError(f"reading: columns are {self.columns!r}; give our column and the file's, obs=sensor_*")
        for column, pattern in self.columns.items():
            if column not in COLUMNS:
                raise ConfigError(f"reading: unknown column {column!r}{nearest(str(column), COLUMNS)}")
            if not isinstance(pattern, str) or not pattern.strip():
                raise ConfigError(
                    f"reading: the pattern of {column!r} is {pattern!r}; give names or patterns of columns"
                )
        for name in ("episode", "task"):
            if not isinstance(getattr(self, name), str | None):
                raise ConfigError(f"reading: {name} is {getattr(self, name)!r}; give a name")
        for name in ("action_low", "action_high"):
            object.__setattr__(self, name, _bound(name, getattr(self, name)))
        _check_bounds(self.action_low, self.action_high)
        if not isinstance(self.clip_actions, bool):
            raise ConfigError(f"reading: clip_actions is {self.clip_actions!r}; give True or False")
        if not isinstance(self.terminal_reward, float | int | None):
            raise ConfigError(f"reading: terminal_reward is {self.terminal_reward!r}; give a number")

    def changes(self) -> dict[str, Any]:
        """The fields that are not the default, JSON-able; `Reading.of` makes the reading again."""
        return {
            f.name: dict(value) if f.name == "columns" else list(value) if isinstance(value, tuple) else value
            for f in fields(self)
            if (value := getattr(self, f.name)) != getattr(PLAIN, f.name)
        }

    def bounds(self, low: Any = None, high: Any = None) -> tuple[Any, Any] | None:
        """Low and high of the file's actions: the reading's, and an environment's, `low` and `high`, which must agree.

        None where neither has any. Raises ``ConfigError`` where they differ.
        """
        ours = None if self.action_low is None else (self.action_low, self.action_high)
        if low is None and high is None:
            return ours
        theirs = (-1.0 if low is None else low, 1.0 if high is None else high)
        if ours is not None and not _agree(ours, theirs):
            told = [f"{_told(pair[0])} to {_told(pair[1])}" for pair in (ours, theirs)]
            raise ConfigError(
                f"reading: --action-low and --action-high (`action_low`, `action_high`) are {told[0]}, and the box of "
                f"the environment is {told[1]}; leave them out if the file has the environment's units, else rescale "
                "the file first, without the environment: segue data import FILE --action-low LOW --action-high HIGH "
                "--out NEW.npz"
            )
        return theirs

    @staticmethod
    def of(changes: Any) -> Reading:
        """The reading whose `changes` these are. Raises ``ConfigError``."""
        if not isinstance(changes, Mapping):
            raise ConfigError(f"reading: {changes!r} is no set of fields; give field and value")
        known = [f.name for f in fields(Reading)]
        for name in changes:
            if name not in known:
                raise ConfigError(f"reading: unknown field {name!r}{nearest(str(name), known)}")
        return Reading(**changes)


PLAIN = Reading()  # the defaults


class Raw(NamedTuple):
    """What a file holds, its values unchecked: columns [N, ...] under our names or D4RL's.

    `info` is JSON-able and goes into the dataset's. `own`: written by segue, so the rows are final: actions in
    [-1, 1], every end marked. `bounds`: low and high of the actions as the file declares them, or None.
    """

    columns: dict[str, np.ndarray]
    info: dict[str, Any]
    own: bool
    name: str
    bounds: tuple[Any, Any] | None = None


# ------------------------------------------------------------------------------------------------------------- parsing


@contextmanager
def parsing(path: Path | str, what: str) -> Iterator[None]:
    """Turns whatever a parser raises on hostile bytes into one ``DataError``."""
    try:
        yield
    except SegueError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(f"{path}: cannot be read as {what}, it may be truncated: {said}") from error


class Sizes:
    """Adds up what a file declares. What it cannot hold is refused as hostile, what the memory cannot as large."""

    def __init__(self, path: Path | str, whole: bool = True) -> None:
        self.path, self.declared, self.stored = path, 0, 0
        self.whole = whole  # whether all of it is to be held in memory

    def add(self, size: int, stored: int, where: str, passing: int = 0) -> None:
        """A column that takes `stored` bytes of the file, `size` of memory, and `passing` more while it is read.

        Raises ``DataError``.
        """
        self.declared, self.stored = self.declared + size, self.stored + stored
        for what, n, m in ((where, size, stored), (f"{self.path}", self.declared, self.stored)):
            if n > SUSPECT[0] and n > SUSPECT[1] * max(m, 1):
                raise DataError(f"{what} declares {n} bytes and stores {m}: refused as a broken or hostile file")
        if self.whole:
            check_fits(self.path, self.declared + passing)


def spaced(ends: np.ndarray, pieces: int, broken: Callable[[int], bool]) -> list[int]:
    """Where rows may be cut into at most so many pieces of about equal size: the rows behind `ends` [N] bool.

    A row behind an end is cut off only where it is `broken` off, the last row always. Empty: one piece.
    """
    rows = len(ends)
    found, least = [0], -(-rows // pieces)
    for row in (np.flatnonzero(ends) + 1).tolist():
        if row - found[-1] >= least and (row == rows or broken(row)):
            found.append(row)
    found = [*found[1:-1], rows]  # the last two are one: the rest may be short
    return found if len(found) > 1 else []


def check_cut(name: str, size: int, ends: list[int]) -> None:
    """Raises ``DataError`` where a piece of data of `size` bytes, cut at the row numbers `ends`, does not fit."""
    share = float(np.diff([0, *ends]).max()) / ends[-1] if ends else 1.0
    if not fits(math.ceil(share * size)):
        raise DataError(
            f"{name}: larger than the memory that may be used, and its recordings are too long to be cut into pieces; "
            "flag their ends ('terminals', 'timeouts') where that is missing, or allow more (--memory-limit)"
        )


def target(dtype: np.dtype, narrow: bool) -> np.dtype:
    """The type in memory: with `narrow` every float becomes float32."""
    return np.dtype(np.float32) if narrow and dtype.kind == "f" else dtype


# ------------------------------------------------------------------------------------------------------------ envelope


def sealed(dataset: Dataset) -> str:
    """What our own files say beside the columns: format, name and info as JSON. Raises ``DataError``."""
    return json.dumps({"format": FORMAT, "name": dataset.name, "info": json.loads(info_text(dataset))})


def info_text(dataset: Dataset) -> str:
    """The dataset's info as JSON. Raises ``DataError``."""
    try:
        return json.dumps(dataset.info, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{dataset.name}: info cannot be written as JSON: {error}") from error


def opened(text: Any, where: str) -> tuple[str, dict[str, Any]]:
    """Name and info of a `sealed` envelope. Raises ``DataError``."""
    parsed = parsed_json(text, where)
    info, name = parsed.get("info"), parsed.get("name")
    if parsed.get("format") != FORMAT:
        raise DataError(
            f"{where}: format {parsed.get('format')!r} is not known to this version, which reads {FORMAT}; update segue"
        )
    if not isinstance(info, dict) or not isinstance(name, str):
        raise DataError(f"{where}: name and info are missing or no JSON object; export the dataset again")
    return name, checked_info(info, where)


def checked_info(info: dict[str, Any], where: str) -> dict[str, Any]:
    """The info of a file of our own, its transforms a list of objects with a kind, its licence a text, if any.

    Raises ``DataError``.
    """
    transforms = info.get("transforms", [])
    if not isinstance(transforms, list) or not all(
        isinstance(record, dict) and isinstance(record.get("kind"), str) for record in transforms
    ):
        raise DataError(f"{where}: 'transforms' is no list of objects, each with a 'kind'; export the dataset again")
    if not isinstance(info.get("licence"), str | None):
        raise DataError(f"{where}: 'licence' is no text; export the dataset again")
    return info


def parsed_json(text: Any, where: str) -> dict[str, Any]:
    """A JSON object of finite numbers. Raises ``DataError``."""

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is no number of JSON")

    try:
        parsed = json.loads(text, parse_constant=refuse)
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON: {error}; export the dataset again") from error
    if not isinstance(parsed, dict):
        raise DataError(f"{where} is not a JSON object; export the dataset again")
    return parsed


def complete(columns: Mapping[str, Any], path: Path | str) -> None:
    """Raises ``DataError`` unless a file of our own format has every column."""
    for column in COLUMNS:
        if column not in columns and D4RL[column] not in columns:
            raise DataError(f"{path}: column {column!r} is missing from a file of our own format; write it anew")


# ------------------------------------------------------------------------------------------------------------ patterns


def natural(name: str) -> list[Any]:
    """Sorting key: sensor_2 before sensor_10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def matching(patterns: str, names: list[str], where: str) -> list[str]:
    """The names that the patterns (parted by commas) fit, pattern by pattern, each in natural order.

    Raises ``DataError`` for a pattern that fits none.
    """
    found: list[str] = []
    for pattern in (part.strip() for part in patterns.split(",")):
        fits = sorted((n for n in names if n == pattern or fnmatchcase(n, pattern)), key=natural)
        if not fits:
            known = names if len(names) <= 40 else [*names[:40], "..."]
            raise DataError(f"{where}: no column fits {pattern!r}{nearest(pattern, known)}")
        found += [name for name in fits if name not in found]
    return found


# ------------------------------------------------------------------------------------------------------------- writing


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """`replacing`, the folder made first. Raises ``DataError`` where the disk refuses."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            yield file
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error


def suffixed(path: Path, *suffixes: str) -> None:
    """Raises ``DataError`` unless the path ends in one of the suffixes."""
    if path.suffix.lower() not in suffixes:
        raise DataError(f"{path}: this format is {suffixes[0]}; give a name that ends in it")
