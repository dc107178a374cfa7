"""Tables: CSV and Parquet, a row a transition, the columns named or found by patterns.

A column of ours is one column of the table (Parquet's may be lists), or several, side by side in natural order:
``obs=sensor_*``. Without a pattern our names and D4RL's are looked for, bare or numbered (``obs_0, obs_1, ...``).
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from segue.errors import ConfigError, DataError
from segue.tasks.dataset import COLUMNS, D4RL, Dataset, pieces
from segue.tasks.formats.common import (
    Raw,
    Reading,
    Sizes,
    complete,
    matching,
    natural,
    opened,
    parsed_json,
    parsing,
    sealed,
    suffixed,
    target,
    writing,
)

FLAGS = ("terminal", "timeout")
VECTORS = ("obs", "action", "next_obs")
TRUTH = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}  # texts of flags, in lower case
WIDE = 64  # characters that a flag or the name of an episode may have, less one
BATCH = 2**16  # rows of a Parquet file that are decoded at a time
FOOTER = 2**24  # bytes that a Parquet file may take to describe its columns
ROW_GROUPS, CHUNKS, CHUNK_METADATA = 4, 1, 3  # fields of Parquet's footer, of a row group, of a column in it
PATH, VALUES, UNPACKED, PACKED = 3, 5, 6, 7  # fields of a column's metadata: name, number of values, bytes
OURS = re.compile(r'\s*\{\s*"segue"\s*:')  # how the file beside a CSV of our own begins
HEAD = 64  # characters of it that are looked at
SEAL = b"segue"  # key of our envelope in a Parquet file's metadata


def load(path: Path, reading: Reading, narrow: bool) -> Raw:
    """The columns of a CSV or Parquet file. Raises ``DataError`` and, without pyarrow, ``ConfigError``."""
    with path.open("rb") as file:
        parquet = path.suffix.lower() == ".parquet" or file.read(4) == b"PAR1"
    return _parquet(path, reading, narrow) if parquet else _csv(path, reading, narrow)


def _roles(names: list[str], reading: Reading, path: Path) -> tuple[dict[str, list[str]], list[str]]:
    """Our column -> those of the file, and the columns that have no part."""
    doubled = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
    if doubled:
        raise DataError(f"{path}: column {min(doubled)!r} occurs twice; rename one")
    roles: dict[str, list[str]] = {}
    for column in COLUMNS:
        if column in reading.columns:
            roles[column] = matching(reading.columns[column], names, f"{path}: {column}")
            continue
        found = [fits for base in (column, D4RL[column]) if (fits := _numbered(base, names))]
        if len(found) == 2:
            raise DataError(f"{path}: columns {found[0][0]!r} and {found[1][0]!r} mean the same; remove one")
        if found:
            roles[column] = found[0]
        elif column in ("obs", "action", "reward"):
            shown = ", ".join(names[:40]) + (", ..." if len(names) > 40 else "")
            raise DataError(f"{path}: no column for {column!r}; name it, as in {column}=PATTERN; there are: {shown}")
    taken: dict[str, str] = {}
    for column, fits in roles.items():
        for name in fits:
            if taken.setdefault(name, column) != column:
                raise DataError(
                    f"{path}: column {name!r} fits both {taken[name]!r} and {column!r}; give narrower patterns"
                )
    if reading.episode is not None:
        matching(reading.episode.replace("*", "[*]"), names, f"{path}: episode")
        taken[reading.episode] = "episode"
    return roles, [name for name in names if name not in taken]


def _numbered(base: str, names: list[str]) -> list[str]:
    """``base`` itself, or ``base_0, base_1, ...``, ``base.0``, ``base[0]`` in natural order."""
    if base in names:
        return [base]
    return sorted((n for n in names if re.fullmatch(rf"{base}[_.\[]?\d+\]?", n)), key=natural)


def _cut(columns: dict[str, np.ndarray], episode: np.ndarray | None, path: Path) -> None:
    """Marks the last row of each episode, by the column that numbers them, as a timeout unless it is terminal."""
    if episode is None:
        return
    end = np.append(episode[1:] != episode[:-1], True)
    firsts = episode[np.append(0, np.flatnonzero(end)[:-1] + 1)]
    values, counts = np.unique(firsts, return_counts=True)
    if (counts > 1).any():
        raise DataError(f"{path}: the rows of episode {values[np.argmax(counts > 1)]} are not together; sort the table")
    terminal = columns.get("terminal")
    if "timeout" in columns:
        end |= columns["timeout"] != 0
    columns["timeout"] = end & (terminal == 0) if terminal is not None else end


# ----------------------------------------------------------------------------------------------------------------- CSV


def _csv(path: Path, reading: Reading, narrow: bool) -> Raw:
    with parsing(path, "CSV"):
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            names = [name.strip() for name in next(reader, [])]
            skip, rows = reader.line_num, next(reader, None)
        if rows is None:
            raise DataError(f"{path}: no rows; line 1 names the columns, and each line after it holds a transition")
        if not any(names):
            raise DataError(f"{path}: line 1 is blank; it must name the columns")
        if all(_number(name) for name in names):
            raise DataError(f"{path}: line 1 holds numbers; it must name the columns")
        seal = _side(path)
        roles, ignored = _roles(names, reading if seal is None else Reading(), path)
        numbers = [name for column, fits in roles.items() if column not in FLAGS for name in fits]
        texts = [name for column in FLAGS for name in roles.get(column, [])]
        if any(len(roles.get(column, [""])) > 1 for column in FLAGS):
            raise DataError(f"{path}: a flag is one column, and {texts} fit; give narrower patterns")
        words = texts + ([reading.episode] if seal is None and reading.episode is not None else [])
        _check_cells(path, names)
        options: dict[str, Any] = {
            "delimiter": ",", "skiprows": skip, "comments": None, "quotechar": '"', "ndmin": 2, "encoding": "utf-8-sig",
        }  # fmt: skip
        try:
            dtype = np.float32 if narrow else np.float64
            with np.errstate(over="ignore"):
                values = np.loadtxt(path, dtype, usecols=[names.index(n) for n in numbers], **options)
        except ValueError as error:
            raise _blame(path, names, numbers, _number, "a number") or error from None
        columns: dict[str, np.ndarray] = {}
        place = 0
        for column, fits in roles.items():
            if column not in FLAGS:
                part = values[:, place : place + len(fits)]
                columns[column] = part if column in VECTORS else part[:, 0] if len(fits) == 1 else part
                place += len(fits)
        episode = None
        if words:
            cells = np.loadtxt(path, f"U{WIDE}", usecols=[names.index(n) for n in words], **options)
            if np.char.str_len(cells).max() >= WIDE:
                raise DataError(f"{path}: a cell of {' or '.join(words)} has {WIDE} characters or more; shorten it")
            for column in FLAGS:
                if column in roles:
                    found, inverse = np.unique(cells[:, words.index(roles[column][0])], return_inverse=True)
                    meant = [TRUTH.get(text.strip().lower()) for text in found.tolist()]
                    if None in meant:
                        flag = lambda text: text.strip().lower() in TRUTH
                        raise _blame(path, names, roles[column], flag, "0 or 1") or DataError(
                            f"{path}: column {roles[column][0]!r} holds {found[meant.index(None)]!r}; give 0 or 1"
                        )
                    columns[column] = np.array(meant, bool)[inverse]
            episode = cells[:, -1] if len(words) > len(texts) else None
    if seal is not None:
        complete(columns, path)
        return Raw({c: np.ascontiguousarray(columns[c]) for c in COLUMNS}, seal[1], True, seal[0])
    _cut(columns, episode, path)
    info: dict[str, Any] = {"source": path.name, "format": "csv"}
    return Raw(columns, info | ({"ignored_columns": ignored} if ignored else {}), False, path.stem)


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def _check_cells(path: Path, names: list[str]) -> None:
    """Raises ``DataError`` naming the line unless every line has as many cells as the first."""
    with path.open("rb") as file:
        odd = any(line.count(b",") != len(names) - 1 for line in file if line.strip())
    if odd:  # or a comma in quotes
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            for cells in reader:
                if cells and len(cells) != len(names):
                    raise DataError(
                        f"{path}: line {reader.line_num} has {len(cells)} cells, and line 1 names {len(names)}; "
                        "complete the line, or remove its episode"
                    )


def _blame(path: Path, names: list[str], wanted: list[str], good: Any, what: str) -> DataError | None:
    """The error that names the first cell of the wanted columns that is not `good`."""
    places = [names.index(name) for name in wanted]
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        next(reader)
        for cells in reader:
            for place in places if cells else ():
                if not good(cells[place]):
                    cell = cells[place] if len(cells[place]) < 40 else cells[place][:40] + "..."
                    return DataError(
                        f"{path}: line {reader.line_num}, column {names[place]!r} holds {cell!r}; give {what}"
                    )
    return None


def _beside(path: Path) -> Path:
    """The file beside a CSV that holds our envelope."""
    return path.with_name(path.name + ".json")


def _side(path: Path) -> tuple[str, dict[str, Any]] | None:
    """Name and info of a table that segue wrote. Raises ``DataError`` where the table was changed since."""
    side = _beside(path)
    if not side.is_file():
        return None
    with side.open(encoding="utf-8", errors="replace") as file:
        if not OURS.match(file.read(HEAD)):  # another program's
            return None
    parsed = parsed_json(side.read_text(encoding="utf-8"), f"{side}")
    if parsed.get("sha256") != _sha256(path):
        raise DataError(
            f"{path}: the table was changed after segue wrote it; remove {side.name} to read it as any other table, "
            "with actions in the environment's units, or export the dataset again"
        )
    return opened(parsed["segue"], f"{side}: 'segue'")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ------------------------------------------------------------------------------------------------------------- Parquet


def pyarrow(path: Path) -> Any:
    """The package. Raises ``ConfigError`` where it is missing."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(f"{path}: Parquet and Arrow need a package: pip install 'segue[parquet]'") from error
    return pyarrow


