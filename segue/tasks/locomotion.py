"""Locomotion in Gymnasium's MuJoCo, with data that are made on the user's machine.

Behaviour policies of several strengths come with the library as weights; a dataset is their rollouts, kept in a cache.
The levels copy D4RL's recipe (Fu et al. 2020): ``random``, ``medium``, ``expert``, ``medium-replay`` (episodes of
policies from training up to the medium one), ``medium-expert`` (half of each). They are **not** D4RL's sets: scores on
them compare only with scores on the same version of the same set.

The same rows come out on every machine with the same MuJoCo: weights are float16, the policy runs in float64, and its
actions are rounded to multiples of 2^-12 (and kept within 1 - 2^-12) before the environment sees them.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segue.errors import ConfigError, DataError, nearest
from segue.files import cache_root
from segue.tasks.dataset import COLUMNS, Dataset, dataset_from_arrays, read, write_npz, writing
from segue.tasks.environment import Environment
from segue.tasks.task import Reference, Task

LEVELS = {
    "random": "uniform actions",
    "medium": "a policy stopped about halfway",
    "medium-replay": "policies from training up to the medium one, one per episode",
    "medium-expert": "half medium, half expert",
    "expert": "the policy at the end of training",
}
ROWS = 100_000
GENERATOR = "1"  # changes whenever the same inputs give other rows
VERSION = "v0"  # of the sets
GRID = 2.0**-12  # of the actions
LAYERS = 3
LOG_STD = -20.0, 2.0
CHECKSUMS: dict[str, str] = {  # dataset id -> hash of its columns, where published
    "segue/hopper/random-v0": "6ac722f0023a420985896227a73f607e2e5c05ed923709b222eb644d8b414ea0",
    "segue/hopper/medium-v0": "e3a7a18949e6ca32864fc9bd293a7db1b76b9bd04891cd1bb646b78888f9ded7",
    "segue/hopper/medium-replay-v0": "1e7e144e96c16e1e8b8d227c673117955898be0d048fba1520e59aead4a7fed3",
    "segue/hopper/medium-expert-v0": "4e96b90df3dd677ed6f23fb407b8a667c090eec42d3562056f1ecd013a903972",
    "segue/hopper/expert-v0": "bc68c2dd3b0d752d2e395e8c9881d290f7326aafd3c093d1ed6b0188b47c1f82",
}
CHECKSUM_VERSIONS = {"mujoco": "3.11.0", "gymnasium": "1.4.0", "numpy": "2.4.6"}  # that the checksums were made with

Progress = Callable[[int, int], None]
Message = Callable[[str], None]


def _hopper_terminates(obs: Any, action: Any, next_obs: Any) -> Any:
    """``Hopper-v5``: unhealthy outside height > 0.7, \\|angle\\| < 0.2, and all other entries within 100."""
    height, angle, rest = next_obs[..., 0], next_obs[..., 1], next_obs[..., 1:]
    return ~((height > 0.7) & (abs(angle) < 0.2) & (abs(rest) < 100).all(-1))


@dataclass(frozen=True)
class Body:
    """One body of the family."""

    name: str
    env_id: str
    reference: Reference
    obs_dim: int
    act_dim: int
    terminates: Callable[[Any, Any, Any], Any] | None
    horizon: int = 1000

    @property
    def behaviours(self) -> Path:
        """The weights of its behaviour policies."""
        return Path(__file__).parent / "behaviours" / f"{self.name}.safetensors"


BODIES = {
    "hopper": Body(
        "hopper", "Hopper-v5", Reference("D4RL hopper", -20.272305, 3234.3), 11, 3, terminates=_hopper_terminates
    ),
}


def catalogue() -> dict[str, str]:
    """One line on each task of the family."""
    lines = {}
    for body in BODIES.values():
        lines[body.name] = f"{body.env_id} without data, for learning online"
        for level, text in LEVELS.items():
            lines[f"{body.name}-{level}"] = f"{body.env_id}; data: {text}"
    return lines


def _split(name: str) -> tuple[Body, str | None]:
    body, _, level = name.partition("-")
    if body not in BODIES or (level and level not in LEVELS):
        raise ConfigError(f"unknown task {name!r}{nearest(name, catalogue())}")
    return BODIES[body], level or None


def dataset_id(body: Body, level: str) -> str:
    """``segue/hopper/medium-v0``."""
    return f"segue/{body.name}/{level}-{VERSION}"


def locomotion(name: str, progress: Progress | None = None, message: Message | None = None) -> Task:
    """The task ``hopper`` (no data) or ``hopper-<level>``."""
    body, level = _split(name)
    return Task(
        name=name,
        family="locomotion",
        source={"kind": "named", "name": name},
        make_env=lambda: make_env(body),
        load_dataset=None if level is None else lambda: cached(body, level, progress=progress, message=message),
        reference=body.reference,
        replayable=True,
        obs_dim=body.obs_dim,
        act_dim=body.act_dim,
        horizon=body.horizon,
        terminates=body.terminates,
    )


def remake(name: str, progress: Progress | None = None, message: Message | None = None) -> Dataset:
    """The dataset of a task made anew, whatever the cache holds."""
    body, level = _split(name)
    if level is None:
        raise ConfigError(f"task {name!r} has no dataset; name a level: {', '.join(f'{name}-{x}' for x in LEVELS)}")
    return cached(body, level, force=True, progress=progress, message=message)


def make_env(body: Body) -> Environment:
    """The body's environment. Raises ``ConfigError`` without MuJoCo."""
    import gymnasium

    try:
        import mujoco  # noqa: F401

        env = gymnasium.make(body.env_id, disable_env_checker=True)
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        raise ConfigError(f"{body.env_id} needs MuJoCo: pip install 'segue[mujoco]' ({error})") from error
    return Environment(env, body.env_id)


