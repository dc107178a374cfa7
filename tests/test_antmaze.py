"""AntMaze: the steered ant's symmetries on the simulator, the task on two bodies, its data."""

import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from segue import tasks
from segue.errors import ConfigError, DataError
from segue.tasks import ant, antmaze, locomotion, mazes
from segue.tasks.environment import Environment

mujoco = pytest.importorskip("mujoco")

BODIES = list(antmaze.BODIES)


def body(name):
    if name == "ogbench":
        pytest.importorskip("ogbench")
    return antmaze.BODIES[name]


def plain(name):
    """The body's model on a plane without walls."""
    text = antmaze.described(body(name), mazes.Layout("plain", np.zeros((3, 3), bool)))
    return mujoco.MjModel.from_xml_string(text)


def net(seed, gain=0.3):
    """A small random policy of 27 observations and 8 actions."""
    rng = np.random.default_rng(seed)
    return [(gain * rng.normal(size=(n, m)), gain * rng.normal(size=m)) for n, m in ((27, 16), (16, 16), (16, 16))]


def random_state(rng, height):
    """qpos [15], qvel [14] of an ant at (0, 0), tilted, in any yaw, legs about their usual angles."""
    half = rng.uniform(-math.pi, math.pi) / 2
    orientation = np.array([math.cos(half), 0.1, -0.05, math.sin(half)])
    legs = rng.uniform(-0.4, 0.4, 8) + np.array([0, 0.9, 0, -0.9, 0, -0.9, 0, 0.9])
    return np.concatenate(([0, 0, height], orientation / np.linalg.norm(orientation), legs)), rng.normal(size=14) / 2


# --- the ant's symmetries


@pytest.mark.parametrize("name", BODIES)
def test_quarter_turns_by_hand(name):
    turns = ant.quarter_turns(plain(name))
    assert [turn.k for turn in turns] == [0, 1, 2, 3]
    ankles = np.array([1, -1, -1, 1])  # of legs 1 to 4: whether a positive angle bends the leg down
    for k, turn in enumerate(turns):
        legs = (np.arange(4) + k) % 4  # the leg in the place of leg n is n + k
        assert turn.joints.tolist() == np.stack([2 * legs, 2 * legs + 1], 1).ravel().tolist()
        assert turn.signs.tolist() == np.stack([np.ones(4), ankles * ankles[legs]], 1).ravel().tolist()
        assert turn.motors.tolist() == turn.joints.tolist()  # motors 4, 1, 2, 3 follow one another around too
        order = np.array([3, 0, 1, 2])
        assert turn.motor_signs.tolist() == np.stack([np.ones(4), (ankles * ankles[legs])[order]], 1).ravel().tolist()


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize(("height", "contacts"), [(9.0, False), (0.45, True)])
def test_twins_stay_twins_in_the_simulator(name, height, contacts):
    """A turned and relabelled ant under mapped actions moves as the mapped ant: to rounding, on the ground too."""
    model, rng = plain(name), np.random.default_rng(1)
    data = mujoco.MjData(model)

    def run(qpos, qvel, actions):
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.qvel[:] = qpos, qvel
        mujoco.mj_forward(model, data)
        rows, touched = [], 0
        for action in actions:
            data.ctrl[:] = action
            mujoco.mj_step(model, data, nstep=antmaze.FRAMES)
            rows.append(np.concatenate((data.qpos[2:], data.qvel)))
            touched += data.ncon
        return np.array(rows), touched

    for heading in (0.0, 0.7, -2.0):
        qpos, qvel = random_state(rng, height)
        actions = rng.uniform(-1, 1, (6, 8))
        rows, touched = run(qpos, qvel, actions)
        assert (touched > 0) == contacts
        for turn in ant.quarter_turns(model):
            mapped = lambda obs: turn.observation(ant.facing(obs, heading))
            first = mapped(np.concatenate((qpos[2:], qvel)))
            theirs = turn.motor_signs * actions[:, turn.motors]
            np.testing.assert_array_equal([turn.action(action) for action in theirs], actions)
            got, _ = run(np.concatenate(([0, 0], first[:13])), first[13:], theirs)
            wanted = np.array([mapped(obs) for obs in rows])
            same = np.sign((got[:, 1:5] * wanted[:, 1:5]).sum(1, keepdims=True))
            got[:, 1:5] *= same  # q and -q are one orientation
            np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-9)


