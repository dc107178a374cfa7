"""Mazes: layouts, ways, frames; the ball against MuJoCo's and against walls; the planner and its data; pictures."""

import math
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue import tasks
from segue.errors import ConfigError, DataError, Diverged
from segue.tasks import filters, maze2d, mazes, pictures, point_wall, pointmaze
from segue.tasks.dataset import dataset_from_arrays
from segue.tasks.maze2d import MAZES, RADIUS, Maze2d, planner, stopped

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


def test_a_tour_passes_every_waypoint():
    maze, frame, rng = mazes.layout("umaze"), mazes.Frame(2.0, mazes.START), np.random.default_rng(0)
    tour = mazes.Tour(maze, frame, 0.1, (-0.1, 0.3), 0.25, lambda _: (3, 1))
    at, seen = (0.2, -0.3), []  # in cell (1, 1)
    for _ in range(6):
        to = tour.waypoint(*at, rng)
        assert tour.waypoint(at[0] + 0.5, at[1], rng) == to  # it stays until it is reached
        seen.append(to)
        at = to
    cells = [(1, 2), (1, 3), (2, 3), (3, 3), (3, 2)]
    for point, cell in zip(seen, cells, strict=False):
        off = np.subtract(point, frame.xy(cell))
        assert ((off >= -0.2) & (off <= 0.6)).all()
    assert len(set(np.round(np.subtract(seen[:5], [frame.xy(c) for c in cells]).ravel(), 6))) == 10
    assert seen[5] == (0.5, 4.5)  # the goal's cell is at (0, 4)
    assert tour.waypoint(*at, rng) == (0.5, 4.5)  # drawn again, and here already


# ------------------------------------------------------------------------------------------------ the ball, by itself


def at(env, *state):
    """The environment with the ball in a state."""
    env.reset(0)
    return env._put(*state)


def test_steps_are_those_of_gymnasium_robotics():
    point = pytest.importorskip("gymnasium_robotics.envs.maze.point").PointEnv()
    point.reset(seed=0)
    env, rng = Maze2d(MAZES["large"], "maze2d-large"), np.random.default_rng(0)
    for _ in range(200):
        state = np.concatenate([rng.uniform(0.9, 1.1, 2) - 0.2, rng.uniform(-6, 6, 2)]).astype(np.float32)
        action = rng.uniform(-1, 1, 2).astype(np.float32)
        point.set_state(state[:2].astype(float), state[2:].astype(float))
        theirs = point.step(action)[0]
        at(env, *state.tolist())
        np.testing.assert_allclose(env.step(action).obs, theirs, rtol=1e-6, atol=1e-7)
    point.close()


def test_a_step_by_hand():
    env = Maze2d(MAZES["umaze"], "maze2d-umaze")
    at(env, 1.0, 1.0, 0.0, 9.0)
    result = env.step(np.array([1.0, -7.0]))
    mass = 4.18879  # 1000 * 4/3 pi 0.1^3
    push = 100 * 0.01 / (mass + 0.01)
    keep = mass / (mass + 0.01)
    vx, vy = push, 5 * keep - push  # clipped: the speed and the action
    np.testing.assert_allclose(result.obs, [1 + 0.01 * vx, 1 + 0.01 * vy, vx, vy], rtol=1e-6)
    assert (result.reward, result.terminal, result.timeout, result.info) == (1.0, False, False, {})
    assert result.obs.dtype == np.float32


def ball(walls):
    """MuJoCo's ball among boxes at D4RL's places, the walls springs."""
    mujoco = pytest.importorskip("mujoco")
    boxes = "".join(
        f'<geom type="box" conaffinity="1" pos="{row + 1} {column + 1} 0" size=".5 .5 .2"/>'
        for row, column in np.argwhere(walls)
    )
    joints = "".join(f'<joint name="{a}" type="slide" axis="{x} {y} 0"/>' for a, x, y in (("x", 1, 0), ("y", 0, 1)))
    motors = "".join(f'<motor joint="{axis}" ctrlrange="-1 1" ctrllimited="true" gear="100"/>' for axis in "xy")
    model = mujoco.MjModel.from_xml_string(
        f"""<mujoco><option timestep="0.01" gravity="0 0 0" iterations="20" integrator="Euler"/><default>
        <joint damping="1"/><geom density="1000" margin="0.002" condim="1" contype="2" conaffinity="1"/></default>
        <worldbody><body pos="1.2 1.2 0"><geom type="sphere" size="0.1" contype="1"/>{joints}</body>{boxes}
        </worldbody><actuator>{motors}</actuator></mujoco>"""
    )
    data = mujoco.MjData(model)

    def put(state):
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.qvel[:] = state[:2], state[2:]

    def step(action):
        data.qvel[:], data.ctrl[:] = np.clip(data.qvel, -5, 5), action
        mujoco.mj_step(model, data)
        return np.concatenate([data.qpos, data.qvel])

    return put, step


