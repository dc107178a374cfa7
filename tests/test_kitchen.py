"""Franka Kitchen: two layouts of observations, rewards and ends of files of both kinds (synthetic ones)."""

import sys
import warnings

import numpy as np
import pytest

from segue import tasks
from segue.errors import ConfigError, DataError
from segue.tasks import kitchen
from segue.tasks.dataset import dataset_from_arrays

NAMES = [f"kitchen-{level}{ending}" for level in ("complete", "partial", "mixed") for ending in ("", "-minari")]


@pytest.fixture
def robotics():
    pytest.importorskip("gymnasium_robotics", reason="needs gymnasium-robotics")


def objects(*parts):
    """The joints of the objects [21] with some parts at their goals."""
    joints = np.zeros(21)
    for part in parts:
        first, values = kitchen.GOALS[part]
        joints[first - 9 : first - 9 + len(values)] = values
    return joints


def test_goals_are_those_of_the_environment(robotics):
    from gymnasium_robotics.envs.franka_kitchen import kitchen_env

    assert kitchen.CLOSE == kitchen_env.BONUS_THRESH
    for part, (first, values) in kitchen.GOALS.items():
        assert kitchen_env.OBS_ELEMENT_INDICES[part].tolist() == list(range(first, first + len(values)))
        assert kitchen_env.OBS_ELEMENT_GOALS[part].tolist() == list(values)


def test_parts_are_in_place_within_0_3_of_their_goals():
    at = objects("microwave", "kettle")
    assert kitchen.in_place(at, "microwave")
    assert kitchen.in_place(at, "kettle")
    assert not kitchen.in_place(at, "light switch")
    for off, there in ((0.299, True), (0.301, False)):
        at[22 - 9] = -0.75 + off
        assert kitchen.in_place(at, "microwave") == there
    both = objects("light switch")
    both[17 - 9] += 0.24  # 0.24 and 0.18 make 0.3
    both[18 - 9] += 0.1799
    assert kitchen.in_place(both, "light switch")
    both[18 - 9] += 0.0002
    assert not kitchen.in_place(both, "light switch")


def test_names():
    assert sorted(kitchen.catalogue()) == sorted(NAMES)
    for name in NAMES:
        task = tasks.get(name)
        assert (task.obs_dim, task.act_dim, task.horizon) == (59 if "minari" in name else 60, 9, 280)
        assert task.load_dataset is None
        assert task.terminates is None  # it takes the past of an episode
        assert (task.score(1.0), task.score(4.0)) == (25, 100)


@pytest.mark.parametrize("name", ["kitchen-mixed", "kitchen-partial-minari"])
def test_replays_are_equal_to_the_bit(robotics, name):
    task = tasks.get(name)
    actions = np.random.default_rng(0).uniform(-1, 1, (12, 9))
    runs = []
    for env, before in ((task.make_env(), 5), (task.make_env(), None)):
        assert (env.obs_dim, env.act_dim, env.horizon) == (task.obs_dim, task.act_dim, task.horizon)
        if before is not None:
            env.reset(before)
            for a in actions[:3]:
                env.step(-a)
        runs.append(np.array([env.reset(3), *(env.step(a).obs for a in actions)]))
        env.close()
    assert np.array_equal(*runs)
    assert len(np.unique(runs[0], axis=0)) == 13  # observations are copies


def test_the_environment_pays_each_part_once_and_ends_with_the_last(robotics):
    """Parts are put in place by hand in the simulator."""
    env = kitchen.make_env("kitchen-complete")
    first = env.reset(0)
    inner = env._env._env.unwrapped
    parts = kitchen.PARTS["complete"]
    goals = np.concatenate([np.zeros(9), objects(*parts)])
    assert first[30:].tolist() == goals.astype(np.float32).tolist()
    assert np.abs(first[9:30] - inner.data.qpos[9:]).max() < 0.02  # D4RL's noise
    assert np.abs(first[:9] - inner.data.qpos[:9]).max() < 0.011
    assert env.step(np.zeros(9)).reward == 0
    steps = []
    for part in ("microwave", "microwave", "slide cabinet", "light switch", "kettle"):
        begin, values = kitchen.GOALS[part]
        qpos, qvel = inner.data.qpos.copy(), np.zeros(29)
        qpos[begin : begin + len(values)] = values
        inner.robot_env.set_state(qpos, qvel)
        steps.append(env.step(np.zeros(9)))
    assert [s.reward for s in steps] == [1, 0, 1, 1, 1]
    assert [s.terminal for s in steps] == [False] * 4 + [True]
    assert steps[-1].info["episode"] == {"success": 1, "parts": 4}
    env.close()


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    with pytest.raises(ConfigError, match=r"FrankaKitchen-v1 needs .* pip install 'segue\[robotics\]'"):
        tasks.get("kitchen-mixed").make_env()


