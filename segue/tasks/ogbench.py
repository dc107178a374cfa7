"""OGBench's single-task environments (Park et al. 2025), two of them with data that are made on the user's machine.

A locomotion task pays -1 a step, and 0 at the goal, where it ends. A manipulation task pays minus the number of parts
that are not in place yet, and ends when all are. Reward and end of a step belong to the observation that it **starts**
from, as in OGBench's single-task mode. Nothing is downloaded: files of OGBench are read where a user has them.

``cube-single-play`` and ``scene-play`` learn from rows that OGBench's scripted arm makes, with the numbers of its
``play`` data: planned motions with temporally correlated noise, a new random aim when one is done, recordings of 1000
steps. Rewards are computed by ``ogbench.relabel_utils``. They are **not** OGBench's sets: scores on them compare only
with scores on the same version of the same set.

Departures:
1. Reset is a function of its seed alone; OGBench's draws the start in a maze from NumPy's global stream, and leaves
   traces of two random steps in the arm's simulator.
2. Actions of the data are rounded (`segue.tasks.made`).
3. OGBench makes an episode of ``scene`` again if the cube left the camera's view; here it stays.
4. In OGBench's sets every row that starts in the goal ends the task, and so it does in a file of the user's. In the
   data made here an episode ends with the first such row; the rows behind it are left out until one starts outside the
   goal again, which begins the next episode.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from segue.tasks import made
from segue.tasks.dataset import Dataset, dataset_from_arrays
from segue.tasks.environment import Environment, Step, registered
from segue.tasks.formats.common import Reading
from segue.tasks.made import Making
from segue.tasks.success import Success
from segue.tasks.task import Reference, Task

ROWS = 100_000
GENERATOR = "2"  # changes whenever the same inputs give other rows
VERSION = "v0"  # of the sets
EPISODE = 1000  # steps of a recording of the data
NOISE, SMOOTHING = 0.1, 0.5  # of the planned motions: amplitude, and its correlation in steps
PACKAGES = ("mujoco", "gymnasium", "ogbench", "dm-control", "scipy")  # whose versions move the rows
CLOSE = 0.04  # m, of a cube, the drawer and the window to where they belong
CENTRE, SCALE = (0.425, 0.0, 0.0), 10.0  # of positions in the observation
DRAWER, WINDOW = 18.0, 15.0  # scales of the drawer and of the window in the observation
CUBE_GOAL = (0.5, 0.0, 0.02)  # m, of cube-single's task 2
SCENE_GOAL = (0.35, -0.05, 0.02)  # m, of scene's task 2: its buttons in state 0, drawer and window at 0
MAZE_GOALS = {"medium": (20.0, 20.0), "large": (36.0, 24.0), "giant": (52.0, 36.0)}  # x and y of task 1

Rule = Callable[[Any], Any]  # observations [..., obs_dim] of NumPy or jax -> [...] bool


def _within(values: Any, goal: tuple[float, ...], radius: float) -> Any:
    return sum((values[..., i] - x) ** 2 for i, x in enumerate(goal)) ** 0.5 <= radius


def _cube_within(obs: Any, goal: tuple[float, ...]) -> Any:
    """Entries 19:22 are the cube's position, shifted and scaled."""
    shifted = tuple(SCALE * (x - c) for x, c in zip(goal, CENTRE, strict=True))
    return _within(obs[..., 19:22], shifted, SCALE * CLOSE)


def cube_success(obs: Any) -> Any:
    """The cube is at its goal."""
    return _cube_within(obs, CUBE_GOAL)


def scene_success(obs: Any) -> Any:
    """Entries 28 and 32 say that a button is in state 0, 36 and 38 where drawer and window are."""
    buttons = (obs[..., 28] == 1) & (obs[..., 32] == 1)
    still = (abs(obs[..., 36]) <= DRAWER * CLOSE) & (abs(obs[..., 38]) <= WINDOW * CLOSE)
    return _cube_within(obs, SCENE_GOAL) & buttons & still


def _maze_success(maze: str, radius: float) -> Rule:
    return lambda obs: _within(obs[..., :2], MAZE_GOALS[maze], radius)


@dataclass(frozen=True)
class Place:
    """One environment of the family, at OGBench's default task."""

    env: str  # OGBench's name, without task and version
    obs_dim: int
    act_dim: int
    horizon: int
    success: Rule
    reference: Reference
    made: bool = False  # whether there are data

    @property
    def env_id(self) -> str:
        """The id of the single-task environment."""
        return f"{self.env}-singletask-v0"


