"""Mazes: layouts, ways, frames."""

import pytest

from segue.errors import ConfigError
from segue.tasks import mazes

# ------------------------------------------------------------------------------------------------------------ layouts


def test_layouts_have_their_sizes_and_closed_borders():
    sizes = {"umaze": ((5, 5), 7), "medium": ((8, 8), 26), "large": ((9, 12), 46)}
    for name, (shape, free) in sizes.items():
        maze = mazes.layout(name)
        assert maze.walls.shape == shape
        assert len(maze.free) == free == (~maze.walls).sum()
        assert maze.walls[[0, -1]].all()
        assert maze.walls[:, [0, -1]].all()
        assert maze.is_free(mazes.START)
        assert maze.is_free(mazes.GOALS[name])
        assert (maze.distances(mazes.START)[~maze.walls] >= 0).all()


def test_ways_are_shortest():
    maze = mazes.layout("umaze")
    assert maze.distances((3, 1)).tolist() == [
        [-1, -1, -1, -1, -1],
        [-1, 6, 5, 4, -1],
        [-1, -1, -1, 3, -1],
        [-1, 0, 1, 2, -1],
        [-1, -1, -1, -1, -1],
    ]
    assert maze.way((1, 1), (3, 1)) == [(1, 2), (1, 3), (2, 3), (3, 3), (3, 2), (3, 1)]
    assert maze.next_cell((3, 1), (3, 1)) == (3, 1)
    assert mazes.layout("medium").distances((6, 6))[1, 1] == 10  # 5 down and 5 right, no way back
    for name in mazes.MAPS:
        maze = mazes.layout(name)
        for cell in maze.free:
            for goal in maze.free:
                way = maze.way(cell, goal)
                assert len(way) == maze.distances(goal)[cell] == maze.distances(cell)[goal]
                assert all(abs(a[0] - b[0]) + abs(a[1] - b[1]) == 1 for a, b in zip([cell, *way], way, strict=False))


@pytest.mark.parametrize("cell", [(0, 0), (2, 2), (9, 9), (-1, 1)])
def test_cells_in_walls_are_refused(cell):
    maze = mazes.layout("umaze")
    with pytest.raises(ConfigError, match="free cells"):
        maze.distances(cell)
    with pytest.raises(ConfigError, match="no way leads"):
        maze.next_cell(cell, (1, 1))


def test_an_unknown_maze_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'large'"):
        mazes.layout("larg")


def test_frames():
    ant = mazes.Frame(4.0, mazes.START)
    goals = {name: ant.xy(cell) for name, cell in mazes.GOALS.items()}
    assert goals == {"umaze": (0.0, 8.0), "medium": (20.0, 20.0), "large": (32.0, 24.0)}
    assert ant.cell(33.9, 22.1) == (7, 9)
    robotics = mazes.Frame(1.0, mazes.layout("large").centred, flip=True)
    assert robotics.xy((1, 1)) == (-4.5, 3.0)
    assert robotics.xy((7, 9)) == (3.5, -3.0)
    assert mazes.Frame(transposed=True).xy((7, 9)) == (7.0, 9.0)
    for frame in (ant, robotics, mazes.Frame(2.0, (1.5, 0.25), True, True)):
        for cell in mazes.layout("large").free:
            assert frame.cell(*frame.xy(cell)) == cell
            assert frame.place(*frame.xy(cell)) == cell
