"""Minari's folders: T + 1 observations and T actions an episode, in HDF5 (h5py alone) or Arrow and Parquet (pyarrow).

NAME-v0/data/metadata.json    spaces, counts, dataset_id
NAME-v0/data/main_data.hdf5   groups episode_0, ...: observations, actions, rewards, terminations, truncations
NAME-v0/data/0/part-0.arrow   the same as one table an episode, all columns padded to T + 1
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segue.errors import DataError
from segue.tasks.dataset import Dataset, pieces
from segue.tasks.formats import hdf5
from segue.tasks.formats.common import Raw, Reading, Sizes, complete, matching, opened, parsing, sealed, target

ID = re.compile(r"(?:[-\w]+/)*[-\w]+-v\d+")
VERSION = "0.5.4"  # of Minari, whose layout is written
MAIN = "main_data.hdf5"
FLAGS = ("rewards", "terminations", "truncations")
MAGIC = b"ARROW1\0\0"  # before the stream of messages that an Arrow file holds
KIND, HEADER, CUSTOM = 1, 2, 4  # fields of an Arrow message: what it is, the table of that, metadata of its own
DICTIONARY, BATCH = 2, 3  # kinds of messages
COMPRESSION = 3  # field of a batch
LARGEST_METADATA = 2**26  # bytes
DEPTH = 4  # of nested observations
FLAT = {"obs": "observations", "action": "actions"}  # our column -> where the entries of an episode lie
TOLD = ("algorithm_name", "author", "code_permalink", "description", "ref_min_score", "ref_max_score")


class Episode(NamedTuple):
    """One episode of T steps."""

    obs: dict[str, np.ndarray]  # leaf -> [T + 1, ...]
    action: dict[str, np.ndarray]  # leaf -> [T, ...]
    reward: np.ndarray  # [T]
    terminal: np.ndarray  # [T]
    timeout: np.ndarray  # [T]


def store() -> Path:
    """Minari's local store: ``$MINARI_DATASETS_PATH`` or ``~/.minari/datasets``."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets").expanduser()


def stored(identity: str) -> Path:
    """The folder of ``D4RL/door/human-v2`` in the local store, downloaded by Minari if it is not there.

    Raises ``DataError`` for what is no id, and where there is neither the folder nor a way to get it.
    """
    if not ID.fullmatch(identity):
        raise DataError(
            f"minari:{identity}: no id of Minari; ids are words parted by '/', with a version: door/human-v2"
        )
    folder = store() / identity
    if (folder / "data" / "metadata.json").is_file():
        return folder
    try:
        import minari
    except ImportError as error:
        raise DataError(
            f"minari:{identity}: not in the local store ({store()}); put the folder there, or "
            "pip install 'segue[minari]' to download it"
        ) from error
    try:
        minari.download_dataset(identity)
    except Exception as error:
        raise DataError(
            f"minari:{identity}: not in the local store ({store()}), and the download failed: {error}; "
            f"on a machine with a network: minari download {identity}"
        ) from error
    return folder


def load(path: Path, reading: Reading, narrow: bool) -> Raw:
    """The rows of a dataset's folder, of its ``data``, or of its main file. Raises ``DataError``."""
    folder = path.parent if path.is_file() else path
    folder = folder if (folder / "metadata.json").is_file() else folder / "data"
    metadata = metadata_of(folder / "metadata.json")
    layout = metadata.get("data_format", "hdf5")
    if layout not in ("hdf5", "arrow", "parquet"):
        raise DataError(f"{folder}: data_format is {layout!r}; segue reads hdf5, arrow and parquet")
    beyond = set(reading.columns) - set(FLAT)
    if beyond:
        raise DataError(
            f"{folder}: column {min(beyond)!r} has one place in Minari's layout; choose obs and action only"
        )
    with parsing(folder, f"Minari's {layout} layout"):
        episodes = _hdf5(folder / MAIN, reading) if layout == "hdf5" else _arrow(folder, layout, reading)
        columns, transforms = _rows(episodes, folder, narrow)
    if "segue" in metadata:
        name, info = opened(metadata["segue"], f"{folder}: 'segue' in metadata.json")
        columns["terminal"], columns["timeout"] = columns["terminal"].astype(bool), columns["timeout"].astype(bool)
        complete(columns, folder)
        return Raw(columns, info, True, name)
    identity = str(metadata.get("dataset_id") or (folder.parent if folder.name == "data" else folder).name)
    info: dict[str, Any] = {"source": identity, "format": "minari"}
    info |= {key: value for key in TOLD if isinstance(value := metadata.get(key), str | int | float | list) and value}
    licence = metadata.get("license") or metadata.get("licence")
    if isinstance(licence, str):
        info["licence"] = licence
    if transforms:
        info["transforms"] = transforms
    return Raw(columns, info, False, identity, _bounds(metadata.get("action_space"), folder))