def _rate(worst: int) -> Reference:
    """The share of episodes that are solved: a step pays 0 in the goal, less elsewhere; -`worst` at least in all."""
    return Reference("success rate", -float(worst), 0.0, solved=0.0)


def _mazes() -> dict[str, Place]:
    bodies = {"pointmaze": (2, 2, 1.0), "antmaze": (29, 8, 0.5), "humanoidmaze": (69, 21, 0.5)}
    places = {}
    for body, (obs_dim, act_dim, radius) in bodies.items():
        for maze in MAZE_GOALS:
            env = f"{body}-{maze}"
            horizon = 1000 if body != "humanoidmaze" else (4000 if maze == "giant" else 2000)
            success = _maze_success(maze, radius)
            places[f"ogbench-{env}"] = Place(env, obs_dim, act_dim, horizon, success, _rate(horizon))
    return places


PLACES = {
    "cube-single-play": Place("cube-single", 28, 5, 200, cube_success, _rate(200), made=True),
    # up to five parts of a scene are out of place at a step
    "scene-play": Place("scene", 40, 5, 750, scene_success, _rate(5 * 750), made=True),
    **_mazes(),
}


def catalogue() -> dict[str, str]:
    """One line on each task of the family."""
    return {
        name: f"{place.env_id}; data: {'the scripted arm' if place.made else 'from a file'}"
        for name, place in PLACES.items()
    }