def test_the_planner_earns_what_it_earns_in_mujoco():
    maze = MAZES["umaze"]
    put, step = ball(mazes.layout("umaze").walls)
    env = Maze2d(maze, "maze2d-umaze")
    for seed in range(5):
        returns = []
        for _ in range(2):
            obs, rng, act, total = env.reset(seed), np.random.default_rng(seed), planner(maze, 0.5, True), 0.0
            put(obs)
            for _ in range(maze.horizon):
                action = act(obs, rng)
                if returns:
                    obs = step(action)
                    total += math.dist(obs[:2], maze.goal) <= 0.5
                else:
                    result = env.step(action)
                    obs, total = result.obs, total + result.reward
            returns.append(total)
        assert abs(returns[0] - returns[1]) <= 2, (seed, returns)


def test_the_ball_comes_to_rest_at_walls_where_mujocos_does():
    put, step = ball(mazes.layout("umaze").walls)
    put([1.0, 1.0, 0.0, 0.0])
    env = Maze2d(MAZES["umaze"], "maze2d-umaze")
    obs = at(env, 1.0, 1.0, 0.0, 0.0)
    for _ in range(100):
        theirs, obs = step([-1.0, 0.5]), env.step(np.array([-1.0, 0.5])).obs
    assert obs[0] == pytest.approx(0.3 + RADIUS, abs=1e-6)  # the wall of row 0 ends at 0.3
    np.testing.assert_allclose(obs[:2], theirs[:2], atol=2e-3)  # theirs gives way by about a millimetre
    assert obs[2] == 0


# ----------------------------------------------------------------------------------------------------------- collisions


SIDE = [[False, True, False], [False, False, False], [False, False, False]]
CORNER = [[True, False, False], [False, False, False], [False, False, False]]


def moved(walls, u, v, *speed):
    """`stopped` at a place whose cells begin at whole numbers."""
    x, y, vx, vy = stopped(walls, u - 0.7, v - 0.7, *speed)
    return pytest.approx((x + 0.7, y + 0.7, vx, vy))


def test_walls_by_hand():
    assert moved(SIDE, 1.05, 1.5, -3.0, 2.0) == (1.102, 1.5, 0.0, 2.0)  # stops and slides
    assert moved(SIDE, 1.05, 1.5, 3.0, 2.0) == (1.102, 1.5, 3.0, 2.0)  # on its way out
    assert moved(SIDE, 1.2, 1.5, -3.0, 2.0) == (1.2, 1.5, -3.0, 2.0)  # not there yet
    assert moved(SIDE, 1.05, 2.5, -3.0, 2.0) == (1.05, 2.5, -3.0, 2.0)  # no wall there
    along = 1 + RADIUS * math.sqrt(0.5)
    assert moved(CORNER, 1.05, 1.05, -1.0, -1.0) == (along, along, 0.0, 0.0)
    assert moved(CORNER, 1.05, 1.05, -1.0, 0.0) == (along, along, -0.5, 0.5)  # rolls over the corner
    assert moved(CORNER, 1.05, 1.05, -1.0, 1.0) == (along, along, -1.0, 1.0)
    assert moved(CORNER, 1.09, 1.09, -1.0, -1.0) == (1.09, 1.09, -1.0, -1.0)  # 0.127 from the corner


def gaps(walls, places):
    """From each of [T] points to the nearest wall, in D4RL's frame."""
    beyond = np.maximum(np.abs(places[:, None] - np.argwhere(walls) + 0.2) - 0.5, 0)  # [T, walls, 2]
    return np.hypot(*np.moveaxis(beyond, 2, 0)).min(1)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(list(MAZES)), st.integers(0, 1000), st.integers(1, 60))
