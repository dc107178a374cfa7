"""NPZ: our own format, and any archive whose columns have our names or D4RL's."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from segue.errors import DataError
from segue.tasks.dataset import COLUMNS, Dataset
from segue.tasks.formats.common import (
    FORMAT,
    WANTED,
    Raw,
    Reading,
    Sizes,
    checked_info,
    complete,
    info_text,
    parsed_json,
    parsing,
    suffixed,
    target,
    writing,
)

OWN = ("format", "name", "info")  # members of our own files beside the columns
CHUNK = 2**20  # bytes read at a time


def load(path: Path, reading: Reading, narrow: bool) -> Raw:
    """The columns of an archive; members of other names are listed and not read. Raises ``DataError``."""
    arrays, ignored = members(path, {*WANTED, *OWN}, narrow)
    own = arrays.get("format") is not None and arrays.get("info") is not None
    with parsing(path, ".npz"):
        version, name, text = arrays.pop("format", None), str(arrays.pop("name", "")), str(arrays.pop("info", ""))
    if not own:
        info = {"source": path.name, "format": "npz"}
        return Raw(arrays, info | ({"ignored_columns": ignored} if ignored else {}), False, path.stem)
    if version.shape != () or version.dtype.kind not in "iu" or int(version) != FORMAT:
        raise DataError(f"{path}: format {version} is not known to this version, which reads {FORMAT}; update segue")
    info = checked_info(parsed_json(text, f"{path}: 'info'"), f"{path}: 'info'")
    complete(arrays, path)
    return Raw({column: arrays[column] for column in COLUMNS if column in arrays}, info, True, name)


def names(path: Path) -> list[str]:
    """Names of the members. Raises ``DataError``."""
    with parsing(path, ".npz"), zipfile.ZipFile(path) as archive:
        return [member.filename.removesuffix(".npy") for member in archive.infolist()]


def members(path: Path, wanted: set[str], narrow: bool) -> tuple[dict[str, Any], list[str]]:
    """The wanted arrays, and the names of the others. Nothing is written to disk, whatever a member is called."""
    arrays: dict[str, Any] = {}
    ignored: list[str] = []
    sizes, length = Sizes(path), path.stat().st_size
    with parsing(path, ".npz"), zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            key = member.filename.removesuffix(".npy")
            if key in arrays:
                raise DataError(f"{path}: column {key!r} occurs twice; save the archive again")
            if key not in wanted:
                ignored.append(key)
                continue
            where = f"{path}: column {key!r}"
            sizes.add(member.file_size, min(member.compress_size, length), where)
            with archive.open(member) as file:
                arrays[key] = _array(file, member.file_size, where, narrow)
    return arrays, sorted(ignored)


def _array(file: Any, size: int, where: str, narrow: bool) -> np.ndarray:
    """One array; objects, and shapes that the member cannot hold, are refused before anything is allocated."""
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise DataError(f"{where} is stored in .npy version {version}; save it again with numpy.savez")
    shape, fortran, dtype = readers[version](file)
    if dtype.hasobject:
        raise DataError(f"{where} holds pickled objects, which segue never loads; save one numeric array instead")
    count = math.prod(int(length) for length in shape)
    if min(shape, default=1) < 0 or count * dtype.itemsize > size:
        raise DataError(f"{where} is cut short: shape {shape} needs {count * dtype.itemsize} bytes, {size} are there")
    flat = np.empty(count, target(dtype, narrow))
    step = max(1, CHUNK // max(dtype.itemsize, 1))
    with np.errstate(over="ignore"):
        for start in range(0, count, step):
            n = min(step, count - start)
            flat[start : start + n] = np.frombuffer(_exactly(file, n * dtype.itemsize), dtype)
    while file.read(CHUNK):  # to the member's end, where its checksum is compared
        pass
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def _exactly(file: Any, n: int) -> bytes:
    """`n` bytes. Raises ``EOFError``."""
    parts = []
    while n:
        part = file.read(n)
        if not part:
            raise EOFError("the array ends early")
        parts.append(part)
        n -= len(part)
    return b"".join(parts)


def write(dataset: Dataset, path: Path) -> None:
    """Our own format, whole or not at all. Raises ``DataError``."""
    suffixed(path, ".npz")
    arrays = {column: getattr(dataset, column) for column in COLUMNS}
    text = info_text(dataset)
    with writing(path) as file:
        np.savez(
            file, allow_pickle=False, format=np.int64(FORMAT), name=np.str_(dataset.name), info=np.str_(text), **arrays
        )
