"""A ball in a maze, pushed by a force: D4RL's maze2d (Fu et al. 2020) in plain Python, without a simulator.

The model is D4RL's: a ball of radius 0.1 and density 1000 with joint damping 1 and motors of gear 100, steps of 0.01 s
by MuJoCo's Euler scheme, speed clipped to 5 per axis before each step, cells one unit wide. x grows with the row of the
map and y with its column, and D4RL's origin lies 0.2 off the centre of cell (0, 0): goals and starts are at whole
numbers, and the walls are placed by `WALLS`. The task pays 1 for each step that ends within 0.5 of the goal and never
ends; a return counts steps in the goal.

D4RL's reference returns hold here: its planner, run as by the script that measured them, scores 91 to 103 (and the same
steps in MuJoCo give the same returns). That script keeps the first episode's waypoints for all later ones, so the
planner is slow; one that plans anew in each episode scores 142 in the U, 158 in medium and 211 in large.

Departures:
1. Walls are hard: the ball stops at them along their normal and slides. MuJoCo's are springs of about 0.02 s, which a
   ball at full speed enters by up to 0.03.
2. The state is rounded to float32 at each step, so that an observation is the whole of it.
3. The data are D4RL's recipe (way through the cells, waypoints off their centres, proportional and derivative gains 10
   and -1, noise of standard deviation 0.5, a new random goal on arrival, rewards of the fixed goal), but each episode
   begins afresh and lasts the task's limit, so that its return is on the task's scale. D4RL's is one stream, cut where
   the goal changes, whose rewards belong to the observation before the action.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from segue.errors import ConfigError
from segue.tasks import filters, made, mazes
from segue.tasks.dataset import Dataset, dataset_from_arrays
from segue.tasks.environment import Step, pair
from segue.tasks.formats import Reading
from segue.tasks.made import Making
from segue.tasks.task import Reference, Task, never

TIME_STEP = 0.01  # s
MASS = 1000 * 4 / 3 * math.pi * 0.1**3  # kg, a ball
DAMPING = 1.0  # N s / unit
GEAR = 100.0  # N for an action of 1
PUSH = TIME_STEP * GEAR / (MASS + TIME_STEP * DAMPING)  # change of speed by an action of 1
KEEP = MASS / (MASS + TIME_STEP * DAMPING)  # of the speed: damping is implicit in MuJoCo's Euler scheme
FASTEST = 5.0  # units / s and axis
RADIUS = 0.102  # of the ball, with MuJoCo's margin of 0.002
OFF = 0.2  # of D4RL's origin
NEAR_GOAL = 0.5
START_NOISE, START_SPEED = 0.1, 0.1  # half width, standard deviation
WALLS = mazes.Frame(origin=(OFF, OFF), transposed=True)  # where the map's cells are

REACH = 0.1  # within which the planner counts a waypoint as reached
GAINS = 10.0, -1.0  # on position and speed
NOISE = 0.5  # standard deviation on the planner's actions
ROWS = 100_000
PACKAGES = ()  # whose versions move the rows: none, all of it is here
GENERATOR = "1"  # changes whenever the same inputs give other rows
VERSION = "v0"  # of the sets
D4RL = Reading(rewards="observation")  # its files pay a row for the observation before the action


@dataclass(frozen=True)
class Maze:
    """One maze of the family; the reference is D4RL's, from a random policy to its planner."""

    layout: str
    goal: mazes.Cell
    horizon: int  # steps
    reference: Reference


MAZES = {
    "umaze": Maze("umaze", (1, 1), 300, Reference("D4RL maze2d-umaze-v1", 23.85, 161.86)),
    "medium": Maze("medium", (6, 6), 600, Reference("D4RL maze2d-medium-v1", 13.13, 277.39)),
    "large": Maze("large", (7, 9), 800, Reference("D4RL maze2d-large-v1", 6.7, 273.99)),
}
MISSING = "large-missing-data"


class Maze2d:
    """The environment, with the interface of `segue.tasks.environment.Environment`.

    Observation (x, y, vx, vy) in units and units per second. Reward 1 within 0.5 of the goal, else 0; no step is
    terminal. A start is any free cell, plus uniform(-0.1, 0.1) per axis, with speeds N(0, 0.1^2). ``info["episode"]``
    of the last step holds ``success``: 1 if the goal was reached at any step, else 0.
    """

    obs_dim, act_dim = 4, 2
    action_low, action_high = -np.ones(2), np.ones(2)

    def __init__(self, maze: Maze, name: str) -> None:
        self.name = name
        self.horizon: int = maze.horizon
        self._layout = mazes.layout(maze.layout)
        self._walls: list[list[bool]] = self._layout.walls.tolist()
        self._goal_x, self._goal_y = map(float, maze.goal)
        self._time = self.horizon  # no episode yet

    def reset(self, seed: int) -> np.ndarray:
        """The first observation [4] float32."""
        rng = np.random.default_rng(seed)
        cell = self._layout.free[int(rng.integers(len(self._layout.free)))]
        place = np.array(cell) + rng.uniform(-START_NOISE, START_NOISE, 2)
        self._time, self._reached = 0, False
        return self._put(*place.tolist(), *(START_SPEED * rng.standard_normal(2)).tolist())

    def step(self, action: np.ndarray) -> Step:
        """One step with an action [2] in [-1, 1], clipped to it. Raises ``ConfigError`` outside an episode."""
        if self._time >= self.horizon:
            raise ConfigError(f"{self.name}: the episode is over; call reset before step")
        ax, ay = pair(action, self.name)
        vx = KEEP * min(max(self._vx, -FASTEST), FASTEST) + PUSH * ax
        vy = KEEP * min(max(self._vy, -FASTEST), FASTEST) + PUSH * ay
        x, y = self._x + TIME_STEP * vx, self._y + TIME_STEP * vy
        obs = self._put(*stopped(self._walls, x, y, vx, vy))
        self._time += 1
        reached = math.hypot(self._x - self._goal_x, self._y - self._goal_y) <= NEAR_GOAL
        self._reached |= reached
        timeout = self._time == self.horizon
        info: dict[str, Any] = {"episode": {"success": float(self._reached)}} if timeout else {}
        return Step(obs, float(reached), False, timeout, info)

    def close(self) -> None:
        """Nothing to free."""

    def _put(self, x: float, y: float, vx: float, vy: float) -> np.ndarray:
        obs = np.array((x, y, vx, vy), np.float32)
        self._x, self._y, self._vx, self._vy = obs.tolist()  # the observation is the whole state, to the last bit
        return obs