def task(name: str, making: Making) -> Task:
    """A task of the family; data of the scripted arm are made in some minutes and kept in the cache."""
    place = PLACES[name]
    return Task(
        name=name,
        family="ogbench",
        source={"kind": "named", "name": name},
        make_env=lambda: make_env(name),
        load_dataset=(lambda: cached(name, making=making)) if place.made else None,
        reference=place.reference,
        replayable=True,
        obs_dim=place.obs_dim,
        act_dim=place.act_dim,
        horizon=place.horizon,
        terminates=lambda obs, _action, _next_obs: place.success(obs),
        reading=Reading(kind="ogbench", task=place.env_id),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """OGBench's import asks for a display, and its spaces warn at each look: neither concerns a user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _drawing(seed: int) -> Iterator[None]:
    """NumPy's global stream seeded for a while: OGBench draws from it."""
    state = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        np.random.set_state(state)


class Seeded:
    """A Gymnasium environment of OGBench whose reset is a function of its seed."""

    def __init__(self, env: Any) -> None:
        with _quiet():
            self.observation_space, self.action_space, self.spec = env.observation_space, env.action_space, env.spec
        self._env = env
        self.unwrapped = env.unwrapped
        self._arm = hasattr(self.unwrapped, "compute_observation")
        self.info: dict[str, Any] = {}  # of the last reset

    def reset(self, *, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
        """As Gymnasium's."""
        with _quiet(), _drawing(seed):
            obs, info = self._env.reset(seed=seed)
        self.info = info
        if self._arm:
            obs, self.info = self._settled(), self.unwrapped.get_reset_info()
        return obs, self.info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """As Gymnasium's."""
        return self._env.step(action)

    def close(self) -> None:
        """Frees what the environment holds."""
        self._env.close()

    def _settled(self) -> np.ndarray:
        """The first observation once the traces of the random steps are gone from the simulator."""
        import mujoco

        model, data = self.unwrapped.model, self.unwrapped.data
        data.qacc_warmstart[:] = 0
        data.ctrl[:] = 0
        data.time = 0.0
        mujoco.mj_forward(model, data)  # pyright: ignore[reportAttributeAccessIssue]
        mujoco.mj_rnePostConstraint(model, data)  # pyright: ignore[reportAttributeAccessIssue]
        return self.unwrapped.compute_observation()


def _make(env_id: str, **settings: Any) -> Any:
    """OGBench's environment (`registered`)."""
    with _quiet():
        return registered("ogbench", env_id, **settings)


def make_env(name: str) -> Environment:
    """The environment of a task. Raises ``ConfigError`` without OGBench."""
    env = Success(Seeded(_make(PLACES[name].env_id)))
    return Environment(env, name)  # type: ignore[arg-type]


class Play:
    """The scripted arm at play, with the interface of `segue.tasks.environment.Environment`: aim after aim, no reward.

    ``states`` keeps of every row what the rewards follow from: ``qpos`` and, where there are buttons, ``button_states``
    before the step.
    """

    def __init__(self, place: Place) -> None:
        env_id = f"{place.env}-v0"
        settings = {"mode": "data_collection", "terminate_at_goal": False, "max_episode_steps": EPISODE}
        self._gym = Seeded(_make(env_id, **settings))
        self._door = Environment(self._gym, env_id)  # type: ignore[arg-type]
        self.obs_dim, self.act_dim = self._door.obs_dim, self._door.act_dim
        with _quiet():
            self._oracles = _oracles(self._gym.unwrapped)
        self.states: dict[str, list[np.ndarray]] = {"qpos": [], "button_states": []}

    def reset(self, seed: int) -> np.ndarray:
        """The first observation [obs_dim] float32 of an episode; the first aim is set."""
        obs = self._door.reset(seed)
        self._info = self._gym.info
        self._oracle = None
        return obs

    def act(self, obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The arm's action [act_dim] float64 towards its aim, the next one once this is done."""
        if self._oracle is None or self._oracle.done:
            if self._oracle is not None:
                with _quiet():
                    _, self._info = self._gym.unwrapped.set_new_target(p_stack=0.0)
            self._oracle = self._oracles[self._info["privileged/target_task"]]
            with _drawing(int(rng.integers(2**32))):
                self._oracle.reset(obs, self._info)
        return np.clip(self._oracle.select_action(obs, self._info), -1.0, 1.0)

    def step(self, action: np.ndarray) -> Step:
        """One step with an action [act_dim] in [-1, 1]; its state is kept."""
        result = self._door.step(action)
        self._info = result.info
        self.states["qpos"].append(result.info["prev_qpos"])
        if "prev_button_states" in result.info:
            self.states["button_states"].append(result.info["prev_button_states"])
        return result

    def close(self) -> None:
        """Frees what the environment holds."""
        self._door.close()


def _oracles(env: Any) -> dict[str, Any]:
    """OGBench's planned motions by the kind of aim."""
    from ogbench.manipspace.oracles.plan.button_plan import ButtonPlanOracle
    from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle
    from ogbench.manipspace.oracles.plan.drawer_plan import DrawerPlanOracle
    from ogbench.manipspace.oracles.plan.window_plan import WindowPlanOracle

    oracles = {
        "cube": CubePlanOracle,
        "button": ButtonPlanOracle,
        "drawer": DrawerPlanOracle,
        "window": WindowPlanOracle,
    }
    return {kind: oracle(env=env, noise=NOISE, noise_smoothing=SMOOTHING) for kind, oracle in oracles.items()}


def play(name: str, rows: int = ROWS, progress: made.Progress | None = None) -> Dataset:
    """`rows` transitions of the scripted arm, paid for the single task, but those that go on in the goal.

    ``info["left_out"]`` counts these. `progress(done, total)` counts rows.
    """
    place, identity = PLACES[name], dataset_id(name)
    arm = Play(place)
    try:
        columns = made.collect(arm, rows, made.stream(identity), lambda _: arm.act, progress)
    finally:
        arm.close()
    states = {key: np.array(values) for key, values in arm.states.items() if values}
    reward, done = paid(place, states)
    ends = columns["timeout"]  # of the recordings
    columns |= {"reward": reward, "terminal": done, "timeout": columns["timeout"] & ~done}
    kept = ~going_on(done, ends)
    info = {"source": identity, "generator": GENERATOR, "rows": rows, "left_out": int((~kept).sum())}
    columns = {column: array[kept] for column, array in columns.items()}
    return dataset_from_arrays(columns, identity, info=info | made.installed(*PACKAGES))


def going_on(inside: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Rows [N] bool that start in the goal (`inside`) as the row before does, within recordings that `ends` close."""
    return np.append(False, inside[1:] & inside[:-1] & ~ends[:-1])


def paid(place: Place, states: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Rewards [N] float32 and ends [N] bool of steps that start in `states`, by OGBench's own relabelling."""
    from ogbench.relabel_utils import relabel_dataset

    env = _make(place.env_id)
    data: dict[str, Any] = dict(states)
    with _quiet(), _drawing(0):
        relabel_dataset(place.env_id, env, data)
    env.close()
    return data["rewards"], data["masks"] == 0


def dataset_id(name: str) -> str:
    """``segue/ogbench/cube-single-play-v0``."""
    return f"segue/ogbench/{name}-{VERSION}"


def cached(name: str, rows: int | None = None, making: Making = made.QUIET) -> Dataset:
    """The data of a task from the cache, made first if they are not there (`made.cached`)."""
    rows = ROWS if rows is None else rows
    wanted = {"generator": GENERATOR, "rows": rows}

    def make(progress: made.Progress | None) -> Dataset:
        return play(name, rows, progress)

    return made.cached(dataset_id(name), name, wanted, make, making, PACKAGES)