def test_d4rl_files_count_parts_and_flag_the_ends_of_demonstrations(tmp_path):
    """Two demonstrations: the first does all parts, the second two of them."""
    h5py = pytest.importorskip("h5py")
    count = np.array([0, 1, 1, 2, 3, 4, 4, 0, 1, 2, 2], np.float32)
    ends = np.isin(np.arange(11), (6, 10))
    observations = np.zeros((11, 60), np.float32)
    observations[:, 0] = np.arange(11)
    with h5py.File(tmp_path / "kitchen.hdf5", "w") as file:
        columns = {"observations": observations, "actions": np.zeros((11, 9), np.float32), "rewards": count}
        for key, value in {**columns, "terminals": ends, "timeouts": np.zeros(11, bool)}.items():
            file[key] = value
    data = tasks.get("kitchen-complete", dataset=tmp_path / "kitchen.hdf5").dataset
    assert data.obs[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 7, 8, 9]  # behind the end; without a successor
    assert data.reward.tolist() == [0, 1, 0, 1, 1, 1, 0, 1, 1]
    assert np.flatnonzero(data.terminal).tolist() == [5]
    assert np.flatnonzero(data.timeout).tolist() == [8]
    assert data.returns.tolist() == [4, 2]


def rows(*states):
    """One episode of FrankaKitchen's observations after each step, cut at the end."""
    after = np.zeros((len(states), 59), np.float32)
    after[:, 18:39] = [objects(*parts) for parts in states]
    before = np.concatenate([np.zeros((1, 59), np.float32), after[:-1]])
    flags = np.arange(len(states)) == len(states) - 1
    return {
        "obs": before,
        "action": np.zeros((len(states), 9)),
        "reward": np.full(len(states), 7.0),
        "next_obs": after,
        "terminal": np.zeros(len(states), bool),
        "timeout": flags,
    }


def test_minari_rows_are_paid_by_their_joints():
    all_parts = kitchen.PARTS["complete"]
    one = rows((), ("microwave",), (), ("microwave", "kettle"), all_parts, all_parts)
    two = rows(("slide cabinet", "bottom burner"), ("slide cabinet",))
    columns = {key: np.concatenate([one[key], two[key]]) for key in one}
    data = kitchen.rewarded(dataset_from_arrays(columns, "k"), all_parts, "kitchen-complete-minari")
    assert data.reward.tolist() == [0, 1, 0, 1, 2, 1, 0]  # the row behind the end is gone
    assert np.flatnonzero(data.terminal).tolist() == [4]
    assert np.flatnonzero(data.timeout).tolist() == [6]
    assert data.info["transforms"][-1] == {"kind": "relabelled", "task": "kitchen-complete-minari", "dropped": 1}
    mixed = kitchen.rewarded(dataset_from_arrays(columns, "k"), kitchen.PARTS["mixed"], "kitchen-mixed-minari")
    assert mixed.reward.tolist() == [0, 1, 0, 1, 1, 0, 1, 0]
    assert not mixed.terminal.any()


def test_minari_files_give_their_state_alone(robotics, tmp_path):
    """A set that Minari itself writes from the environment's observations."""
    minari = pytest.importorskip("minari")
    import gymnasium
    from minari.data_collector import EpisodeBuffer

    env = gymnasium.make("FrankaKitchen-v1", tasks_to_complete=list(kitchen.PARTS["partial"]), disable_env_checker=True)
    obs, _ = env.reset(seed=0)
    seen, actions = [obs], np.random.default_rng(0).uniform(-1, 1, (5, 9))
    for a in actions:
        obs = env.step(a)[0]
        seen.append({key: (value.copy() if key == "observation" else value) for key, value in obs.items()})
    fold = lambda xs: {k: fold([x[k] for x in xs]) for k in xs[0]} if isinstance(xs[0], dict) else np.array(xs)
    buffer = EpisodeBuffer(
        id=0,
        seed=0,
        observations=fold(seen),
        actions=actions,
        rewards=np.zeros(5),
        terminations=np.zeros(5, bool),
        truncations=np.arange(5) == 4,
        infos={},
    )
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Minari misses author, licence and more
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
        minari.create_dataset_from_buffers("kitchen/tiny-v0", buffer=[buffer], env=env)
    data = tasks.get("kitchen-partial-minari", dataset=tmp_path / "kitchen" / "tiny-v0").dataset
    assert data.obs.shape == (5, 59)
    assert np.array_equal(data.next_obs[-1], seen[-1]["observation"].astype(np.float32))
    assert data.reward.tolist() == [0] * 5
    env.close()


def test_files_of_the_other_layout_are_refused(tmp_path):
    np.savez(tmp_path / "59.npz", **rows((), ()) | {"reward": np.zeros(2)})
    with pytest.raises(DataError, match="59 entries, and those of the environment of 'kitchen-mixed' have 60"):
        _ = tasks.get("kitchen-mixed", dataset=tmp_path / "59.npz").dataset