def test_no_ball_enters_a_wall(name, seed, held):
    env, rng = Maze2d(MAZES[name], name), np.random.default_rng(seed)
    env.reset(seed)
    pushes = np.sign(rng.uniform(-1, 1, (300, 2))) * (rng.random((300, 2)) < 0.9)
    states = np.array([env.step(pushes[t // held]).obs for t in range(300)], np.float64)
    assert gaps(mazes.layout(name).walls, states[:, :2]).min() >= RADIUS - 1e-6
    assert np.hypot(states[:, 2], states[:, 3]).max() < math.sqrt(2) * (5 + 0.2382)  # a wall adds no speed


# ----------------------------------------------------------------------------------------------------- the environment


def test_starts_are_free_cells_with_noise():
    env = Maze2d(MAZES["umaze"], "maze2d-umaze")
    starts = np.array([env.reset(seed) for seed in range(300)])
    cells = np.rint(starts[:, :2]).astype(int)
    assert {tuple(cell) for cell in cells.tolist()} == set(mazes.layout("umaze").free)
    assert 0.09 < np.abs(starts[:, :2] - cells).max() <= 0.1 + 1e-6
    assert starts[:, 2:].std() == pytest.approx(0.1, rel=0.1)


def test_nothing_ends_but_by_the_limit():
    env = Maze2d(MAZES["umaze"], "maze2d-umaze")
    at(env, 1.0, 1.51, 0.0, 0.0)
    far = [env.step(np.zeros(2)) for _ in range(299)]
    assert not any(r.reward or r.terminal or r.timeout or r.info for r in far)
    env._put(1.0, 1.49, 0.0, 0.0)
    last = env.step(np.zeros(2))
    assert (last.reward, last.terminal, last.timeout, last.info) == (1.0, False, True, {"episode": {"success": 1.0}})
    with pytest.raises(ConfigError, match="call reset"):
        env.step(np.zeros(2))
    at(env, 3.0, 3.0, 0.0, 0.0)
    for _ in range(300):
        last = env.step(np.zeros(2))
    assert last.info == {"episode": {"success": 0.0}}


def test_actions_that_are_none():
    env = Maze2d(MAZES["umaze"], "maze2d-umaze")
    env.reset(0)
    with pytest.raises(ConfigError, match=r"shape \(3,\)"):
        env.step(np.zeros(3))
    with pytest.raises(Diverged, match="NaN"):
        env.step(np.array([np.nan, 0.0]))


def replay(env, seed, actions):
    return np.array([env.reset(seed), *(env.step(action).obs for action in actions)])


def test_a_seed_and_the_actions_lead_back():
    actions = np.random.default_rng(0).uniform(-1, 1, (200, 2))
    one, other = Maze2d(MAZES["large"], "a"), Maze2d(MAZES["large"], "b")
    replay(other, 5, actions[:17])
    assert replay(one, 3, actions).tobytes() == replay(other, 3, actions).tobytes()


@pytest.mark.slow
def test_d4rl_references_hold():
    """Its script keeps the waypoints of the first episode; the mean of 100 has a standard error of about 7 points."""
    for name, maze in MAZES.items():
        env, act, returns = Maze2d(maze, name), planner(maze, 0.0, True), []
        for seed in range(100):
            obs, rng, total, timeout = env.reset(seed), np.random.default_rng(seed), 0.0, False
            while not timeout:
                obs, reward, _, timeout, _ = env.step(act(obs, rng))
                total += reward
            returns.append(total)
        assert abs(maze.reference.score(float(np.mean(returns))) - 100) < 14, name


# ------------------------------------------------------------------------------------------------------------- the data


def test_rows_of_the_planner():
    counted = []
    data = maze2d.roll_out("umaze", 1500, lambda done, total: counted.append((done, total)))
    assert counted == [(1000, 1500), (1500, 1500)]
    assert data.name == "segue/maze2d/umaze-v0"
    assert data.lengths.tolist() == [300] * 5
    assert not data.terminal.any()
    near = np.hypot(*(data.next_obs[:, :2].astype(np.float64) - MAZES["umaze"].goal).T) <= 0.5
    assert data.reward.tolist() == near.astype(float).tolist()
    assert 0 < data.reward.mean() < 0.5
    assert (data.action * 4096 == np.rint(data.action * 4096)).all()
    env = Maze2d(MAZES["umaze"], "maze2d-umaze")
    for row in range(0, 1500, 50):  # the observation is the whole state
        at(env, *data.obs[row].tolist())
        assert env.step(data.action[row]).obs.tolist() == data.next_obs[row].tolist()
    assert maze2d.roll_out("umaze", 1500).hash == data.hash
    assert "transforms" not in data.info


@pytest.mark.parametrize("name", ["maze2d-umaze", "maze2d-medium", "maze2d-large", "maze2d-large-missing-data"])
def test_tasks_of_the_family(name, monkeypatch, tmp_path):
    monkeypatch.setenv("SEGUE_CACHE", str(tmp_path))
    monkeypatch.setattr(maze2d, "ROWS", 3000)
    task = tasks.get(name)
    assert name in tasks.names()
    assert (task.family, task.replayable, task.horizon) == ("maze2d", True, {"u": 300, "m": 600, "l": 800}[name[7]])
    env = task.make_env()
    assert (env.obs_dim, env.act_dim, env.horizon) == (task.obs_dim, task.act_dim, task.horizon)
    obs = jnp.zeros((3, 4))
    assert task.terminates(obs, obs[:, :2], obs).tolist() == [False] * 3
    data = task.dataset
    assert data.size == 3000 or name.endswith("missing-data")
    assert data.name == f"segue/maze2d/{name.removeprefix('maze2d-')}-v0"
    assert tasks.get(name).dataset.hash == data.hash  # from the cache
    if name.endswith("missing-data"):
        place = data.obs[:, :2].astype(np.float64)
        for x, y, radius in ((7, 9, 1.5), (1, 10, 1.5), (1, 1, 2.0)):
            assert (np.hypot(place[:, 0] - x, place[:, 1] - y) > radius).all()
        assert data.reward.sum() == 0
        (record,) = data.info["transforms"]
        assert record["dropped"] == 3000 - data.size > 0
        tasks.write_npz(data, tmp_path / "a.npz")
        assert tasks.read(tmp_path / "a.npz").info["transforms"] == [record]
        tasks.write_npz(tasks.get("maze2d-large").dataset, tmp_path / "whole.npz")
        for file in ("whole.npz", "a.npz"):  # a file's regions go too, once
            rows = tasks.get(name, dataset=tmp_path / file).dataset
            np.testing.assert_array_equal(rows.obs, data.obs)
            assert rows.info["transforms"] == [record]


def test_d4rl_files_pay_for_the_step(tmp_path):
    data = maze2d.roll_out("umaze", 900)
    here = np.hypot(*(data.obs[:, :2].astype(np.float64) - MAZES["umaze"].goal).T) <= 0.5
    np.savez(
        tmp_path / "d4rl.npz",
        observations=data.obs, actions=data.action, rewards=here, terminals=data.terminal, timeouts=data.timeout,
    )  # fmt: skip
    read = tasks.get("maze2d-umaze", dataset=tmp_path / "d4rl.npz").dataset
    kept = np.flatnonzero(~data.timeout)  # the last rows lead to observations that are not in the file
    assert read.reward.tolist() == data.reward[kept].tolist()
    assert read.next_obs.tolist() == data.next_obs[kept].tolist()
    assert here[kept].sum() != read.reward.sum() > 0
    tasks.write_npz(data, tmp_path / "own.npz")
    assert tasks.get("maze2d-umaze", dataset=tmp_path / "own.npz").dataset.hash == data.hash


# ------------------------------------------------------------------------------------------------------------ pointmaze


@pytest.fixture(scope="module")
def robotics():
    pytest.importorskip("gymnasium_robotics")


def test_pointmaze_has_one_goal(robotics):
    maze = pointmaze.MAZES["umaze"]
    env = tasks.get("pointmaze-umaze").make_env()
    assert (env.obs_dim, env.act_dim, env.horizon) == (4, 2, 300)
    cells, rng = set(), np.random.default_rng(0)
    for seed in range(40):
        obs = env.reset(seed)
        cells.add(maze.frame.cell(*obs[:2].tolist()))
        result = env.step(rng.uniform(-1, 1, 2))
        assert result.reward == (math.dist(result.obs[:2], (-1.0, 1.0)) <= 0.45)
        assert not result.terminal
    assert cells == set(mazes.layout("umaze").free)
    obs, act, total = env.reset(0), pointmaze.planner(maze, 0.0, True), 0.0
    for t in range(300):
        result = env.step(act(obs, rng))
        obs, total = result.obs, total + result.reward
        assert result.timeout == (t == 299)
    assert result.info["episode"] == {"success": 1.0}
    assert 100 < total < 300
    env.close()


def test_pointmaze_leads_back(robotics):
    actions = np.random.default_rng(0).uniform(-1, 1, (150, 2))
    one, other = (tasks.get("pointmaze-medium").make_env() for _ in range(2))
    replay(other, 5, actions[:17])
    assert replay(one, 3, actions).tobytes() == replay(other, 3, actions).tobytes()


def test_rows_of_pointmaze(robotics):
    data = pointmaze.roll_out("umaze", 900)
    assert data.lengths.tolist() == [300] * 3
    near = np.hypot(*(data.next_obs[:, :2].astype(np.float64) - (-1.0, 1.0)).T) <= 0.45
    assert data.reward.tolist() == near.astype(float).tolist()
    assert data.info["gymnasium-robotics"]
    assert pointmaze.roll_out("umaze", 900).hash == data.hash


def test_pointmaze_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    with pytest.raises(ConfigError, match=r"pip install 'segue\[robotics\]'"):
        tasks.get("pointmaze-umaze").make_env()


# ------------------------------------------------------------------------------------------------------------- pictures


def test_coverage_counts_every_row_over_the_walls():
    data = filters.apply(maze2d.roll_out("large", 4000), [filters.NAMED["maze2d-large-missing-data"]])
    under = pictures.ground("maze2d-large-missing-data")
    axes = pictures.coverage(data, under).axes[0]
    walls, mesh = axes.collections
    assert len(walls.get_paths()) == mazes.layout("large").walls.sum()
    assert mesh.get_array().sum() == data.size
    assert [round(float(circle.radius), 2) for circle in axes.patches] == [1.5, 1.5, 2.0, 0.5]
    assert axes.get_xlim() == pytest.approx((-0.7, 8.3))
    assert axes.get_ylim() == pytest.approx((-0.7, 11.3))
    assert axes.get_title() == f"{data.name}: {data.size:,} rows"


def test_goals_that_are_drawn_are_outlined_with_their_reach():
    """Antmaze's lie in a square of 1 + 0.5 from the cell's centre; a goal of (33.5, 25.5) is reached at (34, 25.5)."""
    rng = np.random.default_rng(0)
    obs = np.float32([[0, 0], [35, 24], [-7, 0], [0, 900]])
    columns = {"obs": obs, "action": rng.uniform(-1, 1, (4, 8)), "reward": np.zeros(4), "next_obs": obs}
    data = dataset_from_arrays({**columns, "terminal": np.ones(4, bool)}, "a")
    axes = pictures.coverage(data, pictures.ground("antmaze-large-play")).axes[0]
    assert axes.get_title() == "a: 4 rows,\n2 of them outside the maze"
    assert axes.collections[1].get_array().sum() == 2
    reach, square = axes.patches
    assert square.get_bbox().extents.tolist() == [32, 24, 33.5, 25.5]
    assert reach.get_path().get_extents().extents.tolist() == pytest.approx([31.5, 23.5, 34, 26])
    assert [text.get_text() for text in axes.texts] == ["goals"]


def test_a_picture_without_a_row_says_so(tmp_path):
    far = {column: np.full((3, 2), 99.0) for column in ("obs", "next_obs")}
    columns = {**far, "action": np.zeros((3, 2)), "reward": np.zeros(3), "terminal": [False, False, True]}
    figure = pictures.coverage(dataset_from_arrays(columns, "far"), pictures.ground("maze2d-umaze"))
    assert figure.axes[0].get_title() == "far: 3 rows,\n3 of them outside the maze"
    pictures.save(figure, tmp_path / "far.png")


def test_positions_lie_off_the_walls_of_their_ground():
    data = maze2d.roll_out("medium", 2000)
    under = pictures.ground("maze2d-medium")
    assert all(under.layout.is_free(under.frame.cell(x, y)) for x, y in data.obs[:, :2].tolist())
    assert under.layout.is_free(under.frame.cell(*under.goal))
    assert pictures.ground("antmaze-large-play").goal == (32.0, 24.0)
    assert pictures.ground("pointmaze-large").goal == (3.5, -3.0)
    assert pictures.ground("point-wall") is None
    assert pictures.ground("kitchen-large") is None


def test_histograms_hold_every_episode():
    data = point_wall.detours("point-wall", 0.05)
    left, right = pictures.histograms(data).axes
    assert sum(bar.get_height() for bar in left.patches) == sum(bar.get_height() for bar in right.patches) == 100
    assert [bar.get_height() for bar in right.patches] == np.bincount(data.lengths)[data.lengths.min() :].tolist()
    assert left.get_title() == "100 episodes, mean 1"


def test_pictures_are_written(tmp_path):
    data = point_wall.detours("point-wall", 0.05)
    drawn = {"png": (pictures.overview(data), b"\x89PNG")}
    drawn |= {kind: (pictures.histograms(data), start) for kind, start in (("pdf", b"%PDF"), ("svg", b"<?xml"))}
    for kind, (figure, start) in drawn.items():
        pictures.save(figure, tmp_path / f"a.{kind}")
        assert (tmp_path / f"a.{kind}").read_bytes().startswith(start)
    with pytest.raises(DataError, match=r"a\.gif: a picture ends in \.png, \.pdf, \.svg"):
        pictures.save(pictures.histograms(data), tmp_path / "a.gif")
    with pytest.raises(DataError, match="observations have 2 entries"):
        pictures.coverage(data, dims=(0, 2))
