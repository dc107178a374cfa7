"""Offline data: columns of transitions cut into episodes, checked once at the entrance.

An episode ends where the MDP ended (``terminal``) or where it was cut (``timeout``: time limit, end of the recording,
a gap). Files are NPZ with our own column names or D4RL's, and D4RL's HDF5; nothing in a file is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from segue.errors import DataError, nearest
from segue.files import replacing

COLUMNS = ("obs", "action", "reward", "next_obs", "terminal", "timeout")
D4RL = {
    "obs": "observations",
    "action": "actions",
    "reward": "rewards",
    "next_obs": "next_observations",
    "terminal": "terminals",
    "timeout": "timeouts",
}
FORMAT = 1  # of our own NPZ: columns as in `Dataset`, actions already in [-1, 1]
GAP = 1e-6  # |obs[i+1] - next_obs[i]| above which an episode ended (IQL's and CORL's number)
SLACK = 1e-3  # how far, in units of [-1, 1], an action may leave its range and be clipped
LARGEST = 64 * 2**30  # bytes that one column of a file may declare
SUSPECT = 2**30, 1000  # a column larger than the first and packed tighter than the second is refused


@dataclass(frozen=True, eq=False)
class Dataset:
    """Transitions in the order of their episodes, N rows.

    ``timeout`` marks every end of an episode that is not ``terminal``; the last row is always an end. ``info`` is
    JSON-able: where the data came from, versions, what was mended at the entrance. Arrays are not to be written to.
    """

    obs: np.ndarray  # [N, obs_dim] float32
    action: np.ndarray  # [N, act_dim] float32 in [-1, 1]
    reward: np.ndarray  # [N] float32, as the task pays it
    next_obs: np.ndarray  # [N, obs_dim] float32
    terminal: np.ndarray  # [N] bool
    timeout: np.ndarray  # [N] bool
    name: str
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Number of rows."""
        return len(self.reward)

    @property
    def obs_dim(self) -> int:
        return self.obs.shape[1]

    @property
    def act_dim(self) -> int:
        return self.action.shape[1]

    @cached_property
    def starts(self) -> np.ndarray:
        """First row of each episode, [E] int64."""
        ends = np.flatnonzero(self.terminal | self.timeout)
        return np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Rows of each episode, [E] int64."""
        return np.diff(self.starts, append=self.size)

    @cached_property
    def returns(self) -> np.ndarray:
        """Undiscounted sum of rewards of each episode, [E] float64."""
        return np.add.reduceat(self.reward.astype(np.float64), self.starts)

    @cached_property
    def step(self) -> np.ndarray:
        """Time of each row in its episode, from 0, [N] int64."""
        return np.arange(self.size) - np.repeat(self.starts, self.lengths)

    @cached_property
    def hash(self) -> str:
        """SHA-256 in hex over names, types, shapes and bytes of the columns."""
        digest = hashlib.sha256()
        for column in COLUMNS:
            array = np.ascontiguousarray(getattr(self, column))
            digest.update(f"{column} {array.dtype.str} {array.shape}\n".encode())
            digest.update(array.data)
        return digest.hexdigest()

    def validate(self) -> Dataset:
        """The dataset itself, if it keeps what the class promises; raises ``DataError`` otherwise."""
        for column in COLUMNS:
            array = getattr(self, column)
            ndim, dtype = (2 if column in ("obs", "action", "next_obs") else 1), _dtype(column)
            if not isinstance(array, np.ndarray) or array.ndim != ndim or array.dtype != dtype:
                raise DataError(f"{self.name}: column {column!r} must be a {ndim}-d {np.dtype(dtype)} array")
            if len(array) != self.size:
                raise DataError(
                    f"{self.name}: column {column!r} has {len(array)} rows, and 'reward' has {self.size}: "
                    "all columns need one row per transition"
                )
            _finite(array, column, self.name)
        if self.size < 2:
            raise DataError(f"{self.name}: {_rows(self.size)}; a dataset needs at least 2")
        if self.next_obs.shape != self.obs.shape:
            raise DataError(f"{self.name}: 'next_obs' is {self.next_obs.shape} and 'obs' is {self.obs.shape}")
        if np.abs(self.action).max(initial=0) > 1:
            row, i = np.argwhere(np.abs(self.action) > 1)[0]
            raise DataError(f"{self.name}: 'action' row {row} holds {self.action[row, i]}, outside [-1, 1]")
        both = self.terminal & self.timeout
        if both.any():
            raise DataError(f"{self.name}: row {int(np.argmax(both))} is terminal and timeout; a row is one of them")
        if not (self.terminal[-1] or self.timeout[-1]):
            raise DataError(f"{self.name}: the last row ends no episode; mark it as 'timeout'")
        return self


def dataset_from_arrays(
    columns: Mapping[str, Any],
    name: str,
    *,
    action_low: Any = None,
    action_high: Any = None,
    max_episode_steps: int | None = None,
    info: Mapping[str, Any] | None = None,
) -> Dataset:
    """A checked `Dataset` from columns under our names or D4RL's (``observations``, ``next_observations``, ...).

    ``action_low``, ``action_high``: the environment's bounds, scalars or [act_dim]; actions are mapped from them to
    [-1, 1]. Without them the actions must lie in [-1, 1].

    Missing next observations are taken from the next row of the same episode. The last row of an episode that was cut
    has none, so that row is dropped and the row before ends the episode; a terminal row gets its own observation, which
    nothing reads. (D4RL's ``qlearning_dataset`` drops the same rows, but crosses episodes at terminals.)
    ``max_episode_steps`` marks the cuts of data without a timeout column.

    With next observations, an episode also ends where the next row starts elsewhere; ``info["unflagged_ends"]`` counts
    these. A time limit that the data flag as terminal cannot be told from an end, and stays terminal.

    Raises ``DataError`` naming column and row.
    """
    known = _match(columns, name)
    raw = {column: _numeric(columns[key], key, name) for column, key in known.items()}
    report: dict[str, Any] = dict(info or {})
    ignored = sorted(set(columns) - set(known.values()))
    if ignored:
        report["ignored_columns"] = ignored

    for column in ("obs", "action", "next_obs"):
        if column in raw and raw[column].ndim != 2:
            shape, key = raw[column].shape, known[column]
            hint = "segue takes vectors, not images" if raw[column].ndim > 2 else "reshape it to [N, 1] if it is scalar"
            raise DataError(f"{name}: column {key!r} has shape {shape}, not [N, dim]; {hint}")
    for column in ("reward", "terminal", "timeout"):
        if column in raw and raw[column].ndim == 2 and raw[column].shape[1] == 1:
            raw[column] = raw[column][:, 0]
        if column in raw and raw[column].ndim != 1:
            raise DataError(f"{name}: column {known[column]!r} has shape {raw[column].shape}, not [N]")
    rows = len(raw["obs"])
    for column, array in raw.items():
        if len(array) != rows:
            raise DataError(
                f"{name}: column {known[column]!r} has {len(array)} rows, and {known['obs']!r} has {rows}: "
                "all columns need one row per transition"
            )
    if rows < 2:
        raise DataError(f"{name}: {_rows(rows)}; a dataset needs at least 2")
    for column in ("obs", "action"):
        if raw[column].shape[1] == 0:
            raise DataError(f"{name}: column {known[column]!r} has shape {raw[column].shape}: its rows are empty")
    if "next_obs" in raw and raw["next_obs"].shape != raw["obs"].shape:
        raise DataError(
            f"{name}: column {known['next_obs']!r} has shape {raw['next_obs'].shape}, "
            f"and {known['obs']!r} has {raw['obs'].shape}"
        )

    obs, reward = (_float32(raw[c], known[c], name) for c in ("obs", "reward"))
    action = _unit_actions(raw["action"], known["action"], name, action_low, action_high)
    if action_low is not None or action_high is not None:
        report["action_low"] = np.asarray(-1 if action_low is None else action_low, np.float64).tolist()
        report["action_high"] = np.asarray(1 if action_high is None else action_high, np.float64).tolist()
    flags = {c: _flags(raw[c], known[c], name) for c in ("terminal", "timeout") if c in raw}
    next_obs = _float32(raw["next_obs"], known["next_obs"], name) if "next_obs" in raw else None

    if not flags and max_episode_steps is None:
        raise DataError(
            f"{name}: no column 'terminal' ('terminals') and none 'timeout' ('timeouts'), so the ends of episodes "
            "are not known; add them, or give `max_episode_steps`"
        )
    if next_obs is None and "timeout" not in flags and max_episode_steps is None:
        raise DataError(
            f"{name}: no column 'next_obs' and none 'timeout', so a row after a time limit would pass for a successor; "
            "add 'timeout' ('timeouts', all False if nothing was cut), or give `max_episode_steps`"
        )
    terminal = flags.get("terminal", np.zeros(rows, bool))
    if "terminal" not in flags:
        report["assumed"] = "no terminal column: no row ends the MDP"

    gap = np.zeros(rows, bool)
    if next_obs is not None:
        gap[:-1] = np.linalg.norm(obs[1:] - next_obs[:-1], axis=1) > GAP
    if "timeout" in flags:
        timeout = flags["timeout"] & ~terminal
    elif max_episode_steps is not None:
        timeout = _time_limit(terminal | gap, max_episode_steps, name) & ~terminal
        report["max_episode_steps"] = int(max_episode_steps)
    else:
        timeout = np.zeros(rows, bool)
    unflagged = gap & ~terminal & ~timeout
    if unflagged.any():
        report["unflagged_ends"] = int(unflagged.sum())
        timeout |= unflagged
    if not (terminal[-1] or timeout[-1]):
        report["open_last_row"] = True
        timeout[-1] = True

    if next_obs is None:
        dropped = timeout
        end = terminal | timeout
        next_obs = obs.copy()
        next_obs[:-1][~end[:-1]] = obs[1:][~end[:-1]]
        cut = np.zeros(rows, bool)
        cut[:-1] = dropped[1:] & ~end[:-1]  # the row before, where it is of the same episode
        keep = ~dropped
        if keep.sum() < 2:
            raise DataError(
                f"{name}: without 'next_obs' the last row of each cut episode has no successor and is dropped, "
                f"which leaves {_rows(int(keep.sum()))}; add the column 'next_obs'"
            )
        report["next_obs"] = "from the next row of the episode"
        report["dropped_rows"] = int(dropped.sum())
        obs, action, reward, next_obs = obs[keep], action[keep], reward[keep], next_obs[keep]
        terminal, timeout = terminal[keep], cut[keep]

    dataset = Dataset(obs, action, reward, next_obs, terminal, timeout, name, report).validate()
    for column in COLUMNS:
        getattr(dataset, column).setflags(write=False)
    return dataset


def read(
    path: str | Path,
    *,
    name: str | None = None,
    action_low: Any = None,
    action_high: Any = None,
    max_episode_steps: int | None = None,
) -> Dataset:
    """A dataset from an ``.npz`` (our own or any with our or D4RL's column names) or D4RL's ``.hdf5``/``.h5``.

    The keywords are those of `dataset_from_arrays`; our own files hold actions in [-1, 1] already, whatever the bounds.
    Raises ``DataError`` for a missing, truncated or oversized file, pickled objects, and links out of the file.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file" if not path.exists() else f"{path}: not a file")
    suffix = path.suffix.lower()
    if suffix == ".npz":
        columns, extra = _read_npz(path)
    elif suffix in (".hdf5", ".h5"):
        columns, extra = _read_hdf5(path), {}
    else:
        raise DataError(f"{path}: unknown kind of file {suffix!r}; segue reads .npz, .hdf5 and .h5")
    if "info" in extra:
        dataset = dataset_from_arrays(columns, str(path), info=extra["info"])
        return _renamed(dataset, name or extra["name"])
    dataset = dataset_from_arrays(
        columns,
        str(path),
        action_low=action_low,
        action_high=action_high,
        max_episode_steps=max_episode_steps,
        info={"source": path.name},
    )
    return _renamed(dataset, name or path.stem)


def write_npz(dataset: Dataset, path: str | Path) -> None:
    """Writes our own format whole or not at all: to a temporary file beside `path`, then renamed. Raises DataError."""
    path = Path(path)
    if path.suffix.lower() != ".npz":
        raise DataError(f"{path}: our own format is .npz; give a name that ends in it")
    arrays = {column: getattr(dataset, column) for column in COLUMNS}
    try:
        text = json.dumps(dataset.info, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"{dataset.name}: info cannot be written as JSON: {error}") from error
    with writing(path) as file:
        np.savez(
            file, allow_pickle=False, format=np.int64(FORMAT), name=np.str_(dataset.name), info=np.str_(text), **arrays
        )


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """`replacing`, the folder made first. Raises ``DataError`` where the disk refuses."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            yield file
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error


def _renamed(dataset: Dataset, name: str) -> Dataset:
    return Dataset(*(getattr(dataset, column) for column in COLUMNS), name=name, info=dataset.info)


def _rows(n: int) -> str:
    return "1 row" if n == 1 else f"{n} rows"


def _dtype(column: str) -> type:
    return np.bool_ if column in ("terminal", "timeout") else np.float32


def _match(columns: Mapping[str, Any], name: str) -> dict[str, str]:
    """Our column name -> the key that holds it. A misspelt column is refused, an unrelated one ignored."""
    if not isinstance(columns, Mapping):
        raise DataError(f"{name}: columns are a {type(columns).__name__}; give a dictionary of arrays")
    found: dict[str, str] = {}
    for column in COLUMNS:
        keys = [key for key in (column, D4RL[column]) if key in columns]
        if len(keys) == 2:
            raise DataError(f"{name}: columns {keys[0]!r} and {keys[1]!r} mean the same; remove one")
        if keys:
            found[column] = keys[0]
    rest = [str(key) for key in columns if key not in found.values()]
    for column in ("obs", "action", "reward"):
        if column not in found:
            close = get_close_matches(column, rest, 1, 0.6) or get_close_matches(D4RL[column], rest, 1, 0.6)
            hint = f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(sorted(columns)) or 'none'}"
            raise DataError(f"{name}: no column {column!r} (or {D4RL[column]!r}){hint}")
    for key in rest:
        absent = [word for column in COLUMNS if column not in found for word in (column, D4RL[column])]
        if absent and get_close_matches(key, absent, 1, 0.8):
            raise DataError(f"{name}: unknown column {key!r}{nearest(key, absent)} Rename or remove it")
    return found


def _numeric(values: Any, key: str, name: str) -> np.ndarray:
    try:
        array = np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise DataError(f"{name}: column {key!r} is ragged: its rows differ in shape; pad or cut them") from error
    if array.dtype == object:
        raise DataError(f"{name}: column {key!r} is ragged or holds objects; give one numeric array")
    if array.dtype.kind not in "bifu":
        raise DataError(f"{name}: column {key!r} holds {array.dtype}; give numbers")
    return array


def _finite(array: np.ndarray, key: str, name: str) -> None:
    if array.dtype.kind != "f":
        return
    bad = ~np.isfinite(array)
    if bad.any():
        rows = bad.reshape(len(bad), -1).any(axis=1)
        raise DataError(
            f"{name}: column {key!r} has NaN or infinity, first at row {int(np.argmax(rows))}, "
            f"in {_rows(int(rows.sum()))}; remove their episodes"
        )


def _float32(array: np.ndarray, key: str, name: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        copy = np.array(array, dtype=np.float32, order="C")
    _finite(copy, key, name)
    return copy


def _flags(array: np.ndarray, key: str, name: str) -> np.ndarray:
    odd = ~np.isin(array, (0, 1))
    if odd.any():
        row = int(np.argmax(odd))
        raise DataError(f"{name}: column {key!r} row {row} holds {array[row]}; a flag is 0 or 1")
    return array.astype(bool)


def _unit_actions(array: np.ndarray, key: str, name: str, low: Any, high: Any) -> np.ndarray:
    """Actions mapped from [low, high] to [-1, 1]; float32."""
    dim = array.shape[1]
    try:
        lo = np.broadcast_to(np.asarray(-1.0 if low is None else low, np.float64), (dim,))
        hi = np.broadcast_to(np.asarray(1.0 if high is None else high, np.float64), (dim,))
    except ValueError as error:
        bounds = max(np.size(bound) for bound in (low, high) if bound is not None)
        raise DataError(
            f"{name}: column {key!r} has {dim} actions per row, and the environment has {bounds}"
        ) from error
    if not (np.isfinite(lo).all() and np.isfinite(hi).all() and (lo < hi).all()):
        raise DataError(
            f"{name}: action bounds are [{lo.tolist()}, {hi.tolist()}]; they must be finite, low below high"
        )
    _finite(array, key, name)
    if (lo == -1).all() and (hi == 1).all():
        unit = np.array(array, dtype=np.float32, order="C")  # exact: no rounding by the map
    else:
        unit = (2 * (array.astype(np.float64) - lo) / (hi - lo) - 1).astype(np.float32)
    outside = np.abs(unit) > 1 + SLACK
    if outside.any():
        row, i = np.argwhere(outside)[0]
        raise DataError(
            f"{name}: column {key!r} row {row} holds {float(array[row, i]):g} in entry {i}, outside "
            f"[{lo[i]:g}, {hi[i]:g}] ({_rows(int(outside.any(axis=1).sum()))} in all); clip the actions in the file, "
            "or give the bounds that they were recorded with"
        )
    return np.clip(unit, -1, 1)


def _time_limit(end: np.ndarray, limit: int, name: str) -> np.ndarray:
    """Rows at which `limit` steps have passed since the last end."""
    if limit < 1:
        raise DataError(f"{name}: max_episode_steps is {limit}; it must be at least 1")
    starts = np.concatenate([[0], np.flatnonzero(end[:-1]) + 1])
    step = np.arange(len(end)) - np.repeat(starts, np.diff(starts, append=len(end)))
    return (step + 1) % limit == 0


def _check_size(size: int, stored: int, where: str) -> None:
    if size > LARGEST or (size > SUSPECT[0] and size > SUSPECT[1] * max(stored, 1)):
        raise DataError(f"{where} declares {size} bytes and stores {stored}: refused as a broken or hostile file")


def _read_npz(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Columns, and name and info if the file is of our own format."""
    wanted = {*COLUMNS, *D4RL.values(), "format", "name", "info"}
    arrays: dict[str, Any] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                key = member.filename.removesuffix(".npy")
                if key in arrays:
                    raise DataError(f"{path}: column {key!r} occurs twice")
                if key not in wanted:
                    arrays[key] = None  # named for the sake of misspelt ones, never read
                    continue
                where = f"{path}: column {key!r}"
                _check_size(member.file_size, member.compress_size, where)
                with archive.open(member) as file:
                    _check_header(file, member.file_size, where)
                with archive.open(member) as file:
                    arrays[key] = np.lib.format.read_array(file, allow_pickle=False)
    except DataError:
        raise
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as .npz, it may be truncated: {error}") from error
    own = arrays.get("format") is not None and arrays.get("info") is not None
    version, name, info = (arrays.pop(key, None) for key in ("format", "name", "info"))
    if not own:
        return arrays, {}
    if version.shape != () or version.dtype.kind not in "iu" or int(version) != FORMAT:
        raise DataError(f"{path}: format {version} is not known to this version, which reads {FORMAT}; update segue")
    try:
        parsed = json.loads(str(info))
    except ValueError as error:
        raise DataError(f"{path}: 'info' is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise DataError(f"{path}: 'info' is not a JSON object")
    missing = [column for column in COLUMNS if column not in arrays]
    if missing:
        raise DataError(f"{path}: column {missing[0]!r} is missing from a file of our own format; write it anew")
    return {column: arrays[column] for column in COLUMNS}, {"name": str(name), "info": parsed}


def _check_header(file: Any, size: int, where: str) -> None:
    """Refuses objects, and shapes that the member cannot hold, before anything is allocated."""
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise DataError(f"{where} is stored in .npy version {version}; save it again with numpy.savez")
    shape, _, dtype = readers[version](file)
    if dtype.hasobject:
        raise DataError(f"{where} holds pickled objects, which segue never loads; save one numeric array instead")
    count = 1
    for length in shape:
        count *= int(length)
    if count * dtype.itemsize > size:
        raise DataError(f"{where} is cut short: shape {shape} needs {count * dtype.itemsize} bytes, {size} are there")


def _read_hdf5(path: Path) -> dict[str, np.ndarray]:
    import h5py

    wanted = {*COLUMNS, *D4RL.values()}
    arrays: dict[str, Any] = {}
    try:
        with h5py.File(path, "r") as file:
            for key in map(str, file):
                link = file.get(key, getlink=True)
                if key not in wanted:
                    arrays[key] = None
                    continue
                where = f"{path}: column {key!r}"
                if not isinstance(link, h5py.HardLink):
                    raise DataError(f"{where} is a link to elsewhere; copy the data into the file")
                column = file[key]
                if not isinstance(column, h5py.Dataset):
                    raise DataError(f"{where} is a group, not an array")
                if column.is_virtual or column.external:
                    raise DataError(f"{where} keeps its values in other files; copy them into this one")
                if column.dtype.hasobject or column.dtype.kind not in "bifu":
                    raise DataError(f"{where} holds {column.dtype}; give numbers")
                _check_size(column.size * column.dtype.itemsize, column.id.get_storage_size(), where)
                arrays[key] = column[()]
    except DataError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise DataError(f"{path}: cannot be read as HDF5, it may be truncated: {error}") from error
    return arrays