def test_an_observation_faces_a_heading_by_hand():
    obs = np.arange(27, dtype=np.float32)
    half = math.radians(60) / 2
    obs[1:5] = [math.cos(half), 0, 0, math.sin(half)]  # yaw 60 degrees
    obs[13:16] = [0, 2, 3]  # runs along +y
    assert ant.yaw(obs[1:5]) == pytest.approx(math.radians(60), abs=1e-6)
    seen = ant.facing(obs, math.radians(90))
    assert ant.yaw(seen[1:5]) == pytest.approx(math.radians(-30), abs=1e-6)
    np.testing.assert_allclose(seen[13:16], [2, 0, 3], atol=1e-12)
    np.testing.assert_array_equal(np.delete(seen, [1, 2, 3, 4, 13, 14]), np.delete(obs, [1, 2, 3, 4, 13, 14]))
    turned = ant.quarter_turns(plain("gymnasium"))[1].observation(obs)
    assert ant.yaw(turned[1:5]) == pytest.approx(math.radians(150), abs=1e-6)
    np.testing.assert_allclose(turned[5:13], [7, -8, 9, 10, 11, -12, 5, 6])  # leg 2 in the place of leg 1, and so on
    np.testing.assert_allclose(turned[16:19], [17, -16, 18])  # about new axes: x' is the old y
    np.testing.assert_allclose(turned[19:27], [21, -22, 23, 24, 25, -26, 19, 20])


def test_steering_is_the_policy_itself_along_x_and_equal_on_twins():
    model = plain("gymnasium")
    steered, policy, rng = ant.Steered(net(0), model), net(0), np.random.default_rng(2)
    qpos, qvel = random_state(rng, 0.6)
    obs = np.concatenate((qpos[2:], qvel))
    for yaw in (-0.7, 0.0, 0.7):  # within 45 degrees of +x
        obs[1:5] = [math.cos(yaw / 2), 0, 0, math.sin(yaw / 2)]
        np.testing.assert_allclose(steered(obs, 0.0), locomotion.act(policy, obs, np.zeros(8)), atol=1e-12)
        other = obs.copy()
        other[1:5] *= -1  # the same orientation
        np.testing.assert_allclose(steered(other, 0.0), steered(obs, 0.0))
    action = steered(obs, 0.3)
    assert np.abs(action - steered(obs, 1.0)).max() > 0.01
    for by in (0.4, 2.0, -3.0):
        np.testing.assert_allclose(steered(ant.facing(obs, -by), 0.3 + by), action, atol=1e-12)
    for turn in ant.quarter_turns(model):
        np.testing.assert_allclose(turn.action(steered(turn.observation(obs), 0.3)), action, atol=1e-12)


def test_the_trained_ant_goes_where_it_is_sent():
    """It drifts to its left, which its reward let it, and may fall; none goes more across than along."""
    env = antmaze.AntMaze("large", starts=((3, 3),))
    path = locomotion.BODIES["ant"].behaviours
    steered = ant.Steered(locomotion.read_behaviours(path, 27, 8).levels["expert"], plain("gymnasium"))
    env.model = plain("gymnasium")
    env.data = mujoco.MjData(env.model)
    ways = []
    for i in range(8):
        heading = i * math.pi / 4 + 0.2
        first, _ = env.reset(seed=i)
        obs = first
        for _ in range(100):
            obs, *_ = env.step(steered(obs[2:], heading))
        x, y = obs[:2] - first[:2]
        ways.append((x * math.cos(heading) + y * math.sin(heading), y * math.cos(heading) - x * math.sin(heading)))
    along, aside = np.array(ways).T
    assert np.median(along) > 5
    assert (along > 3).all()
    assert (np.abs(aside) < along).all()


