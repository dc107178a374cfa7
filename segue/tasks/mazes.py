"""Layouts of the mazes, the shortest ways through them, and where their cells lie. NumPy alone.

A cell is (row, column), both from 0 at the upper left of the map. The three layouts are the same in D4RL's AntMaze and
maze2d, in Gymnasium-Robotics and in OGBench; where a cell lies in the plane differs, and is a `Frame`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from segue.errors import ConfigError, nearest
from segue.tasks.made import Act

Cell = tuple[int, int]  # (row, column)

MAPS = {  # 1 is a wall
    "umaze": ("11111", "10001", "11101", "10001", "11111"),
    "medium": ("11111111", "10011001", "10010001", "11000111", "10010001", "10100101", "10001001", "11111111"),
    "large": (
        "111111111111",
        "100001000001",
        "101101010101",
        "100000010001",
        "101111011101",
        "100101000001",
        "110101010111",
        "100100010001",
        "111111111111",
    ),
}
START: Cell = (1, 1)  # AntMaze's, in all three
GOALS: dict[str, Cell] = {"umaze": (3, 1), "medium": (6, 6), "large": (7, 9)}  # AntMaze's
MOVES = ((1, 0), (-1, 0), (0, 1), (0, -1))  # the order in which equally short ways are preferred


@dataclass(frozen=True)
class Frame:
    """Where cells lie in the plane: the centre of cell ``origin`` is at (0, 0), cells are ``scale`` units wide.

    x grows with the column and y with the row. ``flip`` lets y fall with the row instead; ``transposed`` lets x grow
    with the row and y with the column.
    """

    scale: float = 1.0
    origin: tuple[float, float] = (0.0, 0.0)  # (row, column), between cells too
    flip: bool = False
    transposed: bool = False

    def xy(self, cell: tuple[float, float]) -> tuple[float, float]:
        """Centre of a cell."""
        row, column = self.scale * (cell[0] - self.origin[0]), self.scale * (cell[1] - self.origin[1])
        row = -row if self.flip else row
        return (row, column) if self.transposed else (column, row)

    def cell(self, x: float, y: float) -> Cell:
        """The cell that holds a point; it may lie outside the map."""
        row, column = self.place(x, y)
        return math.floor(row + 0.5), math.floor(column + 0.5)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """(row, column) of a point in units of cells, whole numbers at the centres: the inverse of `xy`."""
        column, row = (y, x) if self.transposed else (x, y)
        row = -row if self.flip else row
        return row / self.scale + self.origin[0], column / self.scale + self.origin[1]


@dataclass(frozen=True, eq=False)
class Layout:
    """A map of walls, and the shortest ways over its free cells (steps along rows and columns)."""

    name: str
    walls: np.ndarray  # [rows, columns] bool

    @cached_property
    def free(self) -> tuple[Cell, ...]:
        """The cells that are no wall, row by row."""
        return tuple((int(row), int(column)) for row, column in np.argwhere(~self.walls))

    @property
    def centred(self) -> tuple[float, float]:
        """``origin`` of a `Frame` whose (0, 0) is the middle of the map."""
        rows, columns = self.walls.shape
        return (rows - 1) / 2, (columns - 1) / 2

    def is_free(self, cell: Cell) -> bool:
        """Whether a cell lies on the map and is no wall."""
        rows, columns = self.walls.shape
        return 0 <= cell[0] < rows and 0 <= cell[1] < columns and not self.walls[cell]

    def distances(self, goal: Cell) -> np.ndarray:
        """Steps from each cell to `goal`, [rows, columns] int64, -1 where no way leads. Raises ``ConfigError``."""
        if not self.is_free(goal):
            raise ConfigError(f"maze {self.name!r}: cell {goal} is a wall or off the map; free cells: {self.free}")
        if goal not in self._distances:
            steps = np.full(self.walls.shape, -1, np.int64)
            steps[goal] = 0
            queue = deque([goal])
            while queue:
                cell = queue.popleft()
                for near in self.neighbours(cell):
                    if steps[near] < 0:
                        steps[near] = steps[cell] + 1
                        queue.append(near)
            steps.setflags(write=False)
            self._distances[goal] = steps
        return self._distances[goal]

    def neighbours(self, cell: Cell) -> list[Cell]:
        """The free cells one step away, in the order of `MOVES`."""
        near = [(cell[0] + row, cell[1] + column) for row, column in MOVES]
        return [other for other in near if self.is_free(other)]

    def next_cell(self, cell: Cell, goal: Cell) -> Cell:
        """The next cell on a shortest way to `goal`; the goal itself from there. Raises ``ConfigError``."""
        steps = self.distances(goal)
        if not self.is_free(cell) or steps[cell] < 0:
            raise ConfigError(f"maze {self.name!r}: no way leads from {cell} to {goal}; free cells: {self.free}")
        return goal if cell == goal else min(self.neighbours(cell), key=lambda near: int(steps[near]))

    def way(self, cell: Cell, goal: Cell) -> list[Cell]:
        """The cells of that shortest way after `cell`, up to and with `goal`. Raises ``ConfigError``."""
        cells = []
        while cell != goal:
            cell = self.next_cell(cell, goal)
            cells.append(cell)
        return cells

    @cached_property
    def _distances(self) -> dict[Cell, np.ndarray]:
        return {}


class Tour:
    """Waypoints through a maze, to one goal cell after another; the next goal is drawn on arrival at the last.

    A waypoint is the centre of a cell plus uniform(*jitter) per axis, in units of cells along x and y; a goal is its
    cell's centre plus `shift` on both axes. Either counts as reached within `reach` units. `goals(rng)` draws the goals
    (default: any free cell).
    """

    def __init__(
        self,
        maze: Layout,
        frame: Frame,
        reach: float,
        jitter: tuple[float, float],
        shift: float = 0.0,
        goals: Callable[[np.random.Generator], Cell] | None = None,
    ) -> None:
        self.maze, self.frame, self.reach, self.jitter, self.shift = maze, frame, reach, jitter, shift
        self.goals = goals or (lambda rng: maze.free[int(rng.integers(len(maze.free)))])
        self._points: list[tuple[float, float]] = []  # the way that is left, next one last

    def waypoint(self, x: float, y: float, rng: np.random.Generator) -> tuple[float, float]:
        """The next waypoint (x, y) from a place (x, y). Raises ``ConfigError`` if that is in a wall."""
        if self._points and math.hypot(x - self._points[-1][0], y - self._points[-1][1]) < self.reach:
            self._points.pop()
        if not self._points:
            cell, goal = self.frame.cell(x, y), self.goals(rng)
            *between, last = self.maze.way(cell, goal) or [goal]
            low, high = self.jitter
            jitter = rng.uniform(low, high, (len(between), 2)).tolist()
            points = [self._point(at, *noise) for at, noise in zip(between, jitter, strict=True)]
            self._points = [*points, self._point(last, self.shift, self.shift)][::-1]
        return self._points[-1]

    def _point(self, cell: Cell, dx: float, dy: float) -> tuple[float, float]:
        x, y = self.frame.xy(cell)
        return x + self.frame.scale * dx, y + self.frame.scale * dy


def follow(tour: Tour, gains: tuple[float, float], noise: float) -> Act:
    """A controller of a point mass: ``clip(gains[0] * (waypoint - position) + gains[1] * speed) + N(0, noise^2)``.

    Takes an observation (x, y, vx, vy) and a random stream, gives an action [2] float64, clipped to [-1, 1].
    """

    def act(obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        x, y, vx, vy = obs.tolist()
        to_x, to_y = tour.waypoint(x, y, rng)
        ax = min(max(gains[0] * (to_x - x) + gains[1] * vx, -1.0), 1.0)
        ay = min(max(gains[0] * (to_y - y) + gains[1] * vy, -1.0), 1.0)
        if noise:
            nx, ny = rng.standard_normal(2).tolist()
            ax, ay = min(max(ax + noise * nx, -1.0), 1.0), min(max(ay + noise * ny, -1.0), 1.0)
        return np.array((ax, ay))

    return act


def layout(name: str) -> Layout:
    """The layout ``umaze`` (5 x 5), ``medium`` (8 x 8) or ``large`` (9 x 12). Raises ``ConfigError`` for others."""
    if name not in MAPS:
        raise ConfigError(f"unknown maze {name!r}{nearest(name, MAPS)}")
    walls = np.array([[char == "1" for char in row] for row in MAPS[name]])
    walls.setflags(write=False)
    return Layout(name, walls)