def metadata_of(path: Path) -> dict[str, Any]:
    """The JSON object of a ``metadata.json``. Raises ``DataError``."""
    with parsing(path, "Minari's metadata"):
        if not path.is_file() or path.stat().st_size > LARGEST_METADATA:
            raise DataError(f"{path}: there is none, or it is too large; a dataset of Minari has its metadata there")
        metadata = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(metadata, dict):
            raise DataError(f"{path}: not a JSON object; download the dataset again")
    return metadata


def _bounds(text: Any, folder: Path) -> tuple[Any, Any] | None:
    """Low and high of a Box of actions where they are finite."""
    if not isinstance(text, str):
        return None
    with parsing(folder, "Minari's action_space"):
        space = json.loads(text)
        if space.get("type") in ("Discrete", "MultiDiscrete", "MultiBinary", "Text"):
            raise DataError(f"{folder}: actions are {space['type']}; segue takes continuous actions (Box)")
        if space.get("type") != "Box":
            return None
        low, high = (np.ravel(np.asarray(space[key], np.float64)) for key in ("low", "high"))
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            return None
        return low.tolist(), high.tolist()


def _rows(
    episodes: Iterator[Episode], folder: Path, narrow: bool
) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """The episodes one after another, and what was done to them."""
    obs: list[np.ndarray] = []  # [T + 1, obs_dim] each
    rest: dict[str, list[np.ndarray]] = {"action": [], "reward": [], "terminal": [], "timeout": []}
    known: dict[str, list[tuple[str, int]]] = {}  # leaves and their widths, the same in every episode
    opened_ends = 0
    for number, episode in enumerate(episodes):
        where = f"{folder}: episode {number}"
        steps = len(episode.reward)
        if not steps:
            raise DataError(f"{where} has no steps; remove it")
        for column, leaves, rows in (("obs", episode.obs, steps + 1), ("action", episode.action, steps)):
            layout = [(leaf, int(np.prod(array.shape[1:]))) for leaf, array in leaves.items()]
            for leaf, array in leaves.items():
                if array.ndim > 2:
                    raise DataError(f"{where}: {leaf!r} has shape {array.shape}; segue takes vectors, not images")
                if len(array) != rows:
                    raise DataError(f"{where}: {leaf!r} has {len(array)} rows for {steps} steps; it needs {rows}")
            if known.setdefault(column, layout) != layout:
                raise DataError(f"{where}: {column} is {layout}, and {known[column]} before; episodes must agree")
            dtype = target(np.result_type(*(a.dtype for a in leaves.values())), narrow)
            flat = np.concatenate([a.reshape(rows, -1).astype(dtype, copy=False) for a in leaves.values()], axis=1)
            (obs if column == "obs" else rest["action"]).append(flat)
        terminal, timeout = (np.asarray(flags) != 0 for flags in (episode.terminal, episode.timeout))
        for column, array in (("reward", episode.reward), ("terminal", terminal), ("timeout", timeout)):
            if array.shape != (steps,):
                raise DataError(f"{where}: its {column} column has shape {array.shape}, not ({steps},)")
            rest[column].append(array.astype(target(array.dtype, narrow), copy=False))
        if not (terminal[-1] or timeout[-1]):
            opened_ends += 1
            timeout[-1] = True
    if not obs:
        raise DataError(f"{folder}: no episodes; download the dataset again")
    columns = {
        "obs": np.concatenate([rows[:-1] for rows in obs]),
        "next_obs": np.concatenate([rows[1:] for rows in obs]),
    }
    obs.clear()
    for column, parts in rest.items():
        columns[column] = np.concatenate(parts)
        parts.clear()
    transforms: list[dict[str, Any]] = [
        {"kind": "flattened", "column": column, "entries": [leaf for leaf, _ in layout]}
        for column, layout in known.items()
        if [leaf for leaf, _ in layout] != [FLAT[column]]
    ]
    if opened_ends:
        transforms.append({"kind": "ends_found", "rows": opened_ends, "rule": "the recording of the episode ends"})
    return columns, transforms


