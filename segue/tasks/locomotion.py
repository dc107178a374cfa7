"""Locomotion in Gymnasium's MuJoCo, with data that are made on the user's machine.

Behaviour policies of several strengths come with the library as weights; a dataset is their rollouts, kept in a cache.
The levels copy D4RL's recipe (Fu et al. 2020): ``random``, ``medium``, ``expert``, ``medium-replay`` (episodes of
policies from training up to the medium one), ``medium-expert`` (half of each). They are **not** D4RL's sets: scores on
them compare only with scores on the same version of the same set. A level is offered where its body's weights are
there; ``random`` needs none.

The bodies are Gymnasium's v5; of Hopper and HalfCheetah they move as in D4RL's data. ``Walker2d-v5`` has a friction of
1.9 under both feet, and D4RL's walker (v2, v4) 0.9 under the right one: D4RL's walker files are of another body.
``Ant-v5`` is observed without contact forces (27 entries); it still pays for them, at most 0.042 a step, which D4RL's
ant did not. A bonus for health is not paid at a fall, where D4RL's was.

``ant-sparse`` and ``halfcheetah-sparse`` pay for distance alone, and are learnt online (`Beyond`).

The same rows come out on every machine with the same MuJoCo: weights are float16, the policy runs in float64, and its
actions are rounded (`segue.tasks.made`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segue.errors import ConfigError, DataError, nearest
from segue.tasks import made
from segue.tasks.dataset import Dataset, dataset_from_arrays
from segue.tasks.environment import Environment
from segue.tasks.made import Making
from segue.tasks.task import Reference, Task, never

LEVELS = {
    "random": "uniform actions",
    "medium": "a policy from early in the training",
    "medium-replay": "policies from training up to the medium one, one per episode",
    "medium-expert": "half medium, half expert",
    "expert": "the best policy of the training",
}
ROWS = 100_000
PACKAGES = ("mujoco", "gymnasium")  # whose versions move the rows: the simulator; the bodies and their rewards
GENERATOR = "1"  # changes whenever the same inputs give other rows
VERSION = "v0"  # of the sets
LAYERS = 3
LOG_STD = -20.0, 2.0


def _hopper_terminates(obs: Any, action: Any, next_obs: Any) -> Any:
    """``Hopper-v5``: unhealthy outside height > 0.7, \\|angle\\| < 0.2, and all other entries within 100."""
    height, angle, rest = next_obs[..., 0], next_obs[..., 1], next_obs[..., 1:]
    return ~((height > 0.7) & (abs(angle) < 0.2) & (abs(rest) < 100).all(-1))


def _walker2d_terminates(obs: Any, action: Any, next_obs: Any) -> Any:
    """``Walker2d-v5``: unhealthy outside 0.8 < height < 2 and \\|angle\\| < 1."""
    height, angle = next_obs[..., 0], next_obs[..., 1]
    return ~((height > 0.8) & (height < 2.0) & (abs(angle) < 1.0))


def _ant_terminates(obs: Any, action: Any, next_obs: Any) -> Any:
    """``Ant-v5``: unhealthy outside 0.2 <= height <= 1, and where an entry is not finite."""
    height = next_obs[..., 0]
    return ~((height >= 0.2) & (height <= 1.0) & (abs(next_obs) < math.inf).all(-1))


@dataclass(frozen=True)
class Body:
    """One body of the family."""

    name: str
    env_id: str
    reference: Reference
    obs_dim: int
    act_dim: int
    terminates: Callable[[Any, Any, Any], Any]
    options: Mapping[str, Any] = field(default_factory=dict)  # of `gymnasium.make`
    horizon: int = 1000

    @property
    def behaviours(self) -> Path:
        """The weights of its behaviour policies."""
        return Path(__file__).parent / "behaviours" / f"{self.name}.safetensors"


BODIES = {
    body.name: body
    for body in (
        Body("hopper", "Hopper-v5", Reference("D4RL hopper", -20.272305, 3234.3), 11, 3, _hopper_terminates),
        Body(
            "halfcheetah",
            "HalfCheetah-v5",
            Reference("D4RL halfcheetah", -280.178953, 12135.0),
            17,
            6,
            never,
        ),
        Body("walker2d", "Walker2d-v5", Reference("D4RL walker2d", 1.629008, 4592.3), 17, 6, _walker2d_terminates),
        Body(
            "ant",
            "Ant-v5",
            Reference("D4RL ant", -325.6, 3879.7),
            27,
            8,
            _ant_terminates,
            {"include_cfrc_ext_in_observation": False},
        ),
    )
}


class Line(NamedTuple):
    """A sparse task: which body has to come how far."""

    body: Body
    distance: float  # units along x
    obs_dim: int
    options: Mapping[str, Any]  # of `gymnasium.make`


LINES = {
    "ant-sparse": Line(
        BODIES["ant"],
        10.0,
        28,
        {
            "include_cfrc_ext_in_observation": False,
            "exclude_current_positions_from_observation": False,
            "terminate_when_unhealthy": False,
        },
    ),
    "halfcheetah-sparse": Line(BODIES["halfcheetah"], 20.0, 17, {}),
}


def catalogue() -> dict[str, str]:
    """One line on each task of the family; levels only where the body's behaviours are there."""
    lines = {}
    for body in BODIES.values():
        lines[body.name] = f"{body.env_id} without data, for learning online"
        trained = body.behaviours.is_file()
        for level, text in LEVELS.items():
            if trained or level == "random":
                lines[f"{body.name}-{level}"] = f"{body.env_id}; data: {text}"
    for name, line in LINES.items():
        lines[name] = f"{line.body.env_id} paid only beyond x = {line.distance:g}, for learning online"
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
    """The task ``<body>`` (no data), ``<body>-<level>`` or ``<body>-sparse``."""
    if name in LINES:
        return _sparse_task(name)
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


