"""OGBench: rewards and ends of its single tasks, resets that follow from the seed, rows of the scripted arm."""

import sys

import numpy as np
import pytest

from segue import tasks
from segue.errors import ConfigError
from segue.tasks import ogbench

MADE = ("cube-single-play", "scene-play")


@pytest.fixture
def package(monkeypatch):
    utils = pytest.importorskip("ogbench.utils", reason="needs OGBench", exc_type=ImportError)

    def refuse(*_, **__):
        raise AssertionError("a download was asked for")

    monkeypatch.setattr(utils, "download_datasets", refuse)
    monkeypatch.setattr(utils.urllib.request, "urlopen", refuse)


def test_names_and_references():
    assert [name for name in ogbench.catalogue() if not name.startswith("ogbench-")] == list(MADE)
    assert len(ogbench.catalogue()) == 11
    for name in ogbench.catalogue():
        assert (tasks.get(name).load_dataset is not None) == (name in MADE)
    cube = tasks.get("cube-single-play")
    assert cube.score_name == "success rate"
    assert (cube.score(-200, 0.0), cube.score(-199, 1.0)) == (0, 100)
    giant = tasks.get("ogbench-humanoidmaze-giant")
    assert (giant.reference.minimum, giant.reference.solved) == (-4000, 0)
    assert tasks.get("scene-play").reference.solved == 0  # only with all its parts done


@pytest.mark.parametrize(
    "name",
    [
        "cube-single-play",
        "ogbench-antmaze-medium",
        "ogbench-pointmaze-large",
        pytest.param("scene-play", marks=pytest.mark.slow),
        pytest.param("ogbench-humanoidmaze-giant", marks=pytest.mark.slow),
    ],
)
def test_replays_are_equal_to_the_bit(package, name):
    task = tasks.get(name)
    actions = np.random.default_rng(0).uniform(-1, 1, (15, task.act_dim))
    before = np.random.get_state()[1].copy()
    runs = []
    for env, other in ((task.make_env(), 5), (task.make_env(), None)):
        assert (env.obs_dim, env.act_dim, env.horizon) == (task.obs_dim, task.act_dim, task.horizon)
        if other is not None:
            env.reset(other)
            for a in actions[:4]:
                env.step(-a)
        seen = [env.reset(3)]
        for a in actions:
            step = env.step(a)
            seen.append(np.append(step.obs, step.reward))
        runs.append(seen)
        assert not np.array_equal(env.reset(4), seen[0])
        env.close()
    for one, two in zip(*runs, strict=True):
        assert np.array_equal(one, two)
    assert np.array_equal(np.random.get_state()[1], before)  # NumPy's global stream is as it was


def test_the_cube_at_its_goal_pays_0_and_ends(package):
    task = tasks.get("cube-single-play")
    env = task.make_env()
    env.reset(0)
    arm = env._env._env.unwrapped
    assert arm._data.mocap_pos.tolist() == [list(ogbench.CUBE_GOAL)]
    assert env.step(np.zeros(5)).reward == -1
    arm._data.joint("object_joint_0").qpos[:3] = ogbench.CUBE_GOAL
    arm._data.joint("object_joint_0").qvel[:] = 0
    there = env.step(np.zeros(5)).obs
    step = env.step(np.zeros(5))
    assert (step.reward, step.terminal, step.info["episode"]) == (0, True, {"success": 1})
    assert task.terminates(there, None, None)
    env.close()


def test_mazes_end_at_their_goals(package):
    for name in ("ogbench-pointmaze-medium", "ogbench-antmaze-giant"):
        task = tasks.get(name)
        env = task.make_env()
        start = env.reset(0)
        assert not task.terminates(start, None, None)
        inner = env._env._env.unwrapped
        goal = ogbench.MAZE_GOALS[name.rpartition("-")[2]]
        assert tuple(inner.cur_goal_xy) == goal
        assert env.step(np.zeros(env.act_dim)).reward == -1
        inner.set_xy(np.array(goal) + 0.1)
        step = env.step(np.zeros(env.act_dim))
        assert (step.reward, step.terminal, step.info["episode"]) == (0, True, {"success": 1})
        env.close()
    near = np.array([[20.6, 20.79], [20.6, 20.81]])  # 1 away from (20, 20), and a little more
    assert tasks.get("ogbench-pointmaze-medium").terminates(near, None, None).tolist() == [True, False]