# --- the task


def rolled(env, seed, actions):
    return np.array([env.reset(seed), *(env.step(action).obs for action in actions)])


def test_a_recording_is_cut_where_the_ant_has_lain_on_its_back_and_the_task_is_not():
    for on_its_back, ends in ((None, [False] * 5), (3, [False, False, True])):
        env = antmaze.AntMaze("umaze", on_its_back=on_its_back)
        env.reset(seed=0)
        assert not env.step(np.zeros(8))[3]  # upright
        env.data.qpos[2:7] = 0.4, 0.0, 1.0, 0.0, 0.0
        env.data.qvel[:] = 0
        cuts = []
        for _ in ends:
            _, _, terminal, cut, info = env.step(np.zeros(8))
            assert not terminal
            assert ("episode" in info) == cut
            cuts.append(cut)
        assert cuts == ends


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize(
    ("maze", "goal", "limit"), [("umaze", (0, 8), 700), ("medium", (20, 20), 1000), ("large", (32, 24), 1000)]
)
def test_task(name, maze, goal, limit):
    body(name)
    task = tasks.get(f"antmaze-{maze}" + ("-ogbench" if name == "ogbench" else ""))
    env = task.make_env()
    assert (env.obs_dim, env.act_dim, env.horizon) == (task.obs_dim, task.act_dim, task.horizon) == (29, 8, limit)
    assert (task.load_dataset, task.terminates, task.family) == (None, None, "antmaze")
    assert [task.score(r, r) for r in (0.0, 1.0)] == [0, 100]
    actions = np.random.default_rng(0).uniform(-1, 1, (8, 8))
    first = rolled(env, 4, actions)
    np.testing.assert_array_equal(rolled(env, 4, actions), first)  # replayable, to the last bit
    assert (rolled(env, 5, actions)[0] != first[0]).all()
    simulator = env._env
    assert simulator.model.opt.timestep * antmaze.FRAMES == pytest.approx(0.1 if name == "ogbench" else 0.05)
    starts, goals = [], []
    for seed in range(60):
        starts.append(simulator.reset(seed=seed)[0])
        goals.append(simulator.goal - goal)
    starts, goals = np.array(starts), np.array(goals)
    rest = [0, 0, 0.75, 1, *[0] * 11]
    assert 0.08 < np.abs(starts[:, :15] - rest).max() <= 0.1
    assert np.std(starts[:, 15:]) == pytest.approx(0.1, rel=0.1)
    assert goals.min() >= 0
    assert 1.2 < goals.max() <= 1.5
    assert goals.mean() == pytest.approx(0.75, abs=0.1)


def test_walls_are_where_d4rl_has_them():
    model = antmaze.AntMaze("large").model
    boxes = np.flatnonzero(model.geom_type == int(mujoco.mjtGeom.mjGEOM_BOX))
    places = {tuple(xy) for xy in model.geom_pos[boxes, :2].tolist()}
    walls = mazes.layout("large").walls
    assert len(boxes) == walls.sum()
    assert places == {(4.0 * (column - 1), 4.0 * (row - 1)) for row, column in np.argwhere(walls).tolist()}
    assert (model.geom_size[boxes] == [2, 2, 1]).all()
    assert (model.geom_pos[boxes, 2] == 1).all()