def stopped(walls: list[list[bool]], x: float, y: float, vx: float, vy: float) -> tuple[float, float, float, float]:
    """Position and speed after the walls: moved out of them, and without the speed into them.

    A step is shorter than the ball's radius, so its centre never enters a wall and only walls around its cell count.
    """
    u, v = x + OFF + 0.5, y + OFF + 0.5  # cell (i, j) is [i, i + 1) x [j, j + 1)
    i, j = int(u), int(v)
    u, v = u - i, v - j
    a = -1 if u < RADIUS else 1 if u > 1 - RADIUS else 0  # the side that the ball reaches over
    b = -1 if v < RADIUS else 1 if v > 1 - RADIUS else 0
    if not (a or b):
        return x, y, vx, vy
    along_x, along_y = a and walls[i + a][j], b and walls[i][j + b]
    if along_x:
        x += (RADIUS if a < 0 else 1 - RADIUS) - u
        vx = vx if vx * a < 0 else 0.0
    if along_y:
        y += (RADIUS if b < 0 else 1 - RADIUS) - v
        vy = vy if vy * b < 0 else 0.0
    if a and b and not (along_x or along_y) and walls[i + a][j + b]:
        dx, dy = u - (a > 0), v - (b > 0)  # from the wall's corner to the centre
        distance = math.hypot(dx, dy)
        if 0 < distance < RADIUS:
            dx, dy = dx / distance, dy / distance
            x, y = x + (RADIUS - distance) * dx, y + (RADIUS - distance) * dy
            into = min(vx * dx + vy * dy, 0.0)
            vx, vy = vx - into * dx, vy - into * dy
    return x, y, vx, vy


def planner(maze: Maze, noise: float, to_goal: bool = False) -> made.Act:
    """D4RL's controller with N(0, noise^2) on its actions: to random cells in turn, or to the task's goal to stay."""
    goals = (lambda _: maze.goal) if to_goal else None
    tour = mazes.Tour(mazes.layout(maze.layout), WALLS, REACH, (0.0, OFF), OFF, goals)
    return mazes.follow(tour, GAINS, noise)


def dataset_id(name: str) -> str:
    """``segue/maze2d/umaze-v0``."""
    return f"segue/maze2d/{name}-{VERSION}"


def roll_out(name: str, rows: int = ROWS, progress: made.Progress | None = None) -> Dataset:
    """`rows` transitions of the planner to random goals in a maze, the last episode cut by a timeout."""
    maze, title = MAZES[name], dataset_id(name)
    columns = made.collect(Maze2d(maze, title), rows, made.stream(title), lambda _: planner(maze, NOISE), progress)
    info = {"source": title, "generator": GENERATOR, "rows": rows, "noise": NOISE, **made.installed(*PACKAGES)}
    return dataset_from_arrays(columns, title, info=info)


def cached(name: str, making: Making = made.QUIET) -> Dataset:
    """The dataset of a maze from the cache, made first if it is not there (`made.cached`)."""
    wanted = {"generator": GENERATOR, "rows": ROWS, "behaviours": None}
    return made.cached(dataset_id(name), f"maze2d-{name}", wanted, lambda p: roll_out(name, ROWS, p), making, PACKAGES)


def missing_data(making: Making = made.QUIET) -> Dataset:
    """The large maze's data without three regions, the goal's among them (`filters.NAMED`; OOO, Mark et al. 2023)."""
    filtered = filters.apply(cached("large", making), [filters.NAMED["maze2d-large-missing-data"]])
    return replace(filtered, name=dataset_id(MISSING))


def catalogue() -> dict[str, str]:
    """One line on each task of the family."""
    lines = {
        f"maze2d-{name}": f"a ball in the {name} maze; data: a noisy planner to random goals, rewards of the fixed goal"
        for name in MAZES
    }
    return lines | {f"maze2d-{MISSING}": "maze2d-large; data without the goal's region and two corners"}


def task(name: str, making: Making) -> Task:
    """The task ``maze2d-umaze``, ``-medium``, ``-large`` or ``-large-missing-data``; data are made in seconds."""
    level = name.removeprefix("maze2d-")
    maze = MAZES["large" if level == MISSING else level]
    return Task(
        name=name,
        family="maze2d",
        source={"kind": "named", "name": name},
        make_env=lambda: Maze2d(maze, name),  # type: ignore[return-value, arg-type]
        load_dataset=(lambda: missing_data(making)) if level == MISSING else (lambda: cached(level, making)),
        reference=maze.reference,
        replayable=True,
        obs_dim=4,
        act_dim=2,
        horizon=maze.horizon,
        terminates=never,
        reading=D4RL,
        relabel=(lambda dataset: filters.once(dataset, filters.NAMED[name])) if level == MISSING else None,
    )
