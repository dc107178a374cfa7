"""Incomplete data: filters from `Dataset` to `Dataset`, as in OOO (Mark et al. 2023, appendix B.2).

A filter drops rows and changes none. A row before a dropped one of its episode ends there as a cut (``timeout``) and
keeps its ``next_obs``, so what is learnt from it still bootstraps; rows after a dropped stretch are an episode of their
own. Only the observation a row starts from is looked at, as in the paper's code.

On the command line a filter is a word: ``near=7,9,1.5:1,10,1.5`` (balls, each its centre and radius, apart by colons;
``near=0.5,1.2,0.1@3,4`` looks at entries 3 and 4 instead of the first ones), ``truncate=20``, or a name of `NAMED`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np

from segue.errors import ConfigError, DataError, nearest
from segue.tasks import mazes
from segue.tasks.dataset import COLUMNS, Dataset
from segue.tasks.formats import disk


@dataclass(frozen=True)
class Near:
    """Drops the rows whose position lies in one of some closed balls.

    Each of `balls` is a centre followed by its radius, in the units of the observation; the position is the entries
    `dims` of the observation. Raises ``ConfigError`` for balls of another length, radii that are not above 0, and
    entries named twice.
    """

    balls: tuple[tuple[float, ...], ...]
    dims: tuple[int, ...] = (0, 1)

    word: ClassVar[str] = "near"
    usage: ClassVar[str] = "near=x,y,radius[:x,y,radius...][@entry,entry]"

    def __post_init__(self) -> None:
        if not self.balls or not self.dims or len(set(self.dims)) < len(self.dims) or min(self.dims) < 0:
            raise ConfigError(
                f"{self.text!r}: needed are one ball or more, and entries from 0 on, each once: {self.usage}"
            )
        for ball in self.balls:
            if len(ball) != len(self.dims) + 1:
                raise ConfigError(
                    f"{self.text!r}: a ball in {len(self.dims)} entries has {len(self.dims) + 1} numbers, and "
                    f"{_number_list(ball)!r} has {len(ball)}: {self.usage}"
                )
            if not all(math.isfinite(x) for x in ball) or ball[-1] <= 0:
                raise ConfigError(f"{self.text!r}: {_number_list(ball)!r} needs finite numbers and a radius above 0")

    @classmethod
    def parse(cls, value: str) -> Near:
        """The filter of the text after ``near=``. Raises ``ConfigError``."""
        balls, at, dims = value.partition("@")
        parsed = tuple(_numbers(ball, float, cls.usage) for ball in balls.split(":"))
        return cls(parsed, _numbers(dims, int, cls.usage)) if at else cls(parsed)

    @property
    def text(self) -> str:
        """The filter as a word of the command line."""
        at = "" if self.dims == (0, 1) else "@" + _number_list(self.dims)
        return f"{self.word}={':'.join(map(_number_list, self.balls))}{at}"

    def position(self, dataset: Dataset) -> np.ndarray:
        """Where the rows start, [N, D] float64. Raises ``DataError`` for entries out of range."""
        if max(self.dims) >= dataset.obs_dim:
            raise DataError(
                f"{dataset.name}: filter {self.text!r} looks at entry {max(self.dims)} of observations that have "
                f"{dataset.obs_dim}; name others after an @: {self.usage}"
            )
        return dataset.obs[:, list(self.dims)].astype(np.float64)

    def dropped(self, dataset: Dataset) -> np.ndarray:
        """Which rows go, [N] bool. Raises ``DataError`` for entries out of range."""
        place = self.position(dataset)
        inside = np.zeros(dataset.size, bool)
        for *centre, radius in self.balls:
            inside |= ((place - centre) ** 2).sum(1) <= radius**2
        return inside


@dataclass(frozen=True)
class Truncate:
    """Keeps the first `steps` rows of each episode. Raises ``ConfigError`` unless that is 1 or more."""

    steps: int

    word: ClassVar[str] = "truncate"
    usage: ClassVar[str] = "truncate=steps"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"{self.text!r}: at least 1 step of each episode must be kept: {self.usage}")

    @classmethod
    def parse(cls, value: str) -> Truncate:
        """The filter of the text after ``truncate=``. Raises ``ConfigError``."""
        numbers = _numbers(value, int, cls.usage)
        if len(numbers) != 1:
            raise ConfigError(f"{cls.word}={value!r} has {len(numbers)} numbers: {cls.usage}")
        return cls(numbers[0])

    @property
    def text(self) -> str:
        """The filter as a word of the command line."""
        return f"{self.word}={self.steps}"

    def dropped(self, dataset: Dataset) -> np.ndarray:
        """Which rows go, [N] bool."""
        return dataset.step >= self.steps


Filter = Near | Truncate
KINDS: dict[str, type[Near] | type[Truncate]] = {kind.word: kind for kind in (Near, Truncate)}
NAMED: dict[str, Filter] = {  # OOO's; the frames are D4RL's
    "antmaze-large-goal-missing": Near(((*mazes.Frame(4.0, mazes.START).xy(mazes.GOALS["large"]), 2.5),)),
    # the goal, and the corners of the figure, whose x is the row and whose y is the column
    "maze2d-large-missing-data": Near(((7.0, 9.0, 1.5), (1.0, 10.0, 1.5), (1.0, 1.0, 2.0))),
    "hammer-truncated": Truncate(20),
}


def parse(text: str) -> Filter:
    """A filter from its word, ``near=7,9,1.5``, ``truncate=20`` or a name of `NAMED`. Raises ``ConfigError``."""
    kind, given, value = text.partition("=")
    if given and kind in KINDS:
        return KINDS[kind].parse(value)
    if text in NAMED:
        return NAMED[text]
    if kind in KINDS:
        raise ConfigError(f"filter {text!r} has no numbers: {KINDS[kind].usage}")
    raise ConfigError(f"unknown filter {text!r}{nearest(kind, [*KINDS, *NAMED])}")


def apply(dataset: Dataset, filters: Iterable[Filter]) -> Dataset:
    """The dataset after one filter and then the next, each seeing the episodes that the one before left.

    ``info["transforms"]`` gets one object a filter: its kind, its numbers, and how many rows it dropped. Of a dataset
    that stays on disk a piece is held at a time, and what is left comes into memory. Raises ``DataError`` as `through`,
    and where what is left does not fit there.
    """
    filters = list(filters)
    if not filters:
        return dataset
    if isinstance(dataset, disk.DiskDataset):
        what = f"filter {', '.join(repr(one.text) for one in filters)}"
        return disk.joined(through(disk.split(dataset), filters), dataset, what)
    (whole,) = through([dataset], filters)
    return whole


def through(parts: Iterable[Dataset], filters: Sequence[Filter]) -> Iterator[Dataset]:
    """Parts of one dataset, each of whole episodes, after the filters; a part may be left empty.

    Raises ``DataError`` for a filter that the dataset went through before, and at the end for one that leaves fewer
    than 2 rows, or whose balls hold none.
    """
    rows = np.zeros(len(filters) + 1, np.int64)  # before the first filter, behind it, behind the next, ...
    spans: dict[Near, list[np.ndarray]] = {}  # least and largest positions
    name = ""
    for part in parts:
        name = part.name
        rows[0] += part.size
        for i, one in enumerate(filters):
            if isinstance(one, Near) and part.size:
                place = one.position(part)
                low, high = spans.get(one, [place[0], place[0]])
                spans[one] = [np.minimum(low, place.min(0)), np.maximum(high, place.max(0))]
            part = _applied(part, one)
            rows[i + 1] += part.size
        yield part
    for one, before, left in zip(filters, rows.tolist(), rows[1:].tolist(), strict=False):
        if isinstance(one, Near) and left == before:
            text = ", ".join(f"[{a:g}, {b:g}]" for a, b in zip(*spans.get(one, ((), ())), strict=True)) or "nothing"
            raise DataError(
                f"{name}: no row is in filter {one.text!r}; positions span {text}: give centres in that frame"
            )
        if left < 2:
            raise DataError(f"{name}: filter {one.text!r} leaves {left} of {before} rows; make it narrower")


def caught(parts: Iterable[Dataset]) -> Iterator[Dataset]:
    """Parts of one dataset that a task may have filtered (`once`). Raises ``DataError`` at the end for a filter that no
    part lost a row to.
    """
    dropped: dict[str, int] = {}
    name = ""
    for part in parts:
        name, past = part.name, part.past if isinstance(part, disk.Piece) else 0
        for record in part.info.get("transforms", [])[past:]:
            if record.get("kind") in KINDS:
                text = str({key: value for key, value in record.items() if key != "dropped"})
                dropped[text] = dropped.get(text, 0) + record["dropped"]
        yield part
    if missed := [text for text, rows in dropped.items() if not rows]:
        raise DataError(f"{name}: no row is in filter {missed[0]}; the file's positions are of another frame")


def once(dataset: Dataset, one: Filter) -> Dataset:
    """The dataset after a filter; itself if it went through it before. A piece may lose no row."""
    if _went_through(dataset, one):
        return dataset
    return _applied(dataset, one) if isinstance(dataset, disk.Piece) else apply(dataset, [one])


def _record(one: Filter) -> dict[str, Any]:
    return {"kind": one.word, **_listed(asdict(one))}


def _went_through(dataset: Dataset, one: Filter) -> bool:
    return any(_record(one).items() <= found.items() for found in dataset.info.get("transforms", []))


def _applied(dataset: Dataset, one: Filter) -> Dataset:
    record, before = _record(one), list(dataset.info.get("transforms", []))
    if _went_through(dataset, one):
        raise DataError(f"{dataset.name}: went through filter {one.text!r} already; apply it once")
    keep = ~one.dropped(dataset)
    timeout = dataset.timeout.copy()
    timeout[:-1] |= ~keep[1:] & ~dataset.terminal[:-1]  # of a kept row: an end before, or a cut now
    columns = {column: getattr(dataset, column)[keep] for column in COLUMNS} | {"timeout": timeout[keep]}
    for array in columns.values():
        array.setflags(write=False)
    record["dropped"] = int((~keep).sum())
    return replace(dataset, **columns, info={**dataset.info, "transforms": [*before, record]})


def _listed(value: Any) -> Any:
    """Tuples as lists, which is what JSON gives back."""
    if isinstance(value, dict):
        return {key: _listed(x) for key, x in value.items()}
    return [_listed(x) for x in value] if isinstance(value, tuple) else value


def _numbers(text: str, kind: type, usage: str) -> tuple[Any, ...]:
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"{text!r} is no list of {kind.__name__}s apart by commas: {usage}") from error


def _number_list(numbers: Iterable[float]) -> str:
    return ",".join(repr(int(x)) if math.isfinite(x) and x == int(x) else repr(x) for x in numbers)
