"""An ant in a maze, paid where it reaches the goal: D4RL's AntMaze (Fu et al. 2020) on two of today's bodies.

``antmaze-<maze>`` has the ant of Gymnasium, the body of Gymnasium-Robotics' AntMaze (v4): gear 150, steps of 0.05 s.
``antmaze-<maze>-ogbench`` has OGBench's: gear 30, steps of 0.1 s, the dynamics of D4RL's AntMaze. It comes without
data; D4RL's files belong to it. Scores on the first compare with no table of D4RL. Scores on the second, learnt from
D4RL's files, compare with its v2 tables as far as today's MuJoCo moves like the 2.x of those.

The maze, the start, the goal, the reward, the end and the time limits are D4RL's, for both, and so is the frame: the
start is at (0, 0), cells are 4 units wide, x grows with the column and y with the row of the map. The observation is
D4RL's: x, y, then the 27 entries of the ant's. The goal's place is drawn anew for each episode and is not observed, so
no rule of ends follows from an observation.

Data: the steered ant (`segue.tasks.ant`) walks from cell to cell along shortest ways, with noise on its actions, in
episodes of 1000 steps of this very task from other starts; an episode ends at the task's goal. ``play``: starts and
targets are a few chosen cells; ``diverse``: any. They are offered where the ant's behaviour policies are there.

In D4RL's files the ant goes on behind the goal and is paid there again and again. Of such a recording the rows up to
the first that is paid are kept, which is where the task ends.

Departures:
1. From Gymnasium-Robotics: one fixed start and goal cell, the goal's noise, 0.5 for 0.45, the end at the goal, D4RL's
   frame (there centred, y falling with the row), D4RL's noise on the first state (there none on joints and speeds).
2. From OGBench: the cells, the noises, the reward (0 and 1 for -1 and 0), the U maze, and 700 steps in it.
3. From D4RL's data: rewards belong to each episode's own goal, as the task draws it, and not to one draw for all; an
   episode that reaches it ends there; a target is drawn anew when it is reached. A recording is cut where the ant has
   lain on its back for a second, from which this ant does not get up; the task itself goes on there.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from segue.errors import ConfigError, nearest
from segue.tasks import filters, locomotion, made, mazes
from segue.tasks.ant import Steered
from segue.tasks.dataset import COLUMNS, Dataset, dataset_from_arrays
from segue.tasks.environment import Environment
from segue.tasks.formats import Reading, disk
from segue.tasks.made import Making
from segue.tasks.task import Reference, Task

CELL = 4.0  # units
FRAME = mazes.Frame(CELL, mazes.START)
WALL = 1.0  # half the height of a wall
RADIUS = 0.5  # of the goal
FRAMES = 5  # simulation steps per action
POSE_NOISE, SPEED_NOISE = 0.1, 0.1  # of the first state: uniform half width, standard deviation
GOAL_NOISE = 1.0, 0.5  # the goal lies off its cell's centre by the sum of uniform(0, .) of these, per axis
LIMITS = {"umaze": 700, "medium": 1000, "large": 1000}

ROWS = 300_000
PACKAGES = ("mujoco", "gymnasium")  # whose versions move the rows: the simulator, the body
EPISODE, ON_ITS_BACK = 1000, 20  # steps after which an episode of the data is cut
NOISE = 0.2  # standard deviation on the steered ant's actions
NEAR = 1.5  # a waypoint counts as reached within this distance
STUCK, STALLED = 20, 0.5  # after so many steps within such a distance the ant goes another way,
DETOUR = math.pi / 2  # off by at most this angle, for as many steps
GENERATOR = "1"  # changes whenever the same inputs give other rows
VERSION = "v0"  # of the sets
PLAY = {  # corners and dead ends, the task's start and goal among them
    "umaze": ((1, 1), (1, 3), (3, 3), (3, 1)),
    "medium": ((1, 1), (1, 6), (4, 4), (6, 1), (6, 6)),
    "large": ((1, 1), (1, 6), (1, 10), (5, 4), (7, 1), (7, 5), (7, 9)),
}
LEVELS = {
    "play": "a steered ant between chosen cells",
    "diverse": "a steered ant from any cell to any",
}
APART = 1.0  # units that an ant cannot go in a step; cells, in which recordings begin, are 4 wide
D4RL = Reading(terminal_reward=1.0)  # its files go on behind the goal
BEHIND = {"kind": "rows_dropped", "reason": "behind the goal"}
MISSING = "goal-missing"  # of large, diverse


@dataclass(frozen=True)
class Body:
    """An ant: the package and the file in it that describe it, and the extra that installs the package."""

    name: str
    package: str
    file: str
    extra: str


BODIES = {
    "gymnasium": Body("gymnasium", "gymnasium", "envs/mujoco/assets/ant.xml", "mujoco"),
    "ogbench": Body("ogbench", "ogbench", "locomaze/assets/ant.xml", "ogbench"),
}


class AntMaze:
    """The task, with Gymnasium's interface, for the door `Environment`.

    Observation [29] float64: x, y, height, orientation (w, x, y, z), 8 joint angles; then velocity, angular velocity
    about the torso's axes, 8 joint velocities; units, radians, seconds. Actions [8] in [-1, 1] are torques. Reward 1
    and the end within 0.5 of `goal`, else 0. An episode begins in one of `starts` and is cut after `limit` steps, or
    after `on_its_back` steps in a row with the torso upside down.
    ``info["episode"]`` of its last step holds ``success`` (0 or 1) and the ``distance`` to the goal in units.

    Raises ``ConfigError`` without MuJoCo or the body's package.
    """

    def __init__(
        self,
        maze: str,
        body: Body = BODIES["gymnasium"],
        limit: int | None = None,
        starts: tuple[mazes.Cell, ...] = (mazes.START,),
        on_its_back: int | None = None,
    ) -> None:
        from gymnasium.spaces import Box

        try:
            mujoco = import_module("mujoco")
        except ImportError as error:
            raise ConfigError(f"antmaze needs MuJoCo: pip install 'segue[{body.extra}]' ({error})") from error
        self._advance, self._reset, self._forward = mujoco.mj_step, mujoco.mj_resetData, mujoco.mj_forward
        self.model = mujoco.MjModel.from_xml_string(described(body, mazes.layout(maze)))
        self.data = mujoco.MjData(self.model)
        self.goal = np.zeros(2)  # (x, y) of the episode
        self._cell, self._starts = mazes.GOALS[maze], starts
        self._limit, self._time = LIMITS[maze] if limit is None else limit, 0
        self._on_its_back, self._lain = on_its_back, 0
        self.spec = SimpleNamespace(max_episode_steps=self._limit)
        self.observation_space = Box(-np.inf, np.inf, (self.model.nq + self.model.nv,), np.float64)
        self.action_space = Box(-1.0, 1.0, (self.model.nu,), np.float32)

    def reset(self, *, seed: int, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Gymnasium's ``reset``; the episode is a function of `seed`."""
        rng = np.random.default_rng(seed)
        start = self._starts[int(rng.integers(len(self._starts)))]
        self.goal = np.array(FRAME.xy(self._cell)) + sum(rng.uniform(0.0, width, 2) for width in GOAL_NOISE)
        self._reset(self.model, self.data)
        self.data.qpos += rng.uniform(-POSE_NOISE, POSE_NOISE, self.model.nq)
        self.data.qpos[:2] += FRAME.xy(start)
        self.data.qvel[:] = SPEED_NOISE * rng.standard_normal(self.model.nv)
        self._forward(self.model, self.data)
        self._time = self._lain = 0
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Gymnasium's ``step``."""
        self.data.ctrl[:] = action
        self._advance(self.model, self.data, nstep=FRAMES)
        obs = self._observation()
        self._time += 1
        distance = math.hypot(*(obs[:2] - self.goal).tolist())
        x, y = obs[4:6].tolist()
        self._lain = self._lain + 1 if x * x + y * y > 0.5 else 0  # 1 - 2 (x^2 + y^2): height of the torso's up
        reached, cut = distance <= RADIUS, self._time >= self._limit or self._lain == self._on_its_back
        ended = {"episode": {"success": float(reached), "distance": distance}}
        return obs, float(reached), reached, cut, ended if reached or cut else {}

    def close(self) -> None:
        """Nothing to free."""

    def _observation(self) -> np.ndarray:
        return np.concatenate((self.data.qpos, self.data.qvel))