def test_cubes_are_paid_by_where_they_are(package):
    """Steps that start with the cube 0.039 and 0.041 from its goal, and at it."""
    place = ogbench.PLACES["cube-single-play"]
    xyz = np.array([[0.039, 0, 0], [0, 0.041, 0], [0, 0, 0]]) + ogbench.CUBE_GOAL
    qpos = np.zeros((3, 21))
    qpos[:, 14:17] = xyz
    reward, done = ogbench.paid(place, {"qpos": qpos})
    assert reward.tolist() == [0, -1, 0]
    assert done.tolist() == [True, False, True]
    obs = np.zeros((3, 28))
    obs[:, 19:22] = 10 * (xyz - [0.425, 0, 0])
    assert place.success(obs).tolist() == done.tolist()


def test_scenes_are_paid_by_the_parts_in_place(package):
    place = ogbench.PLACES["scene-play"]
    qpos, buttons = np.zeros((6, 25)), np.zeros((6, 2), int)
    qpos[:, 14:17] = ogbench.SCENE_GOAL  # all in place: drawer and window at 0, buttons in state 0
    qpos[1, 14] += 0.05
    buttons[2, 0] = buttons[3, 0] = buttons[3, 1] = 1
    qpos[4, 23], qpos[4, 24] = -0.041, 0.039  # the drawer alone
    qpos[5, 23], qpos[5, 24], buttons[5], qpos[5, 16] = -0.16, 0.2, 1, 0.2
    reward, done = ogbench.paid(place, {"qpos": qpos, "button_states": buttons})
    assert reward.tolist() == [0, -1, -1, -2, -1, -5]
    assert done.tolist() == [True, False, False, False, False, False]
    obs = np.zeros((6, 40))
    obs[:, 19:22] = 10 * (qpos[:, 14:17] - [0.425, 0, 0])
    obs[:, 28:30], obs[:, 32:34] = np.eye(2)[buttons[:, 0]], np.eye(2)[buttons[:, 1]]
    obs[:, 36], obs[:, 38] = 18 * qpos[:, 23], 15 * qpos[:, 24]
    assert place.success(obs).tolist() == done.tolist()


def test_rows_behind_the_first_in_the_goal_are_left_out(package, monkeypatch):
    """Two recordings of 8 rows. The first is in the goal at rows 2 to 4 and 7, the second at 0 and 1, and at 5."""
    monkeypatch.setattr(ogbench, "EPISODE", 8)
    inside = np.isin(np.arange(16), (2, 3, 4, 7, 8, 9, 13))
    monkeypatch.setattr(ogbench, "paid", lambda *_: (inside - np.float32(1), inside))
    data = ogbench.play("cube-single-play", 16)
    assert data.size == 13
    assert data.info["left_out"] == 3
    assert data.reward.tolist() == [-1, -1, 0, -1, -1, 0, 0, -1, -1, -1, 0, -1, -1]
    assert data.terminal.tolist() == [reward == 0 for reward in data.reward]
    assert data.lengths.tolist() == [3, 3, 1, 4, 2]
    assert np.flatnonzero(data.timeout).tolist() == [12]
    goes_on = (data.obs[1:] == data.next_obs[:-1]).all(1)
    assert np.flatnonzero(~goes_on).tolist() == [2, 5, 6]  # rows 3 and 4, the second recording, its row 1


