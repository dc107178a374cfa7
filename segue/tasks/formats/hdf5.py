"""HDF5 as D4RL lays it out: flat columns under D4RL's names. Groups ``infos`` and ``metadata`` are never read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from segue.errors import DataError
from segue.tasks.dataset import COLUMNS, D4RL, Dataset
from segue.tasks.formats.common import (
    WANTED,
    GoesOn,
    Raw,
    Reading,
    Sizes,
    complete,
    opened,
    parsing,
    sealed,
    spaced,
    suffixed,
    target,
    writing,
)
from segue.tasks.formats.memory import fits

SEAL = "segue{}"  # attributes of our own files: our envelope in pieces
PIECE = 60_000  # bytes; HDF5 takes 64 KiB
CHUNK = 2**24  # bytes that a chunk may unpack to, however few the values are
LOOSE = 4  # size of a larger chunk, in units of all values of its array, above which it is refused
FILTERS = {
    1,
    2,
    3,
    4,
    5,
    6,
    32000,
}  # deflate, shuffle, fletcher32, szip, nbit, scaleoffset, LZF: in HDF5 or h5py itself


def load(path: Path, reading: Reading, narrow: bool, part: slice | None = None) -> Raw:
    """The columns of a file, or a part of their rows; all else is listed and not read. Raises ``DataError``."""
    import h5py

    arrays: dict[str, np.ndarray] = {}
    ignored = []
    sizes = Sizes(path, whole=part is None)
    with parsing(path, "HDF5"), h5py.File(path, "r") as file:
        for key in map(str, file):
            if key in WANTED:
                arrays[key] = column(file, key, f"{path}: column {key!r}", sizes, narrow, part)
            else:
                ignored.append(key)
        seal = unsealed(file)
    if not seal:
        info: dict[str, Any] = {"source": path.name, "format": "d4rl"}
        return Raw(arrays, info | ({"ignored_columns": sorted(ignored)} if ignored else {}), False, path.stem)
    name, info = opened(seal, f"{path}: attribute 'segue0'")
    complete(arrays, path)
    return Raw({c: arrays[c if c in arrays else D4RL[c]] for c in COLUMNS}, info, True, name)


def column(group: Any, key: str, where: str, sizes: Sizes, narrow: bool, part: slice | None = None) -> np.ndarray:
    """One numeric array that lies in the file itself, or a part of its rows. Raises ``DataError``."""
    found = checked(group, key, where, sizes)
    if not found.size or not found.ndim:
        return np.empty(found.shape, target(found.dtype, narrow))
    start, stop, _ = (part or slice(None)).indices(len(found))
    array = np.empty((stop - start, *found.shape[1:]), target(found.dtype.newbyteorder("="), narrow))
    found.read_direct(array, np.s_[start:stop])  # HDF5 converts piece by piece
    return array


def held(path: Path) -> int:
    """Bytes that the columns of a file take. Raises ``DataError``."""
    import h5py

    sizes = Sizes(path, whole=False)
    with parsing(path, "HDF5"), h5py.File(path, "r") as file:
        for key in WANTED & set(map(str, file)):
            checked(file, key, f"{path}: column {key!r}", sizes)
    return sizes.declared


def cuts(path: Path, pieces: int, goes_on: GoesOn | None = None) -> list[int]:
    """Where a file may be cut into at most so many pieces of about equal size: rows behind ends of episodes.

    None lies behind a terminal row from which the recording `goes_on`. A file that flags no end is one piece. Raises
    ``DataError``.
    """
    import h5py

    with parsing(path, "HDF5"), h5py.File(path, "r") as file:
        sizes = Sizes(path, whole=False)
        found = {c: key for c in ("terminal", "timeout", "obs", "next_obs") for key in (c, D4RL[c]) if key in file}
        where = {c: f"{path}: column {key!r}" for c, key in found.items()}
        flags = {c: column(file, found[c], where[c], sizes, True) != 0 for c in ("terminal", "timeout") if c in found}
        flags = {c: flag[:, 0] if flag.ndim == 2 and flag.shape[1] == 1 else flag for c, flag in flags.items()}
        if not flags or len({flag.shape for flag in flags.values()}) > 1 or next(iter(flags.values())).ndim != 1:
            return []
        ends = np.logical_or.reduce(list(flags.values()))
        states = [checked(file, found[c], where[c], sizes) for c in ("obs", "next_obs") if c in found]
        if "terminal" not in flags or {(x.ndim, *x.shape[:1]) for x in states} != {(2, len(ends))}:
            goes_on = None  # what is amiss is told when it is read
        terminal = flags.get("terminal", ends)

        def broken(row: int) -> bool:
            if goes_on is None or not terminal[row - 1]:
                return True
            ending, leading = (x[row - 1 : row].astype(np.float32) for x in (states[0], states[-1]))
            return not goes_on(ending, leading, states[0][row : row + 1].astype(np.float32))[0]

        return spaced(ends, pieces, broken)


def checked(group: Any, key: str, where: str, sizes: Sizes) -> Any:
    """The h5py dataset under `key`, after everything that its header says was found harmless."""
    import h5py

    if not isinstance(group.get(key, getlink=True), h5py.HardLink):
        raise DataError(f"{where} is a link to elsewhere; copy the data into the file")
    found = group[key]
    if not isinstance(found, h5py.Dataset):
        raise DataError(f"{where} is a group, not an array")
    if found.is_virtual or found.external:
        raise DataError(f"{where} keeps its values in other files; copy them into this one")
    if found.dtype.hasobject or found.dtype.kind not in "bifu" or found.shape is None:
        raise DataError(f"{where} holds {found.dtype}; give numbers")
    properties = found.id.get_create_plist()
    packed = {properties.get_filter(i)[0] for i in range(properties.get_nfilters())}
    if packed - FILTERS:
        raise DataError(f"{where} is packed by a plug-in (filter {min(packed - FILTERS)}); store it with gzip")
    size = found.size * found.dtype.itemsize
    chunk = math.prod(found.chunks) * found.dtype.itemsize if found.chunks else 0
    if chunk > max(CHUNK, LOOSE * size) or not fits(chunk):
        raise DataError(
            f"{where} holds {size} bytes in chunks of {chunk}, each of which is unpacked as a whole; store it in "
            "chunks of a megabyte"
        )
    sizes.add(size, found.id.get_storage_size(), where, chunk)
    return found


def write(dataset: Dataset, path: Path) -> None:
    """D4RL's layout with next observations and timeouts, and our own envelope as an attribute. Raises ``DataError``."""
    import h5py

    suffixed(path, ".hdf5", ".h5")
    seal = sealed(dataset)
    with writing(path) as file, h5py.File(file.name, "w") as made:  # the temporary file, which is renamed
        for name in COLUMNS:
            made.create_dataset(D4RL[name], data=getattr(dataset, name))
        for i, start in enumerate(range(0, len(seal), PIECE)):
            made.attrs[SEAL.format(i)] = seal[start : start + PIECE]


def unsealed(file: Any) -> str:
    """The envelope of a file of our own, else an empty text."""
    pieces = []
    while (piece := file.attrs.get(SEAL.format(len(pieces)))) is not None:
        pieces.append(str(piece))
    return "".join(pieces)