def described(body: Body, maze: mazes.Layout) -> str:
    """The body between the walls of a maze, as MuJoCo's XML. Raises ``ConfigError`` without the body's package."""
    found = find_spec(body.package)
    folders = [] if found is None else found.submodule_search_locations or []
    files = [file for folder in folders if (file := Path(folder) / body.file).is_file()]
    if not files:
        raise ConfigError(
            f"antmaze on the body of {body.name} needs {body.package}'s {body.file}: pip install 'segue[{body.extra}]'"
        )
    tree = ET.parse(files[0])
    world = tree.find("worldbody")
    if world is None:
        raise ConfigError(f"{files[0]} has no worldbody; install another version of {body.package}")
    for row, column in np.argwhere(maze.walls).tolist():
        x, y = FRAME.xy((row, column))
        place = {"pos": f"{x} {y} {WALL}", "size": f"{CELL / 2} {CELL / 2} {WALL}"}
        ET.SubElement(world, "geom", {"type": "box", "contype": "1", "conaffinity": "1", **place})
    return ET.tostring(tree.getroot(), encoding="unicode")


class Walker:
    """A steered ant on its way from cell to cell; the next target is drawn on arrival at the last.

    It heads for the centres of the cells on a shortest way, and at last for the episode's goal if that lies in the
    target's cell, else for the cell's centre. Where it does not come forward it goes another way for a while.
    """

    def __init__(self, env: AntMaze, maze: mazes.Layout, targets: tuple[mazes.Cell, ...], steered: Steered) -> None:
        self._env, self._maze, self._targets, self._steered = env, maze, targets, steered
        self._target: mazes.Cell | None = None
        self._clock, self._off = 0, 0.0  # steps, angle of the detour

    def __call__(self, obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The action [8] at an observation [29], with noise N(0, 0.2^2); not clipped."""
        x, y = float(obs[0]), float(obs[1])
        aim_x, aim_y = self.aim(x, y, rng)
        action = self._steered(obs[2:], math.atan2(aim_y - y, aim_x - x) + self._detour(x, y, rng))
        return action + NOISE * rng.standard_normal(action.size)

    def aim(self, x: float, y: float, rng: np.random.Generator) -> tuple[float, float]:
        """The point (x, y) to head for from a place."""
        here = FRAME.cell(x, y)
        if self._target is None:
            self._target, self._next = self._drawn(here, rng), here
        apart = abs(here[0] - self._next[0]) + abs(here[1] - self._next[1])
        if apart > 1 and self._maze.is_free(here):  # driven off the way
            self._next = self._maze.next_cell(here, self._target)
        goal = float(self._env.goal[0]), float(self._env.goal[1])
        goal_cell = FRAME.cell(*goal)
        if not self._next == self._target == goal_cell and math.dist((x, y), FRAME.xy(self._next)) < NEAR:
            if self._next == self._target:
                self._target = self._drawn(here, rng)
            self._next = self._maze.next_cell(self._next, self._target)
        return goal if self._next == self._target == goal_cell else FRAME.xy(self._next)

    def _drawn(self, here: mazes.Cell, rng: np.random.Generator) -> mazes.Cell:
        others = [cell for cell in self._targets if cell != here]
        return others[int(rng.integers(len(others)))]

    def _detour(self, x: float, y: float, rng: np.random.Generator) -> float:
        if self._clock % STUCK == 0:
            stalled = self._clock > 0 and math.dist((x, y), self._mark) < STALLED
            self._off = float(rng.uniform(-DETOUR, DETOUR)) if stalled else 0.0
            self._mark = x, y
        self._clock += 1
        return self._off


def dataset_id(maze: str, level: str) -> str:
    """``segue/antmaze/large-diverse-v0``."""
    return f"segue/antmaze/{maze}-{level}-{VERSION}"


def roll_out(
    maze: str,
    level: str,
    rows: int = ROWS,
    behaviours: Path | None = None,
    progress: made.Progress | None = None,
) -> Dataset:
    """`rows` transitions of the steered ant at ``play`` or ``diverse``, the last episode cut by a timeout."""
    if level not in LEVELS:
        raise ConfigError(f"unknown level {level!r} of antmaze-{maze}{nearest(level, LEVELS)}")
    ant = locomotion.BODIES["ant"]
    path = behaviours or ant.behaviours
    policies = locomotion.read_behaviours(path, ant.obs_dim, ant.act_dim)
    policies.check(path, ["expert"])
    layout, name = mazes.layout(maze), dataset_id(maze, level)
    cells = PLAY[maze] if level == "play" else layout.free
    env = AntMaze(maze, limit=EPISODE, starts=cells, on_its_back=ON_ITS_BACK)
    steered = Steered(policies.levels["expert"], env.model)
    columns = made.collect(
        Environment(env, name),  # type: ignore[arg-type]
        rows,
        made.stream(name),
        lambda _: Walker(env, layout, cells, steered),
        progress,
    )
    info = {
        "source": name,
        "generator": GENERATOR,
        "rows": rows,
        "behaviours": policies.sha256,
        "record": policies.record,
        "noise": NOISE,
        **made.installed(*PACKAGES),
    }
    return dataset_from_arrays(columns, name, info=info)


def cached(
    maze: str, level: str, rows: int | None = None, behaviours: Path | None = None, making: Making = made.QUIET
) -> Dataset:
    """The dataset of a maze and level from the cache, made first if it is not there (`made.cached`)."""
    rows = ROWS if rows is None else rows
    wanted = {
        "generator": GENERATOR,
        "rows": rows,
        "behaviours": made.file_hash(behaviours or locomotion.BODIES["ant"].behaviours),
    }

    def make(progress: made.Progress | None) -> Dataset:
        return roll_out(maze, level, rows, behaviours, progress)

    return made.cached(dataset_id(maze, level), f"antmaze-{maze}-{level}", wanted, make, making, PACKAGES)


def goal_missing(making: Making = made.QUIET) -> Dataset:
    """The diverse data of the large maze without the goal's region (`filters.NAMED`; OOO, Mark et al. 2023)."""
    filtered = filters.apply(cached("large", "diverse", making=making), [filters.NAMED[f"antmaze-large-{MISSING}"]])
    return replace(filtered, name=dataset_id("large", MISSING))


def first_arrivals(dataset: Dataset) -> Dataset:
    """The episodes but those that go on from the goal (`goes_on`), as ``info["transforms"]`` tells; the dataset itself
    if it tells so already.

    Raises ``DataError`` if rows on disk would have to go.
    """
    past = dataset.info.get("transforms", [])
    if any(BEHIND.items() <= record.items() for record in past):
        return dataset
    starts = dataset.starts[1:]
    before = starts[dataset.terminal[starts - 1]] - 1
    on = np.zeros(len(starts), bool)
    on[dataset.terminal[starts - 1]] = goes_on(dataset.obs[before], dataset.next_obs[before], dataset.obs[before + 1])
    if not on.any():
        return dataset
    disk.refuse(dataset, "leaving out what lies behind the goal")
    keep = np.repeat(np.append(True, ~on), dataset.lengths)
    columns = {column: getattr(dataset, column)[keep] for column in COLUMNS}
    info = {**dataset.info, "transforms": [*past, BEHIND | {"rows": int((~keep).sum())}]}
    return replace(dataset, **columns, info=info).validate()


def goes_on(obs: np.ndarray, next_obs: np.ndarray, behind: np.ndarray) -> np.ndarray:
    """Whether a recording goes on from terminal rows, [K] bool: the rows behind start where these led, [K, 29] each.

    Where such a row has no next observation (it is its own, as from a file without them) it goes on if the one behind
    starts within a unit of it.
    """
    unknown = (next_obs == obs).all(1)
    jump = np.linalg.norm(behind[:, :2] - next_obs[:, :2], axis=1)
    return np.where(unknown, jump < APART, (behind == next_obs).all(1))


def catalogue() -> dict[str, str]:
    """One line on each task of the family; data only where the ant's behaviours are there."""
    lines = {}
    trained = locomotion.BODIES["ant"].behaviours.is_file()
    for maze in LIMITS:
        lines[f"antmaze-{maze}"] = f"Gymnasium's ant in the {maze} maze without data, for learning online"
        for level, text in LEVELS.items() if trained else ():
            lines[f"antmaze-{maze}-{level}"] = f"Gymnasium's ant in the {maze} maze; data: {text}"
    if trained:
        lines[f"antmaze-large-{MISSING}"] = "antmaze-large-diverse; data without the goal's region"
    for maze in LIMITS:
        lines[f"antmaze-{maze}-ogbench"] = f"OGBench's ant (D4RL's dynamics) in the {maze} maze without data"
    return lines


def task(name: str, making: Making) -> Task:
    """The task ``antmaze-<maze>``, ``antmaze-<maze>-ogbench`` (no data), or one with data: ``-play`` and so on."""
    _, maze, *rest = name.split("-", 2)
    level = rest[0] if rest else None
    load = None
    if level == MISSING:
        load = lambda: goal_missing(making)
    elif level in LEVELS:
        load = lambda: cached(maze, level, making=making)
    arrived = lambda dataset: filters.once(first_arrivals(dataset), filters.NAMED[name])
    body = BODIES["ogbench" if level == "ogbench" else "gymnasium"]
    return Task(
        name=name,
        family="antmaze",
        source={"kind": "named", "name": name},
        make_env=lambda: Environment(AntMaze(maze, body), name),  # type: ignore[arg-type]
        load_dataset=load,
        reference=Reference("success rate", 0.0, 1.0, solved=1.0),
        replayable=True,
        obs_dim=29,
        act_dim=8,
        horizon=LIMITS[maze],
        reading=D4RL,
        relabel=arrived if level == MISSING else first_arrivals,
        goes_on=goes_on,
    )