class Behaviours(NamedTuple):
    """Behaviour policies by level, each three layers of (weight [in, out], bias [out]) in float64."""

    levels: dict[str, list[tuple[np.ndarray, np.ndarray]]]
    record: dict[str, Any]  # how they were trained
    sha256: str  # of the file

    @property
    def ladder(self) -> list[str]:
        """The levels of medium-replay, weakest first."""
        rungs = [level for level in self.levels if level.startswith("replay-")]
        return sorted(rungs, key=lambda level: int(level.removeprefix("replay-")))


def read_behaviours(path: Path, obs_dim: int, act_dim: int) -> Behaviours:
    """The behaviour policies in a safetensors file of float16 arrays ``<level>/layer<i>/weight`` and ``.../bias``.

    Three layers, ReLU between; the last gives mean and log standard deviation of the action before its tanh. Metadata
    ``record`` is JSON. Raises ``DataError`` for a missing or broken file, naming the array.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file of behaviour policies; this installation lacks it, install segue again")
    from safetensors import SafetensorError, safe_open

    levels: dict[str, dict[str, np.ndarray]] = {}
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        with safe_open(path, framework="numpy") as file:
            record = (file.metadata() or {}).get("record", "{}")
            for key in file.keys():  # noqa: SIM118  (not a dictionary)
                level, _, rest = key.partition("/")
                levels.setdefault(level, {})[rest] = file.get_tensor(key)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: cannot be read as safetensors: {error}") from error
    try:
        parsed = json.loads(record)
    except ValueError as error:
        raise DataError(f"{path}: metadata 'record' is not JSON: {error}") from error

    nets = {}
    for level, arrays in levels.items():
        if level not in ("medium", "expert") and not level.removeprefix("replay-").isdigit():
            raise DataError(f"{path}: unknown level {level!r}; known: medium, expert, replay-0, replay-1, ...")
        width, net = obs_dim, []
        for i in range(LAYERS):
            pair = []
            for part in ("weight", "bias"):
                key = f"layer{i}/{part}"
                array = arrays.pop(key, None)
                if array is None:
                    raise DataError(f"{path}: array '{level}/{key}' is missing")
                if array.dtype != np.float16 or not np.isfinite(array).all():
                    raise DataError(f"{path}: array '{level}/{key}' must be finite float16, and is {array.dtype}")
                pair.append(array.astype(np.float64))
            weight, bias = pair
            out = 2 * act_dim if i == LAYERS - 1 else bias.size
            if weight.shape != (width, out) or bias.shape != (out,):
                raise DataError(
                    f"{path}: '{level}/layer{i}' has weight {weight.shape} and bias {bias.shape}; "
                    f"needed are ({width}, {out}) and ({out},)"
                )
            net.append((weight, bias))
            width = out
        if arrays:
            raise DataError(f"{path}: unknown array '{level}/{next(iter(arrays))}'; policies have {LAYERS} layers")
        nets[level] = net
    return Behaviours(nets, parsed, digest)


def _policy(net: list[tuple[np.ndarray, np.ndarray]], obs: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """``tanh(mean + std * noise)``, [act_dim] float64."""
    x = obs.astype(np.float64)
    for weight, bias in net[:-1]:
        x = np.maximum(x @ weight + bias, 0.0)
    weight, bias = net[-1]
    mean, log_std = np.split(x @ weight + bias, 2)
    return np.tanh(mean + np.exp(np.minimum(np.maximum(log_std, LOG_STD[0]), LOG_STD[1])) * noise)


def roll_out(
    body: Body,
    level: str,
    rows: int = ROWS,
    behaviours: Path | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """`rows` transitions of a level, the last episode cut by a timeout. `progress(done, total)` counts rows."""
    if level not in LEVELS:
        raise ConfigError(f"unknown level {level!r} of {body.name}{nearest(level, LEVELS)}")
    if rows < 4:
        raise ConfigError(f"a dataset of {rows} rows was asked for; the least is 4")
    policies = None
    if level != "random":
        path = behaviours or body.behaviours
        policies = read_behaviours(path, body.obs_dim, body.act_dim)
        needed = {"medium-expert": ["medium", "expert"], "medium-replay": policies.ladder or ["replay-0"]}
        for part in needed.get(level, [level]):
            if part not in policies.levels:
                raise DataError(f"{path}: level {part!r} is missing; there are: {', '.join(sorted(policies.levels))}")

    name = dataset_id(body, level)
    env = make_env(body)
    seed = hashlib.sha256(name.encode()).digest()[:16]
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(seed, "big")))
    obs, next_obs = (np.empty((rows, body.obs_dim), np.float32) for _ in range(2))
    action, reward = np.empty((rows, body.act_dim), np.float32), np.empty(rows, np.float32)
    terminal, timeout = np.zeros(rows, bool), np.zeros(rows, bool)
    cuts = (rows // 2, rows) if level == "medium-expert" else (rows,)  # where a part ends
    parts = ("medium", "expert") if level == "medium-expert" else (level,)

    try:
        row = 0
        for part, cut in zip(parts, cuts, strict=True):
            while row < cut:
                net = None
                if policies is not None:
                    ladder = policies.ladder
                    rung = ladder[int(rng.integers(len(ladder)))] if part == "medium-replay" else part
                    net = policies.levels[rung]
                s = env.reset(int(rng.integers(2**31)))
                ended = False
                while row < cut and not ended:
                    if net is None:
                        a = rng.uniform(-1.0, 1.0, body.act_dim)
                    else:
                        a = _policy(net, s, rng.standard_normal(body.act_dim))
                    a = np.rint(a / GRID) * GRID
                    a = np.minimum(np.maximum(a, GRID - 1.0), 1.0 - GRID)
                    result = env.step(a)
                    obs[row], action[row], reward[row], next_obs[row] = s, a, result.reward, result.obs
                    terminal[row], timeout[row] = result.terminal, result.timeout
                    s, ended = result.obs, result.terminal or result.timeout
                    row += 1
                    if progress is not None and (row % 1000 == 0 or row == rows):
                        progress(row, rows)
            timeout[cut - 1] = not terminal[cut - 1]
    finally:
        env.close()

    info = {
        "source": name,
        "generator": GENERATOR,
        "rows": rows,
        "behaviours": None if policies is None else policies.sha256,
        "record": None if policies is None else policies.record,
        **_versions(),
    }
    columns: dict[str, np.ndarray] = dict(zip(COLUMNS, (obs, action, reward, next_obs, terminal, timeout), strict=True))
    return dataset_from_arrays(columns, name, info=info)


def cached(
    body: Body,
    level: str,
    rows: int = ROWS,
    behaviours: Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
    message: Message | None = None,
) -> Dataset:
    """The dataset of a level from the cache, made first if it is not there.

    A set made by another generator, other policies, another MuJoCo or of another size is made again, and `message` says
    so (default: a Python warning). Raises ``DataError`` if the file is not what its manifest says.
    """
    say = message or (lambda text: warnings.warn(text, stacklevel=3))
    name = dataset_id(body, level)
    folder = cache_root() / "datasets"
    path, manifest = folder / f"{name}.npz", folder / f"{name}.json"
    sha256 = None if level == "random" else _file_hash(behaviours or body.behaviours)
    versions = _versions()
    wanted = {"generator": GENERATOR, "rows": rows, "behaviours": sha256}
    wanted |= {"mujoco": versions["mujoco"]} if "mujoco" in versions else {}  # without it a cached set still serves
    if not force and path.exists():
        dataset = _verified(path, manifest, wanted, f"segue data make {body.name}-{level} --force", say)
        if dataset is not None:
            _compare_checksum(dataset, say)
            return dataset
    dataset = roll_out(body, level, rows, behaviours, progress)
    write_npz(dataset, path)
    with writing(manifest) as file:
        file.write(json.dumps({"hash": dataset.hash, **wanted, **versions}, indent=1).encode())
    _compare_checksum(dataset, say)
    return dataset


def _verified(path: Path, manifest: Path, wanted: Mapping[str, Any], way_out: str, say: Message) -> Dataset | None:
    """The cached dataset, or None if it must be made again."""
    if not manifest.exists():
        say(f"{path}: its manifest {manifest.name} is missing (an interrupted run?); the dataset is made again")
        return None
    try:
        found = json.loads(manifest.read_text())
        recorded = found["hash"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{manifest}: not a manifest: {error!r}; make the dataset again: {way_out}") from error
    for key, value in wanted.items():
        if found.get(key) != value:
            before = found.get(key, "not recorded")
            say(
                f"{path}: {key} was {before} and is now {value}; the dataset is made again"
                + (f" (a run on the old rows goes on with {key} {before})" if key == "mujoco" and key in found else "")
            )
            return None
    try:
        dataset = read(path)
    except DataError as error:
        raise DataError(f"{error}; make the dataset again: {way_out}") from error
    if dataset.hash != recorded:
        raise DataError(f"{path}: the rows are not those that were made (hash differs); make them again: {way_out}")
    return dataset


def _compare_checksum(dataset: Dataset, say: Message) -> None:
    published = CHECKSUMS.get(dataset.name)
    if published is not None and dataset.info.get("rows") == ROWS and published != dataset.hash:
        made = ", ".join(f"{package} {dataset.info.get(package)}" for package in _versions())
        theirs = ", ".join(f"{package} {version}" for package, version in CHECKSUM_VERSIONS.items())
        say(
            f"{dataset.name}: not the published rows. It was made with {made}; the published one with {theirs}. "
            "Compare scores only with those on the same rows."
        )


def _file_hash(path: Path) -> str:
    if not path.is_file():
        raise DataError(f"{path}: no such file of behaviour policies; this installation lacks it, install segue again")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _versions() -> dict[str, str]:
    """Installed versions of what moves the rows."""
    installed = {}
    for package in ("mujoco", "gymnasium", "numpy"):
        with suppress(metadata.PackageNotFoundError):
            installed[package] = metadata.version(package)
    return installed