def _chosen(leaves: dict[str, Any], column: str, reading: Reading, where: str) -> dict[str, Any]:
    """The leaves in sorted order, or those that the reading names, in its order."""
    pattern = reading.columns.get(column)
    names = sorted(leaves) if pattern is None else matching(pattern, list(leaves), where)
    if not names:
        raise DataError(f"{where}: {FLAT[column]} are empty; download the dataset again")
    return {name: leaves[name] for name in names}


# ---------------------------------------------------------------------------------------------------------------- HDF5


def _hdf5(path: Path, reading: Reading) -> Iterator[Episode]:
    import h5py

    sizes = Sizes(path)
    with h5py.File(path, "r") as file:
        for number in range(len(file)):
            key = f"episode_{number}"
            where = f"{path}: {key}"
            group = _group(file, key, where)

            def array(name: str, group: Any = group, where: str = where) -> np.ndarray:
                return hdf5.column(group, name, f"{where}: {name!r}", sizes, narrow=False)

            parts = {}
            for column, name in FLAT.items():
                chosen = _chosen(_leaves(group, name, where), column, reading, where)
                parts[column] = {
                    leaf: hdf5.checked(parent, key, f"{where}: {leaf!r}", sizes)[()]
                    for leaf, (parent, key) in chosen.items()
                }
            yield Episode(
                **parts, reward=array("rewards"), terminal=array("terminations"), timeout=array("truncations")
            )


def _group(parent: Any, key: str, where: str) -> Any:
    import h5py

    if not isinstance(parent.get(key, getlink=True), h5py.HardLink):
        raise DataError(f"{where} is missing or a link to elsewhere; episodes are numbered from 0 without gaps")
    found = parent[key]
    if not isinstance(found, h5py.Group):
        raise DataError(f"{where} is no group; download the dataset again")
    return found


def _leaves(group: Any, name: str, where: str, depth: int = DEPTH) -> dict[str, tuple[Any, str]]:
    """Parent and key of ``observations``, or of all that is not a group in it: ``desired_goal/kettle``."""
    import h5py

    if not isinstance(group.get(name, getlink=True), h5py.HardLink) or not isinstance(group[name], h5py.Group):
        return {name: (group, name)}
    if not depth:
        raise DataError(f"{where}: {name!r} is nested deeper than {DEPTH} groups; flatten it")
    found = {}
    for key in map(str, group[name]):
        for path, place in _leaves(group[name], key, f"{where}: {name!r}", depth - 1).items():
            found[path if path == key else f"{key}/{path}"] = place
    return found


# --------------------------------------------------------------------------------------------------------------- Arrow


def _arrow(folder: Path, layout: str, reading: Reading) -> Iterator[Episode]:
    from segue.tasks.formats.table import pyarrow, vectors

    pa, sizes = pyarrow(folder), Sizes(folder)
    part = _arrow_part if layout == "arrow" else _parquet_part
    numbers = sorted(int(found.name) for found in folder.iterdir() if found.is_dir() and found.name.isdecimal())
    for number in numbers:
        where = f"{folder}: episode {number}"
        files = sorted((folder / str(number)).glob(f"*.{layout}"))
        if not files:
            raise DataError(f"{where}: no .{layout} file; download the dataset again")
        parts = [part(pa, file, reading, sizes, where) for file in files]
        if any(found.keys() != parts[0].keys() for found in parts):
            raise DataError(f"{where}: its files differ in their columns; download the dataset again")
        chunks = {path: [chunk for found in parts for chunk in found[path].chunks] for path in parts[0]}
        arrays = {
            path: vectors(pa.chunked_array(found, parts[0][path].type), f"{where}: {_label(path)!r}")
            for path, found in chunks.items()
        }
        steps = len(arrays["rewards",]) - 1  # observations have one row more, and the other columns are padded
        leaves = {
            column: {_label(path): array for path, array in arrays.items() if path[0] == name}
            for column, name in FLAT.items()
        }
        yield Episode(
            leaves["obs"],
            {leaf: rows[:steps] for leaf, rows in leaves["action"].items()},
            *(arrays[name,][:steps] for name in FLAGS),
        )