def test_reward_and_ends():
    simulator = antmaze.AntMaze("umaze")
    env = Environment(simulator, "antmaze-umaze")

    def step_at(distance):
        env.reset(0)
        qpos = simulator.data.qpos.copy()
        qpos[:2] = simulator.goal + np.array([distance, 0])
        simulator.data.qpos[:], simulator.data.qvel[:] = qpos, 0
        mujoco.mj_forward(simulator.model, simulator.data)
        return env.step(np.zeros(8))

    inside, outside = step_at(0.49), step_at(0.51)
    assert (inside.reward, inside.terminal, inside.timeout) == (1, True, False)
    assert inside.info["episode"]["success"] == 1
    assert inside.info["episode"]["distance"] == pytest.approx(0.49, abs=0.01)
    assert (outside.reward, outside.terminal, outside.timeout) == (0, False, False)
    assert "episode" not in outside.info
    short = Environment(antmaze.AntMaze("umaze", limit=3), "short")
    short.reset(0)
    steps = [short.step(np.zeros(8)) for _ in range(3)]
    assert [s.timeout for s in steps] == [False, False, True]
    x, y = steps[-1].obs[:2]
    assert steps[-1].info["episode"]["success"] == 0
    assert steps[-1].info["episode"]["distance"] == pytest.approx(math.dist((x, y), short._env.goal))


def test_gymnasium_robotics_moves_the_same_ant():
    """The same states and actions in its maze (rows reversed, so that y grows with the row; centred) and in ours."""
    pytest.importorskip("gymnasium_robotics")
    from gymnasium_robotics.envs.maze.ant_maze_v4 import AntMazeEnv

    ours = antmaze.AntMaze("umaze")
    theirs = AntMazeEnv(maze_map=ours_map("umaze")[::-1], continuing_task=False)
    theirs.reset(seed=0)
    first, _ = ours.reset(seed=0)
    offset = np.array([4.0, 4.0])  # its (0, 0) is the middle cell's centre, ours the start's
    corner = first[:15].copy()
    corner[:2] -= 1.1  # two legs at the walls
    ours.data.qpos[:] = corner
    mujoco.mj_forward(ours.model, ours.data)
    theirs.ant_env.set_state(np.concatenate((corner[:2] - offset, corner[2:])), first[15:])
    touched = 0
    for action in np.random.default_rng(0).uniform(-1, 1, (40, 8)).astype(np.float32):
        mine = ours.step(action)[0]
        other = theirs.step(action)[0]
        touched += any(
            ours.model.geom_type[g] == int(mujoco.mjtGeom.mjGEOM_BOX) for g in ours.data.contact.geom.ravel()
        )
        np.testing.assert_allclose(mine[2:], other["observation"], atol=1e-6)
        np.testing.assert_allclose(mine[:2], other["achieved_goal"] + offset, atol=1e-6)
    assert touched > 0
    theirs.close()


def ours_map(name):
    return [[int(wall) for wall in row] for row in mazes.layout(name).walls]


def test_ogbench_moves_the_same_ant():
    pytest.importorskip("ogbench")
    from ogbench.locomaze.maze import make_maze_env

    ours = antmaze.AntMaze("medium", antmaze.BODIES["ogbench"])
    theirs = make_maze_env("ant", "maze", maze_type="medium")
    np.testing.assert_array_equal(theirs.maze_map, mazes.layout("medium").walls)
    assert theirs.ij_to_xy((6, 6)) == antmaze.FRAME.xy((6, 6))
    theirs.reset()
    first, _ = ours.reset(seed=0)
    ours.data.qpos[:2] -= 1.1  # two legs at the walls
    mujoco.mj_forward(ours.model, ours.data)
    theirs.set_state(ours.data.qpos.copy(), first[15:])
    for action in np.random.default_rng(0).uniform(-1, 1, (40, 8)).astype(np.float32):
        np.testing.assert_allclose(ours.step(action)[0], theirs.step(action)[0], atol=1e-9)


def test_what_is_missing_is_named(monkeypatch):
    with monkeypatch.context() as m:
        m.setitem(sys.modules, "mujoco", None)
        with pytest.raises(ConfigError, match=r"antmaze needs MuJoCo: pip install 'segue\[mujoco\]'"):
            tasks.get("antmaze-umaze").make_env()
    absent = replace(antmaze.BODIES["ogbench"], package="ogbench_that_is_not_there")
    with pytest.raises(ConfigError, match=r"ogbench_that_is_not_there's .*ant.xml: pip install 'segue\[ogbench\]'"):
        antmaze.AntMaze("umaze", absent)