def _parquet(path: Path, reading: Reading, narrow: bool) -> Raw:
    pa = pyarrow(path)
    with parsing(path, "Parquet"), pa.parquet.ParquetFile(path, memory_map=True) as file:
        seal = (file.schema_arrow.metadata or {}).get(SEAL)
        names = file.schema_arrow.names
        roles, ignored = _roles(names, reading if seal is None else Reading(), path)
        wanted = [name for fits in roles.values() for name in fits]
        cut = reading.episode if seal is None else None
        check_declared(path, [*wanted, *([cut] if cut else [])], file.metadata.num_rows, Sizes(path))
        rows, row = file.metadata.num_rows, 0
        columns: dict[str, np.ndarray] = {}
        episodes: list[np.ndarray] = []
        for batch in file.iter_batches(BATCH, columns=[*wanted, *([cut] if cut and cut not in wanted else [])]):
            n = batch.num_rows
            if row + n > rows:
                raise DataError(f"{path}: more rows than its footer says; write it again")
            for column, fits in roles.items():
                parts = [vectors(batch.column(name), f"{path}: column {name!r}", row) for name in fits]
                part = parts[0] if len(parts) == 1 else np.concatenate([p.reshape(n, -1) for p in parts], axis=1)
                part = part.reshape(n, -1) if column in VECTORS and part.ndim == 1 else part
                if column not in columns:
                    columns[column] = np.empty((rows, *part.shape[1:]), target(part.dtype, narrow))
                if part.shape[1:] != columns[column].shape[1:]:
                    raise DataError(
                        f"{path}: {column} has rows of {math.prod(columns[column].shape[1:])} entries before row {row} "
                        f"and of {math.prod(part.shape[1:])} from there; make them equal"
                    )
                with np.errstate(over="ignore"):
                    columns[column][row : row + n] = part
            if cut:
                episodes.append(_names(pa, batch.column(cut), f"{path}: column {cut!r}"))
            row += n
        if row != rows or not rows:
            raise DataError(f"{path}: {row} rows, and the footer says {rows}; write it again with at least 2")
    if seal is not None:
        name, info = opened(seal, f"{path}: metadata 'segue'")
        complete(columns, path)
        return Raw(columns, info, True, name)
    _cut(columns, np.concatenate(episodes) if cut else None, path)
    info = {"source": path.name, "format": "parquet"}
    return Raw(columns, info | ({"ignored_columns": ignored} if ignored else {}), False, path.stem)


