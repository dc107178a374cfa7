"""Layouts of the mazes, the shortest ways through them, and where their cells lie. NumPy alone.

A cell is (row, column), both from 0 at the upper left of the map. The three layouts are the same in D4RL's AntMaze and
maze2d, in Gymnasium-Robotics and in OGBench; where a cell lies in the plane differs, and is a `Frame`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from segue.errors import ConfigError, nearest

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
        return int(np.floor(row + 0.5)), int(np.floor(column + 0.5))

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


def layout(name: str) -> Layout:
    """The layout ``umaze`` (5 x 5), ``medium`` (8 x 8) or ``large`` (9 x 12). Raises ``ConfigError`` for others."""
    if name not in MAPS:
        raise ConfigError(f"unknown maze {name!r}{nearest(name, MAPS)}")
    walls = np.array([[char == "1" for char in row] for row in MAPS[name]])
    walls.setflags(write=False)
    return Layout(name, walls)