def _sparse_task(name: str) -> Task:
    line = LINES[name]
    return Task(
        name=name,
        family="sparse-locomotion",
        source={"kind": "named", "name": name},
        make_env=lambda: Environment(Beyond(line), name),  # type: ignore[arg-type]
        load_dataset=None,
        reference=Reference("success rate", 0.0, line.body.horizon, solved=1.0),
        replayable=True,
        obs_dim=line.obs_dim,
        act_dim=line.body.act_dim,
        horizon=line.body.horizon,
        terminates=never,
    )


def make_env(body: Body) -> Environment:
    """The body's environment. Raises ``ConfigError`` without MuJoCo."""
    return Environment(_made(body.env_id, body.options), body.env_id)


def _made(env_id: str, options: Mapping[str, Any]) -> Any:
    import gymnasium

    try:
        import mujoco  # noqa: F401

        return gymnasium.make(env_id, disable_env_checker=True, **options)
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        raise ConfigError(f"{env_id} needs MuJoCo: pip install 'segue[mujoco]' ({error})") from error


class Beyond:
    """A body that is paid 1 at every step with its x more than ``line.distance`` beyond the episode's first, else 0.

    It never ends before the time limit, not even when the ant lies on its back. ``info["episode"]`` of the last step
    holds ``success`` (0 or 1): whether the line was reached at any step. Gymnasium's interface.

    Source: ``ant-sparse`` and ``halfcheetah-sparse`` of OOO (Mark et al. 2023), after Rengarajan et al. 2022. The
    ant's x is observed, its y is not; the cheetah's x is not, as there. Departure: no contact forces in the ant's
    observation (28 entries: x, then the 27 of ``ant``; 112 there).
    """

    def __init__(self, line: Line) -> None:
        from gymnasium.spaces import Box

        self._env = _made(line.body.env_id, line.options)
        self._distance, self._x_is_seen = line.distance, line.obs_dim > line.body.obs_dim
        self.spec, self.action_space = self._env.spec, self._env.action_space
        self.observation_space = Box(-np.inf, np.inf, (line.obs_dim,), np.float64)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Gymnasium's ``reset``."""
        obs, info = self._env.reset(seed=seed, options=options)
        self._first, self._reached = info["x_position"], False
        return self._seen(obs), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Gymnasium's ``step``."""
        obs, _, terminated, truncated, info = self._env.step(action)
        beyond = bool(info["x_position"] - self._first > self._distance)
        self._reached |= beyond
        if truncated:
            info["episode"] = {"success": float(self._reached)}
        return self._seen(obs), float(beyond), terminated, truncated, info

    def close(self) -> None:
        """Frees the simulator."""
        self._env.close()

    def _seen(self, obs: np.ndarray) -> np.ndarray:
        return np.delete(obs, 1) if self._x_is_seen else obs  # without y


Net = list[tuple[np.ndarray, np.ndarray]]  # layers: weight [in, out], bias [out], float64


class Behaviours(NamedTuple):
    """Behaviour policies by level, of three layers each."""

    levels: dict[str, Net]
    record: dict[str, Any]  # how they were trained
    sha256: str  # of the file

    @property
    def ladder(self) -> list[str]:
        """The levels of medium-replay, weakest first."""
        rungs = [level for level in self.levels if level.startswith("replay-")]
        return sorted(rungs, key=lambda level: int(level.removeprefix("replay-")))

    def check(self, path: Path, needed: Iterable[str]) -> None:
        """Raises ``DataError`` naming the first of the `needed` levels that the file at `path` lacks."""
        for level in needed:
            if level not in self.levels:
                raise DataError(f"{path}: level {level!r} is missing; there are: {', '.join(sorted(self.levels))}")


def read_behaviours(path: Path, obs_dim: int, act_dim: int) -> Behaviours:
    """The behaviour policies in a safetensors file of float16 arrays ``<level>/layer<i>/weight`` and ``.../bias``.

    Three layers, ReLU between; the last gives mean and log standard deviation of the action before its tanh. Metadata
    ``record`` is JSON. Raises ``DataError`` for a missing or broken file, naming the array.
    """
    from safetensors import SafetensorError, safe_open

    levels: dict[str, dict[str, np.ndarray]] = {}
    try:
        digest = made.file_hash(path)
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


def act(net: Net, obs: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """The action ``tanh(mean + std * noise)`` [act_dim] float64 at an observation [obs_dim], noise [act_dim]."""
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
        policies.check(path, needed.get(level, [level]))

    def begin(part: str) -> Callable[[np.random.Generator], made.Act]:
        def of_episode(rng: np.random.Generator) -> made.Act:
            if policies is None:
                return lambda _, rng: rng.uniform(-1.0, 1.0, body.act_dim)
            ladder = policies.ladder
            rung = ladder[int(rng.integers(len(ladder)))] if part == "medium-replay" else part
            net = policies.levels[rung]
            return lambda obs, rng: act(net, obs, rng.standard_normal(body.act_dim))

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
        **made.installed(*PACKAGES),
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

    return made.cached(dataset_id(body, level), f"{body.name}-{level}", wanted, make, making, PACKAGES)