# --- the walker and its data


class Standing:
    """What a walker needs of an environment."""

    goal = np.array([0.6, 8.9])  # in the U maze's goal cell


def walker(targets, maze="umaze"):
    return antmaze.Walker(Standing(), mazes.layout(maze), targets, lambda _, heading: np.full(8, heading))


def test_walker_aims_along_the_way():
    rng = np.random.default_rng(0)
    walks = walker(((3, 1),))
    assert walks.aim(0.0, 0.0, rng) == (4, 0)  # (1, 1) is near: on to (1, 2)
    assert walks.aim(2.4, 0.0, rng) == (4, 0)
    assert walks.aim(2.6, 0.0, rng) == (8, 0)  # within 1.5 of (1, 2): on to (1, 3)
    assert walks.aim(7.0, 0.5, rng) == (8, 4)
    assert walks.aim(8.0, 3.0, rng) == (8, 8)
    assert walks.aim(5.9, 1.0, rng) == (8, 0)  # driven back by more than a cell: a new way
    for x, y in ((7.0, 0.0), (8.0, 3.0), (8.0, 7.0), (4.5, 8.0)):
        aim = walks.aim(x, y, rng)
    assert aim == (0.6, 8.9)  # the goal itself, to the end
    assert walks.aim(0.6, 8.5, rng) == (0.6, 8.9)


@pytest.mark.parametrize("maze", list(antmaze.LIMITS))
def test_ways_lead_to_the_goal_and_keep_clear_of_walls(maze):
    """A point that moves 0.19 units a step, the ant's pace; its legs reach 0.9."""
    layout, goal_cell = mazes.layout(maze), mazes.GOALS[maze]
    walls = np.array([antmaze.FRAME.xy((row, column)) for row, column in np.argwhere(layout.walls).tolist()])
    goal = np.array(antmaze.FRAME.xy(goal_cell)) + 0.75
    for cell in (cell for cell in layout.free if len(layout.neighbours(cell)) == 1 and cell != goal_cell):
        walks, (x, y), steps = walker((goal_cell,), maze), antmaze.FRAME.xy(cell), 0
        walks._env.goal = goal
        walks._target, walks._next = goal_cell, cell
        while math.dist((x, y), goal) > antmaze.RADIUS:
            aim_x, aim_y = walks.aim(x, y, np.random.default_rng(0))
            angle = math.atan2(aim_y - y, aim_x - x)
            x, y, steps = x + 0.19 * math.cos(angle), y + 0.19 * math.sin(angle), steps + 1
            assert np.linalg.norm(np.maximum(np.abs(walls - [x, y]) - antmaze.CELL / 2, 0), axis=1).min() > 0.9
            assert steps <= (4 * len(layout.way(cell, goal_cell)) + 2) / 0.19


def test_walker_draws_a_new_target_on_arrival():
    rng = np.random.default_rng(0)
    walks = walker(((1, 1), (1, 3)))
    assert walks.aim(0.0, 0.0, rng) == (4, 0)  # the target is not where it stands
    assert walks.aim(4.0, 0.0, rng) == (8, 0)
    assert walks.aim(6.0, 0.0, rng) == (8, 0)
    assert walks.aim(6.6, 0.0, rng) == (4, 0)  # arrived; back to (1, 1)
    assert walks.aim(3.0, 0.0, rng) == (0, 0)