def test_the_arm_plays_the_same_rows_again(package, monkeypatch, tmp_path):
    monkeypatch.setenv("SEGUE_CACHE", str(tmp_path))
    monkeypatch.setattr(ogbench, "ROWS", 65)
    monkeypatch.setattr(ogbench, "EPISODE", 40)
    counted = []
    data = tasks.make_dataset("cube-single-play", progress=lambda *at: counted.append(at))
    assert counted == [(65, 65)]
    assert data.name == "segue/ogbench/cube-single-play-v0"
    assert data.lengths.tolist() == [40, 25]
    assert data.reward.tolist() == [-1] * 65
    assert not data.terminal.any()
    assert np.array_equal(data.obs[1:40], data.next_obs[:39])
    assert not np.array_equal(data.obs[40], data.next_obs[39])
    # the planned hand moves: an arm that only trembled would stay within a centimetre
    assert np.ptp(data.obs[:40, 12:15], axis=0).max() > 0.5  # of 0.1 m
    again = ogbench.play("cube-single-play", 44)
    assert np.array_equal(again.next_obs, data.next_obs[:44])
    assert np.array_equal(again.action, data.action[:44])
    monkeypatch.setattr(ogbench, "play", None)  # the cache serves
    assert tasks.get("cube-single-play").dataset.hash == data.hash


@pytest.mark.slow
def test_the_arm_brings_cubes_to_their_aims(package):
    """Of its aims over 600 steps the arm reaches most: the cube ends within 0.04 m."""
    arm = ogbench.Play(ogbench.PLACES["scene-play"])
    rng = np.random.default_rng(0)
    obs, reached, aims = arm.reset(1), 0, 0
    for _ in range(600):
        oracle = arm._oracle
        done, success = oracle is not None and oracle.done, arm._gym.unwrapped._success
        if done:
            aims, reached = aims + 1, reached + success
        obs = arm.step(arm.act(obs, rng)).obs
    arm.close()
    assert aims >= 5
    assert reached / aims > 0.5


def test_files_of_ogbench_are_paid_on_reading(package, tmp_path):
    """Two trajectories of 3 and 2 observations; the second transition starts at the goal (20, 20)."""
    xy = np.array([[18, 20], [19.5, 20], [19, 19], [0, 0], [1, 1]], np.float32)
    ends = np.array([0, 0, 1, 0, 1], bool)
    np.savez(tmp_path / "p.npz", observations=xy, actions=np.zeros((5, 2)), terminals=ends, qpos=xy)
    data = tasks.get("ogbench-pointmaze-medium", dataset=tmp_path / "p.npz").dataset
    assert data.obs.tolist() == xy[[0, 1, 3]].tolist()
    assert data.reward.tolist() == [-1, 0, -1]
    assert data.terminal.tolist() == [False, True, False]
    assert data.timeout.tolist() == [False, False, True]


def test_files_of_ogbench_that_hold_their_rewards(tmp_path):
    """They are taken as they are, -7 too; masks of 0 end the task, ends of trajectories do not."""
    xy = np.array([[0, 0], [1, 1], [20, 20], [3, 3]], np.float32)
    columns = {"observations": xy, "next_observations": xy + 1, "actions": np.zeros((4, 2)), "terminals": [0, 1, 0, 1]}
    np.savez(tmp_path / "p.npz", **columns, rewards=[-1, -7, 0, -1], masks=[1, 1, 0, 1])
    data = tasks.get("ogbench-pointmaze-medium", dataset=tmp_path / "p.npz").dataset
    assert data.reward.tolist() == [-1, -7, 0, -1]
    assert data.terminal.tolist() == [False, False, True, False]
    assert data.timeout.tolist() == [False, True, False, True]
    assert "transforms" not in data.info
    assert data.info["assumed"].startswith("rewards and masks are those of pointmaze-medium-singletask-v0")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ogbench", None)
    with pytest.raises(ConfigError, match=r"scene-singletask-v0 needs ogbench: pip install 'segue\[ogbench\]'"):
        tasks.get("scene-play").make_env()
