"""Datasets that are made on the user's machine, and the cache that keeps them.

The same rows come out on every machine with the same simulator: behaviours run in float64, and their actions are
rounded to multiples of 2^-12 (and kept within 1 - 2^-12) before the environment sees them. ``checksums.json`` holds the
hashes that were published and the versions that they were made with (`python tools/datasets.py`).
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segue.errors import ConfigError, DataError
from segue.files import cache_root
from segue.tasks.dataset import COLUMNS, Dataset, licensed
from segue.tasks.formats import read, write_npz, writing

GRID = 2.0**-12  # of the actions
LICENCE = "Apache-2.0"  # of the sets, as of the project

Progress = Callable[[int, int], None]
Message = Callable[[str], None]
Act = Callable[[np.ndarray, np.random.Generator], np.ndarray]  # observation, random stream -> action in [-1, 1]


class Making(NamedTuple):
    """How datasets are to be made."""

    progress: Progress | None = None  # (done, total) rows
    message: Message | None = None  # what is to be said about the cache (default: a Python warning)
    force: bool = False  # made anew, whatever the cache holds

    def say(self, text: str) -> None:
        if self.message is None:
            warnings.warn(text, stacklevel=4)
        else:
            self.message(text)


QUIET = Making()


def stream(name: str) -> np.random.Generator:
    """The random stream of a dataset: a function of its name."""
    seed = hashlib.sha256(name.encode()).digest()[:16]
    return np.random.Generator(np.random.PCG64(int.from_bytes(seed, "big")))


def on_grid(action: np.ndarray) -> np.ndarray:
    """The action on the grid, within the open interval."""
    rounded = np.rint(action / GRID) * GRID
    return np.minimum(np.maximum(rounded, GRID - 1.0), 1.0 - GRID)


def collect(
    env: Any,
    rows: int,
    rng: np.random.Generator,
    begin: Callable[[np.random.Generator], Act],
    progress: Progress | None = None,
    done: int = 0,
    total: int | None = None,
) -> dict[str, np.ndarray]:
    """`rows` transitions in `env` (a door), the last episode cut by a timeout, as columns.

    ``begin(rng)`` gives the behaviour of the next episode. Progress counts from `done` to `total`, where these rows are
    part of more. Raises ``EnvironmentFault``.
    """
    if rows < 2:
        raise ConfigError(f"a dataset of {rows} rows was asked for; the least is 2")
    total = rows if total is None else total
    obs, next_obs = (np.empty((rows, env.obs_dim), np.float32) for _ in range(2))
    action, reward = np.empty((rows, env.act_dim), np.float32), np.empty(rows, np.float32)
    terminal, timeout = np.zeros(rows, bool), np.zeros(rows, bool)
    row = 0
    while row < rows:
        act = begin(rng)
        s, ended = env.reset(int(rng.integers(2**31))), False
        while row < rows and not ended:
            a = on_grid(act(s, rng))
            result = env.step(a)
            obs[row], action[row], reward[row], next_obs[row] = s, a, result.reward, result.obs
            terminal[row], timeout[row] = result.terminal, result.timeout
            s, ended = result.obs, result.terminal or result.timeout
            row += 1
            if progress is not None and ((done + row) % 1000 == 0 or done + row == total):
                progress(done + row, total)
    timeout[-1] = not terminal[-1]
    return dict(zip(COLUMNS, (obs, action, reward, next_obs, terminal, timeout), strict=True))


def joined(*parts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns of several collections, one after another."""
    return {column: np.concatenate([part[column] for part in parts]) for column in COLUMNS}


def cached(
    name: str,
    task: str,
    wanted: Mapping[str, Any],
    make: Callable[[Progress | None], Dataset],
    making: Making,
    packages: tuple[str, ...],
) -> Dataset:
    """The dataset called `name` from the cache, by ``make(progress)`` if it is not there.

    `wanted` is JSON-able and says what the rows depend on (generator, rows, hash of the behaviours), `packages` are
    those whose versions they depend on beside it: a set made of other things is made again, and a message says so.
    Raises ``DataError`` if the file is not what its manifest says; the way out names `task`.
    """
    folder = cache_root() / "datasets"
    path, manifest = folder / f"{name}.npz", folder / f"{name}.json"
    versions = installed(*packages)
    needed = {**wanted, **{k: v for k, v in versions.items() if k in packages}}  # without one a cached set serves
    if not making.force and path.exists():
        dataset = _verified(path, manifest, needed, packages, f"segue data make {task} --force", making)
        if dataset is not None:
            return compared(dataset, making)
    dataset = licensed(make(making.progress), LICENCE)
    write_npz(dataset, path)
    with writing(manifest) as file:
        file.write(json.dumps({"hash": dataset.hash, **wanted, **versions}, indent=1).encode())
    return compared(dataset, making)


def _verified(
    path: Path, manifest: Path, wanted: Mapping[str, Any], packages: tuple[str, ...], way_out: str, making: Making
) -> Dataset | None:
    """The cached dataset, or None if it must be made again."""
    if not manifest.exists():
        making.say(f"{path}: its manifest {manifest.name} is missing (an interrupted run?); the dataset is made again")
        return None
    try:
        found = json.loads(manifest.read_text())
        recorded = found["hash"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{manifest}: not a manifest: {error!r}; make the dataset again: {way_out}") from error
    for key, value in wanted.items():
        if found.get(key) != value:
            before = found.get(key, "not recorded")
            making.say(
                f"{path}: {key} was {before} and is now {value}; the dataset is made again"
                + (f" (a run on the old rows goes on with {key} {before})" if key in packages and key in found else "")
            )
            return None
    try:
        dataset = licensed(read(path), LICENCE)  # which sets made by an earlier version do not name
    except DataError as error:
        raise DataError(f"{error}; make the dataset again: {way_out}") from error
    if dataset.hash != recorded:
        raise DataError(f"{path}: the rows are not those that were made (hash differs); make them again: {way_out}")
    return dataset


@cache
def published() -> dict[str, Any]:
    """``checksums.json``: of each published set its ``hash``, ``rows`` and the ``versions`` that it was made with."""
    return json.loads((Path(__file__).parent / "checksums.json").read_text())


def compared(dataset: Dataset, making: Making) -> Dataset:
    """The dataset itself, after a message if it is not the published one of its name and number of rows asked for."""
    known = published().get(dataset.name)
    asked = dataset.info.get("rows")
    if known is not None and asked in (None, known["rows"]) and known["hash"] != dataset.hash:
        packages = [package for package in known["versions"] if package in dataset.info]
        made = ", ".join(f"{package} {dataset.info[package]}" for package in packages)
        theirs = ", ".join(f"{package} {version}" for package, version in known["versions"].items())
        making.say(
            f"{dataset.name}: not the published rows. It was made with {made}; the published one with {theirs}. "
            "Compare scores only with those on the same rows."
        )
    return dataset


def file_hash(path: Path) -> str:
    """SHA-256 of a file of behaviours. Raises ``DataError`` where it is missing."""
    if not path.is_file():
        raise DataError(f"{path}: no such file of behaviour policies; this installation lacks it, install segue again")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def installed(*packages: str) -> dict[str, str]:
    """Versions of the packages that move the rows, and of NumPy.

    NumPy is recorded and not compared with a cached set: the streams of PCG64 are stable, and where its arithmetic
    differs the published checksum tells.
    """
    found = {}
    for package in (*packages, "numpy"):
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
