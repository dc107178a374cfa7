"""Our own folder ``NAME.segue``: a dataset that may be larger than the memory.

    manifest.json   format, name, info, rows, obs_dim, act_dim, hash
    rows.f32        [N, width] float32, little-endian: obs | action | next_obs | reward, terminal, timeout, step
    reward.f32      [N] float32 once more, and terminal.b1, timeout.b1 [N] bytes of 0 or 1: read whole at the start

A row is one stretch of bytes, so that fetching one costs one read. The folder is memory-mapped; where its rows fit into
the memory that may be used they are read whole, else they stay on disk and training fetches what it draws.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import secrets
import shlex
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from segue.errors import DataError
from segue.files import size_text
from segue.tasks.dataset import COLUMNS, Dataset, closed, content_hash, pieces
from segue.tasks.formats.common import GoesOn, Raw, Reading, check_cut, checked_info, info_text, parsed_json, spaced
from segue.tasks.formats.memory import fits, left_on_disk, memory_limit, pieces_of, stays_on_disk

SUFFIX = ".segue"
FORMAT = 1
READERS = 16  # threads that wait for the disk
FEW = 512  # rows below which one thread fetches them
FILES = {"rows.f32": "<f4", "reward.f32": "<f4", "terminal.b1": "|b1", "timeout.b1": "|b1"}


class Disk:
    """Rows that stay on disk."""

    def __init__(self, folder: Path, rows: np.memmap, columns: dict[str, np.ndarray]) -> None:
        self.folder = folder
        self.rows = rows  # [N, width]
        self._columns = columns

    def scalars(self) -> dict[str, np.ndarray]:
        """``reward``, ``terminal`` and ``timeout`` of all rows, [N] float32 each."""
        return {name: np.asarray(self._columns[name], np.float32) for name in ("reward", "terminal", "timeout")}

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Rows ``[..., width]`` float32; an index outside gives the nearest row, which nobody reads.

        They are fetched in the order in which they lie, by several threads, since most of the time is waiting.
        """
        flat = np.clip(indices.ravel(), 0, len(self.rows) - 1)
        out = np.empty((flat.size, self.rows.shape[1]), np.float32)
        order = np.argsort(flat)

        def fetch(part: np.ndarray) -> None:
            out[part] = np.take(self.rows, flat[part], axis=0, mode="clip")

        if flat.size < FEW:
            fetch(order)
        else:
            with ThreadPoolExecutor(READERS) as pool:
                list(pool.map(fetch, np.array_split(order, READERS)))
        return out.reshape(*indices.shape, -1)


@dataclass(frozen=True, eq=False)
class DiskDataset(Dataset):
    """A dataset whose columns are views of a memory map."""

    disk: Disk | None = None
    recorded: str = ""  # the hash as the manifest has it

    @property
    def hash(self) -> str:  # type: ignore[override]
        return self.recorded

    def verify(self) -> None:
        """Reads everything once and raises ``DataError`` if it is not what was written; opening reads the ends only."""
        assert self.disk is not None
        _check_rows(self.disk.folder, self.disk.rows, self)
        if content_hash(self) != self.recorded:
            raise DataError(f"{self.disk.folder}: {CHANGED}")


@dataclass(frozen=True, eq=False)
class Piece(Dataset):
    """A part of a dataset that ends where an episode does."""

    past: int = 0  # records at the front of its transforms that tell of the whole dataset

    least: ClassVar[int] = 1


CHANGED = "its rows are not those that were written (hash differs); import it again"


def read(folder: Path) -> Dataset:
    """The dataset in a folder of ours: in memory where it fits, else on disk. Raises ``DataError``."""
    manifest = _manifest(folder)
    n, d, a = (manifest[key] for key in ("rows", "obs_dim", "act_dim"))
    width = 2 * d + a + 4
    maps: dict[str, Any] = {}
    for file, dtype in FILES.items():
        shape = (n, width) if file == "rows.f32" else (n,)
        expected = math.prod(shape) * np.dtype(dtype).itemsize
        try:
            found = (folder / file).stat().st_size
            if found != expected:
                raise DataError(
                    f"{folder / file}: holds {found:,} bytes and not {expected:,}: the folder is not whole, import the "
                    "dataset again"
                )
            maps[file.partition(".")[0]] = np.memmap(folder / file, np.dtype(dtype), "r", shape=shape)
        except OSError as error:
            raise DataError(f"{folder / file}: cannot be read ({error.strerror}); import the dataset again") from error
    rows = maps["rows"]
    columns = {"obs": rows[:, :d], "action": rows[:, d : d + a], "next_obs": rows[:, d + a : 2 * d + a]}
    columns |= {name: np.array(maps[name]) for name in ("reward", "terminal", "timeout")}
    told = {"name": manifest["name"], "info": manifest["info"]}
    if not stays_on_disk(rows.nbytes):
        columns = {name: np.ascontiguousarray(column) for name, column in columns.items()}
        dataset = closed(Dataset(**columns, **told))
        _check_rows(folder, rows, dataset)
        if dataset.hash != manifest["hash"]:
            raise DataError(f"{folder}: {CHANGED}")
        return dataset
    rows._mmap.madvise(mmap.MADV_RANDOM)  # single rows are asked for: reading ahead would be in vain
    small = {name: columns[name] for name in ("reward", "terminal", "timeout")}
    nothing = np.zeros((n, 1), np.float32)
    closed(Dataset(nothing, nothing, small["reward"], nothing, small["terminal"], small["timeout"], **told))
    return DiskDataset(**columns, **told, disk=Disk(folder, rows, small), recorded=manifest["hash"])