def check_declared(path: Path, wanted: list[str], rows: int, sizes: Sizes) -> None:
    """Adds the wanted columns of a Parquet file, dots in the names of nested ones, to what is declared.

    Refuses, before any is decoded, columns whose values cannot lie in the file. pyarrow would tell their sizes too, but
    ends the process where the record of a column is broken.
    """
    length = path.stat().st_size
    with path.open("rb") as file:
        file.seek(-8, 2)
        size = int.from_bytes(file.read(4), "little")
        if size > FOOTER:
            raise DataError(f"{path}: its footer takes {size} bytes; write it with fewer row groups")
        file.seek(-8 - size, 2)
        footer = _Thrift(file.read(size)).struct()
    for group in footer[ROW_GROUPS]:
        for chunk in group[CHUNKS]:
            told = chunk[CHUNK_METADATA]
            name = b".".join(told[PATH]).decode()
            if any(name == column or name.startswith(f"{column}.") for column in wanted):
                size = max(8 * told[VALUES], told[UNPACKED], 0)
                sizes.add(size, min(max(told[PACKED], 0), length), f"{path}: column {name!r}")
    sizes.add(8 * rows, length, f"{path}: its footer")


class _Thrift:
    """Thrift's compact protocol, which Parquet's footers are written in: a struct is its fields' values by number."""

    def __init__(self, raw: bytes) -> None:
        self.raw, self.at = raw, 0

    def struct(self) -> dict[int, Any]:
        found, number = dict[int, Any](), 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            found[number] = self._value(head & 15)
        return found

    def _value(self, kind: int) -> Any:
        if kind in (1, 2):  # a flag, which is its own value
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._integer()
        if kind == 7:  # a float, which no size is
            return self._bytes(8)
        if kind == 8:
            return self._bytes(self._natural())
        if kind in (9, 10):
            head = self._byte()
            n, inner = head >> 4, head & 15
            n = self._natural() if n == 15 else n
            return [self._value(3 if inner in (1, 2) else inner) for _ in range(n)]
        if kind == 12:
            return self.struct()
        raise ValueError(f"a footer with values of kind {kind}")

    def _bytes(self, n: int) -> bytes:
        self.at += n
        if self.at > len(self.raw):
            raise EOFError("the footer ends early")
        return self.raw[self.at - n : self.at]

    def _byte(self) -> int:
        return self._bytes(1)[0]

    def _natural(self) -> int:
        value = shift = 0
        while shift < 70:  # seven bits a byte, the lowest first
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
        raise ValueError("a footer with a number of more than 64 bits")

    def _integer(self) -> int:
        value = self._natural()  # 0, -1, 1, -2, ...
        return value >> 1 ^ -(value & 1)


