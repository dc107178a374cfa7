"""Whether segue wrote a file: told by its envelope, before anything else of it is read."""

from __future__ import annotations

from pathlib import Path

from segue.tasks.formats import npz
from segue.tasks.formats.common import parsing


def written(path: Path, kind: str) -> bool:
    """Whether a file or folder, by itself of this `kind` of `common.KINDS`, holds segue's envelope.

    Raises ``DataError`` for a broken file, ``ConfigError`` for Parquet without pyarrow.
    """
    if kind == "segue":
        return True
    if kind == "npz":
        return {"format", "info"} <= set(npz.names(path))
    if kind == "d4rl":
        return _hdf5(path)
    if kind == "minari":
        return _minari(path)
    return kind == "table" and (_parquet(path) if path.suffix.lower() == ".parquet" else _csv(path))


def _hdf5(path: Path) -> bool:
    import h5py

    from segue.tasks.formats.hdf5 import SEAL

    with parsing(path, "HDF5"), h5py.File(path, "r") as file:
        return SEAL.format(0) in file.attrs


def _minari(path: Path) -> bool:
    from segue.tasks.formats.minari import metadata_of

    folder = path.parent if path.is_file() else path
    place = next((f for f in (folder / "metadata.json", folder / "data" / "metadata.json") if f.is_file()), None)
    if place is None:
        return False
    return "segue" in metadata_of(place)


def _csv(path: Path) -> bool:
    from segue.tasks.formats.table import HEAD, OURS

    side = path.with_name(path.name + ".json")
    if not side.is_file():
        return False
    with parsing(side, "JSON"), side.open(encoding="utf-8", errors="replace") as file:
        return OURS.match(file.read(HEAD)) is not None


def _parquet(path: Path) -> bool:
    from segue.tasks.formats.table import SEAL, pyarrow

    pa = pyarrow(path)
    with parsing(path, "Parquet"), pa.parquet.ParquetFile(path, memory_map=True) as file:
        return SEAL in (file.schema_arrow.metadata or {})