def refuse(dataset: Dataset, what: str) -> None:
    """Raises ``DataError`` for a dataset on disk, whose rows training fetches as they lie there."""
    if isinstance(dataset, DiskDataset):
        folder = shlex.quote(str(_folder(dataset)))
        raise DataError(
            f"{dataset.name}: is larger than the memory that may be used, and {what} wants its rows there; allow more "
            f"(--memory-limit), or do it once, piece by piece: segue data import {folder} --task NAME --out NEW{SUFFIX}"
        )


def _folder(dataset: DiskDataset) -> Path:
    assert dataset.disk is not None
    return dataset.disk.folder


def split(dataset: Dataset, number: int | None = None, goes_on: GoesOn | None = None) -> Iterator[Piece]:
    """A dataset in pieces as `formats.read_pieces` gives those of a file, one at a time in memory.

    Raises ``DataError`` for one that is larger than the memory and holds no end to be cut at.
    """
    size = sum(getattr(dataset, column).nbytes for column in COLUMNS)
    number = pieces_of(size) if number is None else number

    def broken(row: int) -> bool:
        if goes_on is None or not dataset.terminal[row - 1]:
            return True
        before = slice(row - 1, row)
        return not goes_on(dataset.obs[before], dataset.next_obs[before], dataset.obs[row : row + 1])[0]

    ends = spaced(dataset.terminal | dataset.timeout, number, broken)
    check_cut(dataset.name, size, ends)
    past = len(dataset.info.get("transforms", []))
    for start, stop in pairwise([0, *(ends or [dataset.size])]):
        columns = {column: np.array(getattr(dataset, column)[start:stop]) for column in COLUMNS}
        yield Piece(**columns, name=dataset.name, info=dataset.info, past=past)


def joined(parts: Iterable[Dataset], source: DiskDataset, what: str) -> Dataset:
    """The parts of one dataset, one after another, in memory. Raises ``DataError`` where `what` leaves too much."""
    done: list[Dataset] = []
    size = 0
    for part in parts:
        done.append(part)
        size += sum(getattr(part, column).nbytes for column in COLUMNS)
        if not fits(size):
            raise DataError(
                f"{source.name}: {what} leaves {size_text(size)} or more, twice that in training, and "
                f"{size_text(memory_limit())} may be used; leave more out, allow more (--memory-limit), or train from "
                f"disk: segue data import {shlex.quote(str(_folder(source)))} --filter FILTER --out NEW{SUFFIX}"
            )
    columns = {column: np.concatenate([getattr(part, column) for part in done]) for column in COLUMNS}
    return closed(Dataset(**columns, name=source.name, info=_told(done)))


def _check_rows(folder: Path, rows: np.ndarray, dataset: Dataset) -> None:
    """That the packed rows hold finite numbers, and of reward, ends and time just what stands beside them."""
    step = dataset.step
    for s in pieces(dataset.size):
        part = np.array(rows[s])
        wrong = (part[:, -4:] != _scalars(dataset, step, s)).any(1) | ~np.isfinite(part).all(1)
        wrong |= (np.abs(part[:, dataset.obs_dim : dataset.obs_dim + dataset.act_dim]) > 1).any(1)
        if wrong.any():
            raise DataError(
                f"{folder / 'rows.f32'}: row {s.start + int(np.argmax(wrong))} is not what was written; import it again"
            )


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a dataset's manifest; import the dataset again") from error
    found = parsed_json(text, str(path))
    kinds = {"rows": int, "obs_dim": int, "act_dim": int, "name": str, "info": dict, "hash": str}
    if found.get("format") != FORMAT:
        raise DataError(f"{path}: not a manifest of format {FORMAT}, which this version reads; update segue")
    for key, kind in kinds.items():
        if type(found.get(key)) is not kind or (kind is int and not 0 < found[key] < 2**48):
            raise DataError(f"{path}: field {key!r} is {found.get(key)!r}; import the dataset again")
    checked_info(found["info"], str(path))
    return found


def load(path: Path, reading: Reading, narrow: bool) -> Raw:
    """The columns of a folder, as `read` has them. Raises ``DataError``."""
    dataset = read(path)
    return Raw({column: getattr(dataset, column) for column in COLUMNS}, dataset.info, True, dataset.name)