def vectors(array: Any, where: str, row: int = 0) -> np.ndarray:
    """Numbers [n], or equal lists of them [n, dim]. Raises ``DataError`` naming the row, counted from `row`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = pa.types
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if array.null_count:
        first = pc.index(array.is_null(), True).as_py()
        raise DataError(f"{where} has an empty cell at row {row + first}; fill it or remove its episode")
    if kind.is_fixed_size_list(array.type) or kind.is_list(array.type) or kind.is_large_list(array.type):
        lengths = pc.call_function("list_value_length", [array]).to_numpy(zero_copy_only=False)
        if not len(lengths):
            return np.empty((0, 0), np.float32)
        odd = lengths != lengths[0]
        if odd.any():
            raise DataError(f"{where} is ragged: row {row + int(np.argmax(odd))} has another length than row {row}")
        inner = vectors(array.flatten(), f"{where}: entries")
        return inner.reshape(len(lengths), int(lengths[0]), *inner.shape[1:])
    if not (kind.is_boolean(array.type) or kind.is_integer(array.type) or kind.is_floating(array.type)):
        raise DataError(f"{where} holds {array.type}; give numbers or lists of them")
    return array.to_numpy(zero_copy_only=False)


def _names(pa: Any, array: Any, where: str) -> np.ndarray:
    """Numbers or texts that name episodes."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        if array.null_count:
            raise DataError(f"{where} has empty cells; name every row's episode")
        texts = array.to_pylist()
        if max(map(len, texts), default=0) >= WIDE:
            raise DataError(f"{where} has a name of {WIDE} characters or more; shorten it")
        return np.array(texts, f"U{WIDE}")
    found = vectors(array, where)
    if found.ndim != 1:
        raise DataError(f"{where} holds lists; an episode has one number or name")
    return found


# --------------------------------------------------------------------------------------------------------------- write


def write(dataset: Dataset, path: Path) -> None:
    """A ``.parquet`` with vectors as lists, or a ``.csv`` with an entry a column and our envelope in ``NAME.csv.json``.

    Raises ``DataError``; ``ConfigError`` without pyarrow.
    """
    suffixed(path, ".parquet", ".csv")
    seal = sealed(dataset)
    if path.suffix.lower() == ".csv":
        with writing(path) as file:
            digest = hashlib.sha256()
            for text in _lines(dataset):
                file.write(text)
                digest.update(text)
        with writing(_beside(path)) as file:
            file.write(json.dumps({"segue": seal, "sha256": digest.hexdigest()}).encode())
        return
    pa = pyarrow(path)
    columns = {}
    for column in COLUMNS:
        array = getattr(dataset, column)
        flat = pa.array(np.ascontiguousarray(array).reshape(-1))
        columns[column] = flat if array.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, array.shape[1])
    table = pa.table(columns).replace_schema_metadata({SEAL: seal.encode()})
    with writing(path) as file:
        pa.parquet.write_table(table, file, compression="zstd")


def _lines(dataset: Dataset) -> Iterator[bytes]:
    """The table as text, some rows at a time; nine digits tell every float32 from its neighbours."""
    heads, kinds = [], []
    for column in COLUMNS:
        array = getattr(dataset, column)
        heads += [column] if array.ndim == 1 else [f"{column}_{i}" for i in range(array.shape[1])]
        kinds += ["%d" if column in FLAGS else "%.9g"] * (1 if array.ndim == 1 else array.shape[1])
    yield (",".join(heads) + "\n").encode()
    line = ",".join(kinds) + "\n"
    for piece in pieces(dataset.size):
        rows = [np.reshape(getattr(dataset, column)[piece], (piece.stop - piece.start, -1)) for column in COLUMNS]
        cells = np.concatenate(rows, axis=1, dtype=np.float64).tolist()
        yield "".join([line % tuple(row) for row in cells]).encode()