def test_a_stalled_walker_goes_another_way_for_20_steps():
    rng = np.random.default_rng(0)
    walks = walker(((1, 3),))
    obs = np.zeros(29, np.float32)
    obs[0] = 2.0
    headings = [walks(obs, rng).mean() for _ in range(60)]
    noise = 0.2 / math.sqrt(8)
    assert np.mean(headings[:20]) == pytest.approx(0, abs=4 * noise / math.sqrt(20))
    second, third = np.mean(headings[20:40]), np.mean(headings[40:])
    assert abs(second) > 0.2
    assert abs(third - second) > 0.2
    assert np.abs(np.array(headings[20:40]) - second).max() < 4 * noise
    assert max(abs(second), abs(third)) < antmaze.DETOUR
    after = []
    for step in range(40):
        obs[0] = 2.0 + 0.03 * step
        after.append(walks(obs, rng).mean())
    assert abs(np.mean(after[:20])) > 0.05  # the detour that began while it stood
    assert np.abs(after[20:]).max() < 5 * noise
    moving = walker(((1, 3),))
    for step in range(60):
        obs[0] = -1 + 0.03 * step  # 0.6 in 20 steps
        assert abs(moving(obs, rng).mean()) < 5 * noise


@pytest.fixture
def behaviours(tmp_path, monkeypatch):
    """A file of a small random ant."""
    monkeypatch.setenv("SEGUE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "ant.safetensors"
    parts = {
        f"expert/layer{i}/{part}": array.astype(np.float16)
        for i, layer in enumerate(net(0))
        for part, array in zip(("weight", "bias"), layer, strict=True)
    }
    save_file(parts, path, metadata={"record": json.dumps({"trained": 5})})
    monkeypatch.setattr(locomotion.Body, "behaviours", property(lambda body: tmp_path / f"{body.name}.safetensors"))
    return path


def test_data(behaviours, monkeypatch):
    monkeypatch.setattr(antmaze, "EPISODE", 50)
    data = antmaze.roll_out("umaze", "diverse", 160)
    assert data.name == "segue/antmaze/umaze-diverse-v0"
    assert (data.size, data.obs_dim, data.act_dim) == (160, 29, 8)
    assert antmaze.roll_out("umaze", "diverse", 160).hash == data.hash
    assert data.info["record"] == {"trained": 5}
    assert data.info["mujoco"]
    play = antmaze.roll_out("umaze", "play", 160)
    assert play.hash != data.hash
    free, chosen = mazes.layout("umaze").free, antmaze.PLAY["umaze"]
    for rows, cells in ((data, free), (play, chosen)):
        assert rows.lengths.max() <= 50
        for x, y in rows.obs[rows.starts, :2].tolist():
            assert antmaze.FRAME.cell(x, y) in cells
            assert np.abs((x / 4) - round(x / 4)) <= 0.1 / 4 + 1e-6
    assert (data.reward == data.terminal).all()
    assert np.abs(data.action).max() < 1
    cached = antmaze.cached("umaze", "diverse", 160)
    assert cached.hash == data.hash
    with pytest.raises(ConfigError, match="did you mean 'diverse'"):
        antmaze.roll_out("umaze", "divers", 160)
    save_file({"medium/layer0/bias": np.zeros(3, np.float16)}, behaviours)
    with pytest.raises(DataError, match=r"ant\.safetensors"):
        antmaze.roll_out("umaze", "diverse", 160)


@pytest.mark.parametrize("flagged", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_files_of_d4rl_that_go_on_behind_the_goal(tmp_path, flagged, given):
    """Three recordings of 6 rows: the first is in the goal at rows 2 to 4 and goes on, the second never, the third at
    its last two rows. `flagged`: a terminal at each paid row.
    """
    obs = np.zeros((18, 29), np.float32)
    obs[:, 0] = np.tile(0.3 * np.arange(6), 3) + np.repeat([0.0, 8.0, 0.0], 6)
    reward = np.isin(np.arange(18), (2, 3, 4, 16, 17)).astype(np.float32)
    timeout = np.arange(18) % 6 == 5
    next_obs = np.append(obs[1:], obs[:1], axis=0)
    next_obs[timeout] = obs[timeout] + 0.3
    columns = {"observations": obs, "actions": np.zeros((18, 8)), "rewards": reward, "timeouts": timeout}
    columns |= {"terminals": (reward if flagged else 0 * reward).astype(bool)}
    np.savez(tmp_path / "a.npz", **columns, **({"next_observations": next_obs} if given else {}))
    task = tasks.get("antmaze-umaze-ogbench", dataset=tmp_path / "a.npz")
    data = task.dataset
    assert data.lengths.tolist() == [3, 6 if given else 5, 5]  # without next observations a cut takes a row
    assert data.returns.tolist() == [1, 0, 1]
    assert data.terminal.tolist() == (data.reward == 1).tolist()
    assert task.reference.scores(data).tolist() == [100, 0, 100]
    assert sum(x.get("rows", 0) for x in data.info["transforms"] if x["kind"] == "rows_dropped") == 18 - data.size
    tasks.write(data, tmp_path / "b.hdf5")
    assert tasks.get("antmaze-umaze-ogbench", dataset=tmp_path / "b.hdf5").dataset.info == data.info


def test_a_rate_is_of_episodes_not_of_returns(tmp_path):
    paid = {
        "obs": np.zeros((6, 2)),
        "action": np.zeros((6, 2)),
        "reward": [0, 1, 1, 1, 0, 0],
        "next_obs": np.zeros((6, 2)),
    }
    np.savez(tmp_path / "a.npz", **paid, terminal=np.zeros(6, bool), timeout=[0, 0, 0, 1, 0, 1])
    task = tasks.get("point-wall", dataset=tmp_path / "a.npz")
    assert task.reference.scores(task.dataset).tolist() == [100, 0]


def test_chosen_cells_are_free_and_hold_start_and_goal():
    for maze, cells in antmaze.PLAY.items():
        assert set(cells) <= set(mazes.layout(maze).free)
        assert {mazes.START, mazes.GOALS[maze]} <= set(cells)


def test_goal_missing(behaviours, monkeypatch, tmp_path):
    data = antmaze.roll_out("large", "diverse", 40)
    obs = data.obs.copy()
    obs[10:15, :2] = [[32, 24], [34.4, 24], [34.6, 24], [32, 21.6], [30, 22]]
    monkeypatch.setattr(antmaze, "cached", lambda *_, **__: replace(data, obs=obs))
    kept = tasks.get("antmaze-large-goal-missing").dataset
    assert kept.name == "segue/antmaze/large-goal-missing-v0"
    dropped = ((obs[:, :2].astype(float) - [32, 24]) ** 2).sum(1) <= 2.5**2
    assert dropped[10:15].tolist() == [True, True, False, True, False]
    np.testing.assert_array_equal(kept.obs, obs[~dropped])
    tasks.write_npz(replace(data, obs=obs), tmp_path / "whole.npz")
    of_file = tasks.get("antmaze-large-goal-missing", dataset=tmp_path / "whole.npz").dataset
    np.testing.assert_array_equal(of_file.obs, kept.obs)
    assert of_file.info["transforms"] == kept.info["transforms"]


def test_catalogue(behaviours):
    names = [name for name in tasks.names() if name.startswith("antmaze")]
    for maze in ("umaze", "medium", "large"):
        assert {f"antmaze-{maze}{end}" for end in ("", "-play", "-diverse", "-ogbench")} <= set(names)
    assert len(names) == 13
    assert "antmaze-large-goal-missing" in names
    assert tasks.get("antmaze-medium-play").load_dataset is not None
    behaviours.unlink()
    names = [name for name in tasks.names() if name.startswith("antmaze")]
    assert len(names) == 6
    with pytest.raises(ConfigError, match="unknown task 'antmaze-medium-play'"):
        tasks.get("antmaze-medium-play")


@pytest.mark.slow
def test_the_trained_ant_reaches_the_goal():
    """30 episodes of play data in the U maze: from any corner to any, so a third or so head for the goal first."""
    data = antmaze.roll_out("umaze", "play", 20_000)
    assert data.terminal.sum() >= 10
    assert (data.returns[:-1] == data.terminal[data.starts[1:] - 1]).all()
