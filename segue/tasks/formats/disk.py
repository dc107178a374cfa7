"""Our own folder ``NAME.segue``: a dataset that may be larger than the memory.

    manifest.json   format, name, info, rows, obs_dim, act_dim, hash
    rows.f32        [N, width] float32, little-endian: obs | action | next_obs | reward, terminal, timeout, step
    reward.f32      [N] float32 once more, and terminal.b1, timeout.b1 [N] bytes of 0 or 1: read whole at the start

A row is one stretch of bytes, so that fetching one costs one read. The folder is memory-mapped; where its rows fit into
the memory that may be used they are read whole, else they stay on disk and training fetches what it draws.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segue.errors import DataError
from segue.tasks.dataset import COLUMNS, Dataset
from segue.tasks.formats.common import Raw, Reading
from segue.tasks.formats.memory import fits

SUFFIX = ".segue"
FORMAT = 1
CHUNK = 1 << 16  # rows handled at once
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
        """Reads everything once and raises ``DataError`` if it is not what was written; opening does not."""
        assert self.disk is not None
        if _hash(self.disk.folder, self.size, self.obs_dim, self.act_dim) != self.recorded:
            raise DataError(
                f"{self.disk.folder}: its rows are not those that were written (hash differs); import it again"
            )


def read(folder: Path) -> Dataset:
    """The dataset in a folder of ours: in memory where it fits, else on disk. Raises ``DataError``."""
    manifest = _manifest(folder)
    n, d, a = (manifest[key] for key in ("rows", "obs_dim", "act_dim"))
    width = 2 * d + a + 4
    maps = {}
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
    on_disk = not fits(rows.nbytes)
    if on_disk:
        rows._mmap.madvise(mmap.MADV_RANDOM)  # single rows are asked for: reading ahead would be in vain
    else:
        rows = np.array(rows)
    columns = {"obs": rows[:, :d], "action": rows[:, d : d + a], "reward": np.array(maps["reward"])}
    columns |= {"next_obs": rows[:, d + a : 2 * d + a]}
    columns |= {name: np.array(maps[name]) for name in ("terminal", "timeout")}
    if not on_disk:
        columns = {name: np.ascontiguousarray(column) for name, column in columns.items()}
        dataset = Dataset(**columns, name=manifest["name"], info=manifest["info"])
        if dataset.hash != manifest["hash"]:
            raise DataError(f"{folder}: its rows are not those that were written (hash differs); import it again")
        return dataset
    disk = Disk(folder, rows, {name: columns[name] for name in ("reward", "terminal", "timeout")})  # type: ignore[arg-type]
    return DiskDataset(**columns, name=manifest["name"], info=manifest["info"], disk=disk, recorded=manifest["hash"])


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read as a dataset's manifest ({error}); import the dataset again"
        ) from error
    kinds = {"rows": int, "obs_dim": int, "act_dim": int, "name": str, "info": dict, "hash": str}
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise DataError(f"{path}: not a manifest of format {FORMAT}, which this version reads; update segue")
    for key, kind in kinds.items():
        if type(found.get(key)) is not kind or (kind is int and not 0 < found[key] < 2**48):
            raise DataError(f"{path}: field {key!r} is {found.get(key)!r}; import the dataset again")
    return found


def load(path: Path, reading: Reading, narrow: bool) -> Raw:
    """The columns of a folder, as `read` has them. Raises ``DataError``."""
    dataset = read(path)
    return Raw({column: getattr(dataset, column) for column in COLUMNS}, dataset.info, True, dataset.name)


def write(dataset: Dataset, path: Path) -> None:
    """A folder of one dataset, whole or not at all. Raises ``DataError``."""
    write_pieces([dataset], path)


def write_pieces(pieces: Iterable[Dataset], folder: Path) -> None:
    """A folder of the pieces of one dataset, one after another, whole or not at all; each ends at an episode's end.

    Raises ``DataError`` where the folder exists already, nothing is to be written, or the disk refuses.
    """
    if folder.suffix != SUFFIX:
        raise DataError(f"{folder}: our own folders end in {SUFFIX}; give such a name")
    if folder.exists():
        raise DataError(f"{folder}: exists already; remove it or give another name")
    n, first, transforms = 0, None, []
    with _new_folder(folder) as temporary:
        with (
            open(temporary / "rows.f32", "wb") as rows,
            open(temporary / "reward.f32", "wb") as reward,
            open(temporary / "terminal.b1", "wb") as terminal,
            open(temporary / "timeout.b1", "wb") as timeout,
        ):
            for piece in pieces:
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
                transforms.append(piece.info.get("transforms", []))
        if first is None:
            raise DataError(f"{folder}: no rows to write")
        info = {key: value for key, value in first.info.items() if key != "transforms"}
        if done := _summed(transforms):
            info["transforms"] = done
        manifest = {"format": FORMAT, "name": first.name, "info": info, "rows": n, "obs_dim": first.obs_dim}
        manifest |= {"act_dim": first.act_dim, "hash": _hash(temporary, n, first.obs_dim, first.act_dim)}
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1, allow_nan=False))


def _summed(transforms: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What was done to the pieces as what was done to the whole: counts of the same transform are added."""
    total: dict[str, dict[str, Any]] = {}
    joins = {"rows": sum, "dropped": sum, "largest": max}
    for done in transforms:
        for one in done:
            rest = {key: value for key, value in one.items() if key not in joins}
            known = total.setdefault(json.dumps(rest, sort_keys=True), rest)
            for key in joins.keys() & one.keys():
                known[key] = joins[key]([known[key], one[key]]) if key in known else one[key]
    return list(total.values())


def _parts(piece: Dataset) -> Iterator[np.ndarray]:
    """Packed rows, some at a time, [n, width] float32."""
    step = piece.step
    for i in range(0, piece.size, CHUNK):
        s = slice(i, i + CHUNK)
        scalars = np.stack([piece.reward[s], piece.terminal[s], piece.timeout[s], step[s]], -1, dtype="<f4")
        yield np.concatenate([piece.obs[s], piece.action[s], piece.next_obs[s], scalars], -1, dtype="<f4")


def _hash(folder: Path, n: int, d: int, a: int) -> str:
    """`Dataset.hash` of what was written, without holding a column."""
    rows = np.memmap(folder / "rows.f32", "<f4", "r", shape=(n, 2 * d + a + 4))
    spans = {"obs": slice(0, d), "action": slice(d, d + a), "next_obs": slice(d + a, 2 * d + a)}
    digest = hashlib.sha256()
    for column in COLUMNS:
        if column in spans:
            array: np.ndarray = rows[:, spans[column]]
        else:
            file = next(f for f in FILES if f.startswith(column))
            array = np.memmap(folder / file, FILES[file], "r", shape=(n,))
        digest.update(f"{column} {array.dtype.str} {array.shape}\n".encode())
        for i in range(0, n, CHUNK):
            digest.update(np.ascontiguousarray(array[i : i + CHUNK]).data)
    return digest.hexdigest()


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
