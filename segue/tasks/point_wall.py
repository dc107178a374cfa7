"""A point mass before a wall: the data go over it, the shorter way leads under it.

Source: the point mass of OOO (Mark et al. 2023, appendix B.1, and its ``envs/point_mass_wall.py``), in NumPy alone.

Departures:
1. The start is (0, 0.5) + uniform(-0.02, 0.02) per axis, as in the released code; the paper has N(0, 0.02^2).
2. A move that touches the wall is refused as well as one that crosses it, so that nothing can stand on it.
3. The goal's radius is 0.05 in ``point-wall``; ``point-wall-strict`` has the released 0.01, below the length of a step.
4. The collecting controller was not released: ours heads for two waypoints above the wall, then for the goal.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from segue.errors import ConfigError
from segue.tasks import made
from segue.tasks.dataset import Dataset, dataset_from_arrays
from segue.tasks.environment import Step, pair
from segue.tasks.made import Making
from segue.tasks.task import Reference, Task

START, START_NOISE = (0.0, 0.5), 0.02
GOAL = (1.0, 0.15)
X_RANGE, Y_RANGE = (-0.25, 1.25), (-0.25, 1.45)
WALL_X, WALL_Y = 0.5, (0.1, 1.2)
REACH = math.sqrt(0.5) * 0.05  # displacement per axis of an action of 1
LIMIT = 150  # steps
RADII = {"point-wall": 0.05, "point-wall-strict": 0.01}
EPISODES = 100
WAYPOINTS = ((0.45, 1.25), (0.55, 1.25))
NEAR = 0.03  # distance at which a waypoint counts as reached
NOISE = 0.1  # standard deviation on normalised actions
GENERATOR = "1"


class PointWall:
    """The environment, with the interface of `segue.tasks.environment.Environment`.

    Observation (x, y). Reward 1 and end at the goal, else 0; the limit is 150 steps. ``info["episode"]`` of the last
    step holds ``success`` (0 or 1) and ``path_length``.
    """

    obs_dim, act_dim, horizon = 2, 2, LIMIT
    action_low, action_high = -np.ones(2), np.ones(2)

    def __init__(self, radius: float = RADII["point-wall"], name: str = "point-wall") -> None:
        self.radius = radius
        self.name = name
        self._time = LIMIT  # no episode yet

    def reset(self, seed: int) -> np.ndarray:
        """The first observation [2] float32."""
        noise = np.random.default_rng(seed).uniform(-START_NOISE, START_NOISE, 2)
        self._time, self._length = 0, 0.0
        return self._move_to(START[0] + noise[0], START[1] + noise[1])

    def step(self, action: np.ndarray) -> Step:
        """One move with an action [2] in [-1, 1], clipped to it. Raises ``ConfigError`` outside an episode."""
        if self._time >= LIMIT:
            raise ConfigError(f"{self.name}: the episode is over; call reset before step")
        dx, dy = pair(action, self.name)
        x0, y0 = self._x, self._y
        x = min(max(x0 + REACH * dx, X_RANGE[0]), X_RANGE[1])
        y = min(max(y0 + REACH * dy, Y_RANGE[0]), Y_RANGE[1])
        if crosses_wall(x0, y0, x, y):
            x, y = x0, y0
        obs = self._move_to(x, y)
        self._length += math.hypot(self._x - x0, self._y - y0)
        self._time += 1
        terminal = math.hypot(self._x - GOAL[0], self._y - GOAL[1]) < self.radius
        timeout = self._time == LIMIT and not terminal
        info: dict[str, Any] = {}
        if terminal or timeout:
            self._time = LIMIT
            info["episode"] = {"success": float(terminal), "path_length": self._length}
        return Step(obs, float(terminal), terminal, timeout, info)

    def close(self) -> None:
        """Nothing to free."""

    def _move_to(self, x: float, y: float) -> np.ndarray:
        obs = np.array((x, y), np.float32)
        self._x, self._y = obs.tolist()  # the observation is the whole state, to the last bit
        return obs


def crosses_wall(x0: float, y0: float, x1: float, y1: float) -> bool:
    """Whether the straight move from (x0, y0) to (x1, y1) meets the wall."""
    if (x0 - WALL_X) * (x1 - WALL_X) > 0:
        return False
    y = y1 if x0 == x1 else y0 + (WALL_X - x0) / (x1 - x0) * (y1 - y0)
    return WALL_Y[0] <= y <= WALL_Y[1]


def detours(name: str, radius: float) -> Dataset:
    """100 successful paths over the wall: saturated proportional control to the waypoints, N(0, 0.1^2) on the actions,
    clipped to 1 - 1e-5. The same rows at every call.
    """
    env = PointWall(radius, name)
    rng = np.random.Generator(np.random.PCG64(20230501))
    bound = 1 - 1e-5
    rows: list[tuple[np.ndarray, np.ndarray, float, np.ndarray, bool, bool]] = []
    done = 0
    while done < EPISODES:
        obs = env.reset(int(rng.integers(2**31)))
        targets = [*WAYPOINTS, GOAL]
        episode = []
        while True:
            x, y = obs.tolist()
            if len(targets) > 1 and math.hypot(x - targets[0][0], y - targets[0][1]) < NEAR:
                targets.pop(0)
            heading = np.array([targets[0][0] - x, targets[0][1] - y]) / REACH
            action = np.clip(np.clip(heading, -1, 1) + NOISE * rng.standard_normal(2), -bound, bound)
            action = action.astype(np.float32)
            result = env.step(action)
            episode.append((obs, action, result.reward, result.obs, result.terminal, result.timeout))
            obs = result.obs
            if result.terminal or result.timeout:
                break
        if result.terminal:
            rows += episode
            done += 1
    names = ("obs", "action", "reward", "next_obs", "terminal", "timeout")
    columns = {column: np.array(values) for column, values in zip(names, zip(*rows, strict=True), strict=True)}
    info = {"source": f"segue/{name}-v0", "licence": made.LICENCE, "generator": GENERATOR, **made.installed()}
    return dataset_from_arrays(columns, f"segue/{name}-v0", info=info)


def catalogue() -> dict[str, str]:
    """One line on each task of the family."""
    return {
        "point-wall": "point mass, 100 detours over a wall; the short way is under it (goal radius 0.05)",
        "point-wall-strict": "the same with the goal radius of OOO's code, 0.01",
    }


def task(name: str, making: Making) -> Task:
    """The task ``point-wall`` or ``point-wall-strict``; its dataset takes less than a second and is not kept."""
    radius = RADII[name]

    def terminates(obs: Any, action: Any, next_obs: Any) -> Any:
        x, y = next_obs[..., 0] - GOAL[0], next_obs[..., 1] - GOAL[1]
        return (x * x + y * y) ** 0.5 < radius

    return Task(
        name=name,
        family="point-wall",
        source={"kind": "named", "name": name},
        make_env=lambda: PointWall(radius, name),  # type: ignore[return-value, arg-type]
        load_dataset=lambda: made.compared(detours(name, radius), making),
        reference=Reference("success rate", 0.0, 1.0, solved=1.0),
        replayable=True,
        obs_dim=2,
        act_dim=2,
        horizon=LIMIT,
        terminates=terminates,
    )
