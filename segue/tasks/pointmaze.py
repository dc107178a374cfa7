"""PointMaze of Gymnasium-Robotics with the goal of D4RL's maze2d, and data of a planner made on the user's machine.

The package's environment has a random goal and observations by key. Here the goal stays at the centre of D4RL's cell,
the observation is (x, y, vx, vy), and nothing ends: the reward is 1 for each step that ends within 0.45 of the goal, so
a return counts steps in the goal, as in maze2d, on which most offline-to-online papers report. The frame is the
package's: the origin is the middle of the map, x grows with the column, y falls with the row, cells are one unit wide.

Departures from the package: start cells are uniform over all free ones, the goal's among them, as in D4RL (the
package's own start keeps away from the goal); the noise on the start is the package's, uniform(-0.25, 0.25) per axis.

The data are those of `segue.tasks.maze2d`: a planner with noise, a new random goal on arrival, rewards of the fixed
goal, episodes of the task's limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from segue.tasks import made, mazes
from segue.tasks.dataset import Dataset, dataset_from_arrays
from segue.tasks.environment import Environment, registered
from segue.tasks.made import Making
from segue.tasks.maze2d import GAINS, NOISE, REACH
from segue.tasks.success import Success
from segue.tasks.task import Reference, Task, never

PACKAGES = ("mujoco", "gymnasium", "gymnasium-robotics")  # whose versions move the rows
NEAR_GOAL = 0.45  # the package's, units
JITTER = 0.1  # half width, of waypoints off the centres of cells
ROWS = 100_000
GENERATOR = "1"  # changes whenever the same inputs give other rows
VERSION = "v0"  # of the sets


@dataclass(frozen=True)
class Maze:
    """One maze of the family. The reference runs from uniform actions to the planner without noise, which heads for the
    goal and stays: means of 200 episodes with the seeds 0 to 199.
    """

    env_id: str
    layout: str
    goal: mazes.Cell
    horizon: int  # steps
    reference: Reference

    @property
    def frame(self) -> mazes.Frame:
        """Where the package puts the cells."""
        return mazes.Frame(1.0, mazes.layout(self.layout).centred, flip=True)


MAZES = {
    "umaze": Maze("PointMaze_UMaze-v3", "umaze", (1, 1), 300, Reference("random to planner", 29.9, 220.5)),
    "medium": Maze("PointMaze_Medium-v3", "medium", (6, 6), 600, Reference("random to planner", 23.2, 434.6)),
    "large": Maze("PointMaze_Large-v3", "large", (7, 9), 800, Reference("random to planner", 11.6, 573.1)),
}


class FixedGoal:
    """The package's environment with one goal and flat observations [4] float64; Gymnasium's interface."""

    def __init__(self, env: Any, maze: Maze) -> None:
        self.observation_space = env.observation_space["observation"]
        self.action_space, self.spec = env.action_space, env.spec
        self._env, self._goal = env, maze.goal
        self._free = mazes.layout(maze.layout).free
        self._goal_xy = np.array(maze.frame.xy(maze.goal))

    def reset(self, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
        """A start in a random free cell, by `seed`."""
        cell = self._free[int(np.random.default_rng(seed).integers(len(self._free)))]
        options = {"reset_cell": np.array(cell), "goal_cell": np.array(self._goal)}
        obs, info = self._env.reset(seed=seed, options=options)
        self._env.unwrapped.goal = self._goal_xy  # without the package's noise
        return obs["observation"], info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Gymnasium's five results."""
        obs, reward, terminated, truncated, info = self._env.step(action)
        return obs["observation"], float(reward), terminated, truncated, info

    def close(self) -> None:
        """Frees the simulator."""
        self._env.close()


def make_env(maze: Maze, name: str) -> Environment:
    """The environment of a maze. Raises ``ConfigError`` without Gymnasium-Robotics."""
    settings = {"reward_type": "sparse", "continuing_task": True, "reset_target": False}
    env = registered("gymnasium-robotics", maze.env_id, max_episode_steps=maze.horizon, **settings)
    return Environment(Success(FixedGoal(env, maze)), name)  # type: ignore[arg-type]


def planner(maze: Maze, noise: float, to_goal: bool = False) -> made.Act:
    """maze2d's controller in this frame: to random cells in turn, or to the task's goal to stay."""
    goals = (lambda _: maze.goal) if to_goal else None
    tour = mazes.Tour(mazes.layout(maze.layout), maze.frame, REACH, (-JITTER, JITTER), goals=goals)
    return mazes.follow(tour, GAINS, noise)


def dataset_id(name: str) -> str:
    """``segue/pointmaze/umaze-v0``."""
    return f"segue/pointmaze/{name}-{VERSION}"


def roll_out(name: str, rows: int = ROWS, progress: made.Progress | None = None) -> Dataset:
    """`rows` transitions of the planner to random goals in a maze, the last episode cut by a timeout."""
    maze, title = MAZES[name], dataset_id(name)
    env = make_env(maze, title)
    try:
        columns = made.collect(env, rows, made.stream(title), lambda _: planner(maze, NOISE), progress)
    finally:
        env.close()
    info = {"source": title, "generator": GENERATOR, "rows": rows, "noise": NOISE, **made.installed(*PACKAGES)}
    return dataset_from_arrays(columns, title, info=info)


def cached(name: str, making: Making = made.QUIET) -> Dataset:
    """The dataset of a maze from the cache, made first if it is not there (`made.cached`)."""
    wanted = {"generator": GENERATOR, "rows": ROWS, "behaviours": None}
    make = lambda progress: roll_out(name, ROWS, progress)
    return made.cached(dataset_id(name), f"pointmaze-{name}", wanted, make, making, PACKAGES)


def catalogue() -> dict[str, str]:
    """One line on each task of the family."""
    return {
        f"pointmaze-{name}": f"{maze.env_id} with D4RL's goal; data: a noisy planner to random goals"
        for name, maze in MAZES.items()
    }


def task(name: str, making: Making) -> Task:
    """The task ``pointmaze-umaze``, ``-medium`` or ``-large``."""
    level = name.removeprefix("pointmaze-")
    maze = MAZES[level]
    return Task(
        name=name,
        family="pointmaze",
        source={"kind": "named", "name": name},
        make_env=lambda: make_env(maze, name),
        load_dataset=lambda: cached(level, making),
        reference=maze.reference,
        replayable=True,
        obs_dim=4,
        act_dim=2,
        horizon=maze.horizon,
        terminates=never,
    )