def _wanted(pa: Any, schema: Any, reading: Reading, where: str) -> list[tuple[str, ...]]:
    """Where the columns lie that are read: their names, and those of the fields in structs, from the outermost."""
    missing = {*FLAT.values(), *FLAGS} - set(schema.names)
    if missing:
        raise DataError(f"{where}: column {min(missing)!r} is missing; download the dataset again")
    found: list[tuple[str, ...]] = [(name,) for name in FLAGS]
    for column, name in FLAT.items():
        leaves = {_label(path): path for path in _fields(pa, schema.field(name), where)}
        found += _chosen(leaves, column, reading, where).values()
    return found


def _fields(pa: Any, field: Any, where: str, depth: int = DEPTH) -> Iterator[tuple[str, ...]]:
    """Names on the way to each leaf of a struct, or that of the field itself."""
    if not pa.types.is_struct(field.type):
        yield (field.name,)
        return
    if not depth:
        raise DataError(f"{where}: {field.name!r} is nested deeper than {DEPTH} structs; flatten it")
    for inner in field.type:
        for path in _fields(pa, inner, where, depth - 1):
            yield field.name, *path


def _label(path: tuple[str, ...]) -> str:
    """``observations``, or the place in it: ``desired_goal/kettle``."""
    return "/".join(path[1:]) or path[0]


def _arrow_part(pa: Any, file: Path, reading: Reading, sizes: Sizes, where: str) -> dict[tuple[str, ...], Any]:
    """The wanted columns of an Arrow file by their paths, still in the file.

    Of its two layouts the stream is read and not the footer, which may name the same bytes again and again.
    """
    with pa.memory_map(str(file)) as source:
        held = source.read_buffer()
    if bytes(held[: len(MAGIC)]) != MAGIC or not bytes(held[-len(MAGIC) :]).endswith(MAGIC.rstrip(b"\0")):
        raise DataError(f"{file}: no Arrow file, or a truncated one; download the dataset again")
    stream = held[len(MAGIC) :]
    for message in pa.ipc.MessageReader.open_stream(stream):
        if _packed(memoryview(message.metadata)):
            raise DataError(f"{file}: its columns are compressed, which Minari's never are; write them without")
    schema = pa.ipc.open_stream(stream).schema
    wanted = _wanted(pa, schema, reading, where)
    indices = sorted({schema.get_field_index(path[0]) for path in wanted})
    table = pa.ipc.open_stream(stream, options=pa.ipc.IpcReadOptions(included_fields=indices)).read_all()
    found = {path: _at(pa, table, path, where) for path in wanted}
    for path, array in found.items():
        sizes.add(max(array.nbytes, 8 * len(array)), file.stat().st_size, f"{where}: {_label(path)!r}")
        array.validate(full=True)
    return found


def _parquet_part(pa: Any, file: Path, reading: Reading, sizes: Sizes, where: str) -> dict[tuple[str, ...], Any]:
    """The wanted columns of a Parquet file by their paths."""
    from segue.tasks.formats.table import check_declared

    with pa.parquet.ParquetFile(file, memory_map=True) as source:
        wanted = _wanted(pa, source.schema_arrow, reading, where)
        names = [".".join(path) for path in wanted]
        check_declared(file, names, source.metadata.num_rows, sizes)
        table = source.read(names)
    found = {path: _at(pa, table, path, where) for path in wanted}
    for array in found.values():
        array.validate(full=True)
    return found


def _at(pa: Any, table: Any, path: tuple[str, ...], where: str) -> Any:
    """The chunked array at the end of a path."""
    array = table[path[0]]
    for name in path[1:]:
        if array.null_count:
            raise DataError(f"{where}: {path[0]!r} has empty rows; download the dataset again")
        inner = [chunk.field(name) for chunk in array.chunks]
        array = pa.chunked_array(inner, array.type.field(name).type)
    return array


