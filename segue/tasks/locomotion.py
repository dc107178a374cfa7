"""Locomotion in Gymnasium's MuJoCo, with data that are made on the user's machine.

Behaviour policies of several strengths come with the library as weights; a dataset is their rollouts, kept in a cache.
The levels copy D4RL's recipe (Fu et al. 2020): ``random``, ``medium``, ``expert``, ``medium-replay`` (episodes of
policies from training up to the medium one), ``medium-expert`` (half of each). They are **not** D4RL's sets: scores on
them compare only with scores on the same version of the same set.

The same rows come out on every machine with the same MuJoCo: weights are float16, the policy runs in float64, and its
actions are rounded (`segue.tasks.made`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segue.errors import ConfigError, DataError, nearest
from segue.tasks import made
from segue.tasks.dataset import Dataset, dataset_from_arrays
from segue.tasks.environment import Environment
from segue.tasks.made import Making
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
LAYERS = 3
LOG_STD = -20.0, 2.0


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


def task(name: str, making: Making) -> Task:
    """The task ``hopper`` (no data) or ``hopper-<level>``."""
    body, level = _split(name)
    return Task(
        name=name,
        family="locomotion",
        source={"kind": "named", "name": name},
        make_env=lambda: make_env(body),
        load_dataset=None if level is None else lambda: cached(body, level, making=making),
        reference=body.reference,
        replayable=True,
        obs_dim=body.obs_dim,
        act_dim=body.act_dim,
        horizon=body.horizon,
        terminates=body.terminates,
    )


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
    progress: made.Progress | None = None,
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

    def begin(part: str) -> Callable[[np.random.Generator], made.Act]:
        def of_episode(rng: np.random.Generator) -> made.Act:
            if policies is None:
                return lambda _, rng: rng.uniform(-1.0, 1.0, body.act_dim)
            ladder = policies.ladder
            rung = ladder[int(rng.integers(len(ladder)))] if part == "medium-replay" else part
            net = policies.levels[rung]
            return lambda obs, rng: _policy(net, obs, rng.standard_normal(body.act_dim))

        return of_episode

    name = dataset_id(body, level)
    rng, env = made.stream(name), make_env(body)
    try:
        if level == "medium-expert":
            half = rows // 2
            first = made.collect(env, half, rng, begin("medium"), progress, 0, rows)
            columns = made.joined(first, made.collect(env, rows - half, rng, begin("expert"), progress, half, rows))
        else:
            columns = made.collect(env, rows, rng, begin(level), progress)
    finally:
        env.close()
    info = {
        "source": name,
        "generator": GENERATOR,
        "rows": rows,
        "behaviours": None if policies is None else policies.sha256,
        "record": None if policies is None else policies.record,
        **made.installed("mujoco"),
    }
    return dataset_from_arrays(columns, name, info=info)


def cached(
    body: Body, level: str, rows: int | None = None, behaviours: Path | None = None, making: Making = made.QUIET
) -> Dataset:
    """The dataset of a level from the cache, made first if it is not there (`made.cached`)."""
    rows = ROWS if rows is None else rows
    sha256 = None if level == "random" else made.file_hash(behaviours or body.behaviours)
    wanted = {"generator": GENERATOR, "rows": rows, "behaviours": sha256}

    def make(progress: made.Progress | None) -> Dataset:
        return roll_out(body, level, rows, behaviours, progress)

    return made.cached(dataset_id(body, level), f"{body.name}-{level}", wanted, make, making)