def write(dataset: Dataset, path: Path) -> None:
    """A folder of one dataset, whole or not at all. Raises ``DataError``."""
    write_pieces([dataset], path)


def write_pieces(parts: Iterable[Dataset], folder: Path) -> None:
    """A folder of the parts of one dataset, one after another, whole or not at all; each ends at an episode's end.

    A part may be empty, as a filter leaves it.

    Raises ``DataError`` where the folder exists already, nothing is to be written, or the disk refuses.
    """
    if folder.suffix != SUFFIX:
        raise DataError(f"{folder}: our own folders end in {SUFFIX}; give such a name")
    if folder.exists():
        raise DataError(f"{folder}: exists already; remove it or give another name")
    n, first, done = 0, None, []
    with _new_folder(folder) as temporary:
        with (
            open(temporary / "rows.f32", "wb") as rows,
            open(temporary / "reward.f32", "wb") as reward,
            open(temporary / "terminal.b1", "wb") as terminal,
            open(temporary / "timeout.b1", "wb") as timeout,
        ):
            for piece in parts:
                first = piece if first is None else first
                sizes, before = (piece.obs_dim, piece.act_dim), (first.obs_dim, first.act_dim)
                if sizes != before:
                    raise DataError(f"{first.name}: rows from {n} on have {sizes} entries, and {before} before")
                for part in _parts(piece):
                    part.tofile(rows)
                piece.reward.astype("<f4").tofile(reward)
                piece.terminal.astype("|b1").tofile(terminal)
                piece.timeout.astype("|b1").tofile(timeout)
                n += piece.size
                done.append(_bare(piece))
        if first is None or not n:
            raise DataError(f"{folder}: no rows to write")
        info = json.loads(info_text(replace(first, info=_told(done))))
        told = {"format": FORMAT, "name": first.name, "info": info, "rows": n, "obs_dim": first.obs_dim}
        told |= {"act_dim": first.act_dim, "hash": ""}
        (temporary / "manifest.json").write_text(json.dumps(told))
        with left_on_disk(True):
            told["hash"] = content_hash(read(temporary))
        (temporary / "manifest.json").write_text(json.dumps(told, indent=1))


SUMMED = {"rows": sum, "dropped": sum, "largest": max}  # fields of a record that belong to the piece
ONCE = ("rewards_shifted",)  # kinds whose `rows` is no count


def _bare(piece: Dataset) -> Dataset:
    """What a piece tells, without its rows."""
    return replace(piece, **{column: getattr(piece, column)[:0].copy() for column in COLUMNS})


def _told(parts: list[Dataset]) -> dict[str, Any]:
    """The info of the whole whose parts these are."""
    first = parts[0]
    past = first.past if isinstance(first, Piece) else 0
    records = [part.info.get("transforms", []) for part in parts]
    transforms = records[0][:past] + _summed([done[past:] for done in records])
    rest = {key: value for key, value in first.info.items() if key != "transforms"}
    return rest | ({"transforms": transforms} if transforms else {})


def _summed(records: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What was done to the pieces as what was done to the whole: the same records, their counts added.

    Records that occur twice in a piece (a cut, a filter, the cut again) stay two. One that a later piece brings stands
    before those that follow it there.
    """
    if len(records) == 1:
        return records[0]
    total: dict[tuple[str, int], dict[str, Any]] = {}
    order: list[tuple[str, int]] = []
    for done in records:
        seen: Counter[str] = Counter()
        names = []
        for one in done:
            rest = {key: value for key, value in one.items() if key not in SUMMED or one.get("kind") in ONCE}
            text = json.dumps(rest, sort_keys=True)
            names.append((text, seen[text]))
            seen[text] += 1
            known = total.setdefault(names[-1], rest)
            for key, value in one.items():
                if key not in rest:
                    known[key] = SUMMED[key]([known[key], value]) if key in known else value
        place = len(order)
        for name in reversed(names):
            if name in order:
                place = order.index(name)
            else:
                order.insert(place, name)
    return [total[name] for name in order]


def _parts(piece: Dataset) -> Iterator[np.ndarray]:
    """Packed rows, some at a time, [n, width] float32."""
    step = piece.step
    for s in pieces(piece.size):
        yield np.concatenate(
            [piece.obs[s], piece.action[s], piece.next_obs[s], _scalars(piece, step, s)], -1, dtype="<f4"
        )


def _scalars(dataset: Dataset, step: np.ndarray, s: slice) -> np.ndarray:
    """The last four entries of packed rows, [n, 4] float32."""
    return np.stack([dataset.reward[s], dataset.terminal[s], dataset.timeout[s], step[s]], -1, dtype="<f4")


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A temporary sibling that becomes `folder` at the block's end, or vanishes."""
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for file in temporary.iterdir():
            with open(file, "rb") as f:
                os.fsync(f.fileno())
        os.rename(temporary, folder)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