def _packed(message: memoryview) -> bool:
    """Whether a message of Arrow's compresses its buffers, from its flatbuffer: tables with offsets to their fields."""

    def number(kind: str, at: int) -> int:
        return struct.unpack_from(f"<{kind}", message, at)[0]

    def field(table: int, index: int) -> int:
        """Where a field of a table lies, 0 where it is not set."""
        offsets = table - number("i", table)
        place = 4 + 2 * index
        shift = number("H", offsets + place) if place < number("H", offsets) else 0
        return table + shift if shift else 0

    root = number("I", 0)
    if field(root, CUSTOM):  # where files before version 1.0 kept it
        return True
    kind, header = field(root, KIND), field(root, HEADER)
    table = header + number("I", header) if header else 0
    if kind and message[kind] == DICTIONARY:
        inner = field(table, 1)
        table = inner + number("I", inner)
    elif not kind or message[kind] != BATCH:
        return False
    return bool(field(table, COMPRESSION))


# --------------------------------------------------------------------------------------------------------------- write


def write(dataset: Dataset, path: Path) -> None:
    """The folder ``path/data`` in Minari's HDF5 layout, whole or not at all; ``minari.load_dataset`` reads it.

    Raises ``DataError`` where something is there already, and where an episode is no chain of observations: an episode
    of T rows is kept as T + 1 observations.
    """
    import h5py

    broken = _broken(dataset)
    if broken is not None:
        raise DataError(
            f"{dataset.name}: row {broken} leads to another observation than row {broken + 1} begins with, which "
            "Minari's layout cannot hold; write .npz or .hdf5"
        )
    if path.exists():
        raise DataError(f"{path}: exists already; choose another name or remove it")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    data = temporary / "data"
    try:
        data.mkdir(parents=True)
        try:
            with h5py.File(data / MAIN, "w", track_order=True) as file:
                for number, (start, length) in enumerate(zip(dataset.starts, dataset.lengths, strict=True)):
                    _write_episode(file.create_group(f"episode_{number}"), dataset, number, int(start), int(length))
            metadata = _told(dataset, path) | {"dataset_size": round((data / MAIN).stat().st_size / 1e6, 1)}
            (data / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
            for file in data.iterdir():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
            os.rename(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error


def _broken(dataset: Dataset) -> int | None:
    """The first row whose next observation is not, bit for bit, the observation of the row after it in its episode."""
    end = dataset.terminal | dataset.timeout
    obs, next_obs = (np.ascontiguousarray(array).view(np.uint32) for array in (dataset.obs, dataset.next_obs))
    for piece in pieces(dataset.size - 1):
        off = (obs[piece.start + 1 : piece.stop + 1] != next_obs[piece]).any(axis=1) & ~end[piece]
        if off.any():
            return piece.start + int(np.argmax(off))
    return None


def _write_episode(group: Any, dataset: Dataset, number: int, start: int, length: int) -> None:
    rows = slice(start, start + length)
    group.attrs["id"], group.attrs["total_steps"] = number, length
    group["observations"] = np.concatenate([dataset.obs[rows], dataset.next_obs[rows][-1:]])
    group["actions"], group["rewards"] = dataset.action[rows], dataset.reward[rows]
    group["terminations"], group["truncations"] = dataset.terminal[rows], dataset.timeout[rows]


def _told(dataset: Dataset, path: Path) -> dict[str, Any]:
    """The metadata that Minari wants, and our envelope."""
    box = lambda dim, bound: {
        "type": "Box",
        "dtype": "float32",
        "shape": [dim],
        "low": [-bound] * dim,
        "high": [bound] * dim,
    }
    inside = path.resolve().relative_to(store().resolve()) if path.resolve().is_relative_to(store().resolve()) else path
    identity = inside.as_posix() if inside is not path else re.sub(r"[^-\w/]", "-", dataset.name).strip("/")
    return {
        "dataset_id": identity if ID.fullmatch(identity) else f"{identity or 'dataset'}-v0",
        "minari_version": VERSION,
        "data_format": "hdf5",
        "total_episodes": len(dataset.lengths),
        "total_steps": dataset.size,
        "observation_space": json.dumps(box(dataset.obs_dim, float("inf"))),
        "action_space": json.dumps(box(dataset.act_dim, 1.0)),
        "segue": sealed(dataset),
    }
