"""Readers and writers of datasets, one page a format; `docs/formats.md` says what each means by columns and ends."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segue.errors import ConfigError, DataError
from segue.tasks.dataset import COLUMNS, D4RL, Dataset, closed, dataset_from_arrays, renamed
from segue.tasks.formats import disk, npz, own
from segue.tasks.formats.common import KINDS, PLAIN, GoesOn, Raw, Reading, check_cut, writing
from segue.tasks.formats.memory import check_fits, fits, pieces_of

if TYPE_CHECKING:
    from segue.tasks.task import Reference

__all__ = [
    "KINDS",
    "PLAIN",
    "Raw",
    "Reading",
    "find_kind",
    "fits",
    "located",
    "manifest",
    "read",
    "read_columns",
    "read_pieces",
    "write",
    "write_npz",
    "writing",
]

PAGES = {"segue": "disk", "npz": "npz", "d4rl": "hdf5", "minari": "minari", "ogbench": "ogbench", "table": "table"}
WRITERS = {".segue": "segue", ".npz": "npz", ".hdf5": "d4rl", ".h5": "d4rl", ".csv": "table", ".parquet": "table"}
FOLDERS = ("segue", "minari")  # kinds that are folders, or may be
MINARI = "minari:"  # before the id of a dataset in Minari's local store
PACKAGES = (
    "mujoco",
    "gymnasium",
    "gymnasium-robotics",
    "ogbench",
    "dm-control",
    "scipy",
    "minari",
    "numpy",
    "segue",
)  # whose versions are told

write_npz = npz.write


def located(path: str | Path) -> Path:
    """The file or folder that `path` names, absolute: ``minari:D4RL/door/human-v2`` is looked up in Minari's store.

    Raises ``DataError`` for a malformed id, or one that is not there and cannot be downloaded.
    """
    if str(path).startswith(MINARI):
        from segue.tasks.formats import minari

        return minari.stored(str(path)[len(MINARI) :])
    return Path(path).expanduser().resolve()


def find_kind(path: Path) -> str:
    """The kind of a file, from its suffix and what it holds. Raises ``DataError``."""
    if path.is_dir():
        if path.suffix == ".segue" or (path / "manifest.json").is_file():
            return "segue"
        if (path / "metadata.json").is_file() or (path / "data" / "metadata.json").is_file():
            return "minari"
        raise DataError(
            f"{path}: a folder without manifest.json is not segue's, and one without metadata.json no Minari dataset; "
            "name a file"
        )
    suffix = path.suffix.lower()
    if suffix in (".hdf5", ".h5"):
        return "minari" if path.name == "main_data.hdf5" else "d4rl"
    if suffix in (".csv", ".parquet"):
        return "table"
    if suffix == ".npz":
        held = set(npz.names(path))
        bare = {"observations", "actions", "terminals"} <= held and not held & {"rewards", "reward", "format"}
        return "ogbench" if bare else "npz"
    raise DataError(
        f"{path}: unknown kind of file {suffix!r}; segue reads .npz, .hdf5, .h5, .csv, .parquet, its own folders "
        ".segue, and Minari's"
    )


def _found(path: str | Path, reading: Reading) -> tuple[Path, str, Reading]:
    """The file or folder, its kind, and how it is to be understood: what segue wrote as it stands."""
    found = located(path)
    if not found.exists():
        raise DataError(f"{found}: no such file")
    if not (found.is_file() or found.is_dir()):
        raise DataError(f"{found}: not a file")
    if reading != PLAIN and _own(found):
        reading = PLAIN
    kind = reading.kind or find_kind(found)
    if found.is_dir() and kind not in FOLDERS:
        raise DataError(f"{found}: not a file, which {kind!r} needs; name a file in it")
    if found.is_file():
        if kind == "segue":
            raise DataError(f"{found}: not a folder, which segue's own datasets are; name the folder")
        if kind != "d4rl":  # which may be read in pieces
            check_fits(found, found.stat().st_size)
    return found, kind, reading


def _own(found: Path) -> bool:
    """Whether segue wrote the file or folder, whatever kind it is said to be."""
    try:
        kind = find_kind(found)
    except DataError:  # of no name or content of ours
        return False
    return own.written(found, kind)


def _page(kind: str) -> Any:
    return importlib.import_module(f"segue.tasks.formats.{PAGES[kind]}")


def held(path: str | Path, reading: Reading = PLAIN) -> int:
    """Bytes that the columns of a file take in memory, as far as its header or its size tells. Raises ``DataError``."""
    found = located(path)
    if not found.is_file():
        return sum(file.stat().st_size for file in found.rglob("*") if file.is_file())
    return _page("d4rl").held(found) if (reading.kind or find_kind(found)) == "d4rl" else found.stat().st_size


def read_columns(path: str | Path, reading: Reading = PLAIN) -> Raw:
    """What a file holds before it is checked, floats as they are stored: the structure is safe, the values are not.

    `path` is a file, a folder, or ``minari:ID``. Raises ``DataError``.
    """
    found, kind, reading = _found(path, reading)
    return _page(kind).load(found, reading, narrow=False)


def read(
    path: str | Path,
    *,
    name: str | None = None,
    action_low: Any = None,
    action_high: Any = None,
    max_episode_steps: int | None = None,
    reading: Reading = PLAIN,
) -> Dataset:
    """A dataset from a file, a folder, or ``minari:ID``.

    The keywords are those of `dataset_from_arrays`. Files that segue wrote hold the rows as they were: nothing is
    mapped, clipped or cut again, whatever the bounds and the reading say. Without bounds, here or in the reading, those
    that the file declares hold (Minari). Raises ``DataError`` for a missing, truncated or oversized file, pickled
    objects, and links out of it, ``ConfigError`` for bounds here that are not the reading's.
    """
    found, kind, reading = _found(path, reading)
    if kind == "segue":
        dataset = disk.read(found)
        return replace(dataset, name=name) if name else dataset
    raw = _page(kind).load(found, reading, narrow=True)
    return _checked(found, raw, name, action_low, action_high, max_episode_steps, reading)


def read_pieces(
    path: str | Path,
    *,
    action_low: Any = None,
    action_high: Any = None,
    max_episode_steps: int | None = None,
    reading: Reading = PLAIN,
    pieces: int | None = None,
    goes_on: GoesOn | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Dataset]:
    """The dataset of `read` in pieces that end where an episode does, one at a time.

    Of HDF5 in D4RL's layout and of our own folders only a piece is held in memory, a fraction of what may be used
    unless their number is given; other formats come as one piece. None begins where the recording `goes_on` from a
    terminal row (`Task.goes_on`). `progress` is told the rows read and their number. Raises ``DataError``.
    """
    found, kind, reading = _found(path, reading)
    if kind == "segue":
        whole, done = disk.read(found), 0
        for piece in disk.split(whole, pieces, goes_on):
            yield piece
            done += piece.size
            if progress is not None:
                progress(done, whole.size)
        return
    size = held(found, reading)
    pieces = pieces_of(size) if pieces is None else pieces
    ends = _page(kind).cuts(found, pieces, goes_on) if kind == "d4rl" else []
    if kind == "d4rl":
        check_cut(str(found), size, ends)
    if not ends:
        bounds = {"action_low": action_low, "action_high": action_high, "max_episode_steps": max_episode_steps}
        yield read(path, **bounds, reading=reading)
        return
    for start, stop in pairwise([0, *ends]):
        raw = _page(kind).load(found, reading, True, slice(start, stop))
        past = len(raw.info.get("transforms", [])) if raw.own else 0
        try:
            piece = _checked(found, raw, None, action_low, action_high, max_episode_steps, reading)
        except DataError as error:
            raise DataError(f"rows {start:,} to {stop - 1:,}, numbered from 0 there: {error}") from error
        columns = {column: getattr(piece, column) for column in COLUMNS}
        yield disk.Piece(**columns, name=piece.name, info=piece.info, past=past)
        if progress is not None:
            progress(stop, ends[-1])


def _checked(
    found: Path,
    raw: Raw,
    name: str | None,
    action_low: Any,
    action_high: Any,
    max_episode_steps: int | None,
    reading: Reading,
) -> Dataset:
    """What a page has read as a dataset."""
    if raw.own:
        parts = {_ours(key): value for key, value in raw.columns.items()}
        return renamed(closed(Dataset(**parts, name=str(found), info=raw.info)), name or raw.name)
    low, high = reading.bounds(action_low, action_high) or raw.bounds or (None, None)
    columns = dict(raw.columns)
    raw.columns.clear()  # so that a column is freed once it is not needed
    dataset = dataset_from_arrays(
        columns,
        str(found),
        action_low=low,
        action_high=high,
        max_episode_steps=max_episode_steps,
        clip_actions=reading.clip_actions,
        rewards=reading.rewards,
        terminals=reading.terminals,
        terminal_reward=reading.terminal_reward,
        info=raw.info,
        owned=True,
    )
    return renamed(dataset, name or raw.name)


def _ours(key: str) -> str:
    return next((column for column, theirs in D4RL.items() if theirs == key), key)


def write(dataset: Dataset, path: str | Path, kind: str | None = None) -> None:
    """Writes a dataset whole or not at all. `kind`, one of `KINDS` but OGBench's, follows from the suffix: ``.npz``,
    ``.hdf5``, ``.csv``, ``.parquet``, ``.segue`` (our own folder), none (a folder of Minari's layout). `read` gives the
    same rows back, bit for bit.

    Raises ``DataError`` where the disk refuses or the format cannot hold the rows, ``ConfigError`` for the kind.
    """
    path = Path(path).expanduser()
    if kind is None:  # a folder of Minari's is called by name and version
        kind = WRITERS.get(path.suffix.lower(), "minari" if path.name.rpartition("-v")[2].isdecimal() else None)
    if kind not in PAGES or kind == "ogbench":
        raise ConfigError(
            f"{path}: segue writes {', '.join(k for k in KINDS if k != 'ogbench')} to .npz, .hdf5, .csv, .parquet, a "
            "folder NAME.segue, or a folder NAME-v0 for Minari; choose one of these"
        )
    _page(kind).write(dataset, path)


def manifest(dataset: Dataset, reference: Reference | None = None) -> dict[str, Any]:
    """All there is to say about a dataset in one place; JSON-able.

    ``format`` is the one that the rows first came from, ``transforms`` what was done to them since, in order;
    ``low`` and ``high`` are the least and largest value of each entry, ``score`` the mean return on `reference`.
    """
    info = dict(dataset.info)
    versions = {key: str(info.pop(key)) for key in PACKAGES if key in info}
    try:
        versions["segue"] = metadata.version("segue")
    except metadata.PackageNotFoundError:  # run from its folder
        from segue import __version__

        versions["segue"] = __version__
    told: dict[str, Any] = {
        "name": dataset.name,
        "format": info.pop("format", "made"),
        "source": info.pop("source", None),
        "licence": info.pop("licence", None),
        "rows": dataset.size,
        "episodes": len(dataset.lengths),
        "return": _statistics(dataset.returns),
        "length": _statistics(dataset.lengths),
        "terminals": int(np.count_nonzero(dataset.terminal)),
        "timeouts": int(np.count_nonzero(dataset.timeout)),
        "observation": _space(dataset.obs),
        "action": _space(dataset.action),
        "reward": {"min": float(dataset.reward.min()), "max": float(dataset.reward.max())},
        "transforms": info.pop("transforms", []),
        "reference": None,
        "hash": dataset.hash,
        "versions": versions,
        "info": info,
    }
    if reference is not None:
        score = float(np.mean(reference.scores(dataset)))
        told["reference"] = asdict(reference) | {"score": score if math.isfinite(score) else None}
    return told


def _statistics(values: np.ndarray) -> dict[str, float]:
    return {
        "min": float(values.min()),
        "mean": float(values.mean()),
        "median": float(np.median(values)),
        "max": float(values.max()),
        "std": float(values.std()),
    }


def _space(array: np.ndarray) -> dict[str, Any]:
    return {"dim": array.shape[1], "low": array.min(axis=0).tolist(), "high": array.max(axis=0).tolist()}
