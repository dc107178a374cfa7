"""Tasks: the door, the point wall, tasks of one's own, and the list."""

import json
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete

from segue import tasks
from segue.errors import ConfigError, DataError, Diverged, EnvironmentFault
from segue.tasks import made, maze2d, point_wall
from segue.tasks.custom import custom_task
from segue.tasks.dataset import COLUMNS, dataset_from_arrays
from segue.tasks.environment import NEEDED, Environment, registered
from segue.tasks.formats import read, write_npz
from segue.tasks.point_wall import PointWall, crosses_wall
from segue.tasks.task import Reference, Task, never

# --- the door


class Fake(gymnasium.Env):
    """Three observations, two actions in [0, 4] x [-1, 1]; `result` overrides what step returns."""

    observation_space = Box(-np.inf, np.inf, (3,))
    action_space = Box(np.array([0, -1], np.float32), np.array([4, 1], np.float32))

    def __init__(self, result=None, first=None):
        self.result, self.first = result, first
        self.shared = np.zeros(3, np.float32)
        self.actions, self.seeds, self.closed = [], [], False

    def reset(self, *, seed=None, options=None):
        self.seeds.append(seed)
        return (self.shared if self.first is None else self.first), {}

    def step(self, action):
        self.actions.append(action)
        if isinstance(self.result, Exception):
            raise self.result
        self.shared += 1
        return (self.shared, 1.5, False, True, {"a": 1}) if self.result is None else self.result

    def close(self):
        self.closed = True


def test_door_scales_clips_and_copies():
    fake = Fake()
    env = Environment(fake, "fake")
    assert (env.obs_dim, env.act_dim, env.horizon) == (3, 2, None)
    first = env.reset(7)
    assert fake.seeds == [7]
    assert first.dtype == np.float32
    one = env.step(np.array([0.5, 0.5]))
    two = env.step(np.array([-9.0, 9.0]))
    np.testing.assert_allclose(fake.actions, [[3, 0.5], [0, 1]])
    assert fake.actions[0].dtype == np.float32
    assert first.tolist() == [0, 0, 0]
    assert one.obs.tolist() == [1, 1, 1]
    assert two.obs.tolist() == [2, 2, 2]
    assert one[1:] == (1.5, False, True, {"a": 1})
    env.close()
    assert fake.closed


def test_door_calls_a_cut_at_a_terminal_row_terminal():
    step = Environment(Fake((np.zeros(3), 0, True, True, {})), "f").step(np.zeros(2))
    assert step.terminal
    assert not step.timeout


def test_door_flattens_dicts_in_sorted_order():
    fake = Fake(first={"b": np.array([3.0]), "a": np.array([1.0, 2.0])})
    fake.observation_space = Dict({"b": Box(-9, 9, (1,)), "a": Box(-9, 9, (2,))})
    env = Environment(fake, "dict")
    assert env.obs_dim == 3
    assert env.reset(0).tolist() == [1, 2, 3]
    fake.first = {"a": np.zeros(2)}
    with pytest.raises(EnvironmentFault, match="lacks 'b'"):
        env.reset(0)
    fake.first = {"a": np.zeros(2), "b": np.zeros(2)}
    with pytest.raises(EnvironmentFault, match=r"under 'b' of reset has shape \(2,\)"):
        env.reset(0)


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"action_space": Discrete(3)}, "Discrete; segue takes continuous actions"),
        ({"action_space": Box(-np.inf, 1, (2,))}, "bounds of action 0 are"),
        ({"action_space": Box(-1, 1, (2, 2))}, "vectors of floats"),
        ({"observation_space": Box(0, 255, (8, 8, 3), np.uint8)}, "not images"),
        ({"observation_space": Discrete(4)}, "Box or a flat Dict of Box"),
        ({"observation_space": Dict({"a": Dict({"b": Box(0, 1)})})}, "under 'a' is Dict"),
    ],
)
def test_door_refuses_spaces(space, words):
    fake = Fake()
    for key, value in space.items():
        setattr(fake, key, value)
    with pytest.raises(ConfigError, match=words) as error:
        Environment(fake, "odd")
    assert str(error.value).startswith("odd")


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (RuntimeError("the motor burnt"), "step raised RuntimeError: the motor burnt"),
        ((np.array([0, np.nan, 0]), 0.0, False, False, {}), "entry 1 of the observation of step is nan"),
        ((np.array([0, 0, np.inf]), 0.0, False, False, {}), "entry 2 .* is inf"),
        ((np.zeros(4), 0.0, False, False, {}), r"shape \(4,\), and its space says \(3,\)"),
        (("three", 0.0, False, False, {}), "is str"),
        ((np.zeros(3), np.nan, False, False, {}), "the reward is nan"),
        ((np.zeros(3), -1e39, False, False, {}), r"the reward is -1e\+39, not a finite number in float32"),
        ((np.zeros(3), None, False, False, {}), "the reward is NoneType, not a number"),
        ((np.zeros(3), 0.0, np.zeros(2), False, {}), "single booleans"),
        ((np.zeros(3), 0.0, False, False, None), "info is NoneType"),
        ((np.zeros(3), 0.0, False, {}), "a tuple of 4, not"),
    ],
)
def test_door_reports_faults(result, words):
    env = Environment(Fake(result), "faulty")
    env.reset(0)
    with pytest.raises(EnvironmentFault, match=words) as error:
        env.step(np.zeros(2))
    assert str(error.value).startswith("faulty")


@pytest.mark.parametrize(
    ("episode", "kept"),
    [
        ({"r": np.array([2.5], np.float32), "l": np.int64(7), "success": True}, {"r": 2.5, "l": 7.0, "success": 1.0}),
        (
            {"a": "far", "b": np.nan, "c": np.inf, "d": None, "e": 10**400, "f": [[1], [2, 3]], "g": 1j, 3: 4, "h": 5},
            {"h": 5},
        ),
        (3, {}),
        (None, {}),
        ("r", {}),
    ],
)
def test_door_keeps_finite_numbers_of_an_episode(episode, kept):
    step = Environment(Fake((np.zeros(3), 0.0, True, False, {"episode": episode, "a": 1})), "fake").step(np.zeros(2))
    assert step.info == {"episode": kept, "a": 1}
    assert all(type(value) is float for value in step.info["episode"].values())


def test_door_reads_what_gymnasium_records():
    env = Environment(gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.make("Pendulum-v1")), "pendulum")
    env.reset(0)
    steps = [env.step(np.zeros(1)) for _ in range(200)]
    assert steps[-1].info["episode"].keys() == {"r", "l", "t"}
    assert steps[-1].info["episode"]["l"] == 200
    assert steps[-1].info["episode"]["r"] == pytest.approx(sum(s.reward for s in steps), rel=1e-5)


def test_door_on_reset_and_on_bad_actions():
    fake = Fake()
    env = Environment(fake, "fake")
    with pytest.raises(Diverged, match="NaN"):
        env.step(np.array([np.nan, 0]))
    with pytest.raises(ConfigError, match=r"shape \(3,\), and the task takes \(2,\)"):
        env.step(np.zeros(3))
    env.step(np.array([np.inf, -np.inf]))
    assert fake.actions[-1].tolist() == [4, -1]
    fake.reset = lambda **_: np.zeros(3)
    with pytest.raises(EnvironmentFault, match="reset returned ndarray"):
        env.reset(0)
    with pytest.raises(ConfigError, match="has no `observation_space`"):
        Environment(object(), "nothing")


def test_a_package_that_is_there_but_does_not_know_the_id(monkeypatch):
    """The version that is installed and the one that is needed, which pyproject.toml names."""
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", ModuleType("gymnasium_robotics"))
    monkeypatch.setattr("segue.tasks.environment.version", lambda _: "1.3.0")
    with pytest.raises(ConfigError) as error:
        registered("gymnasium-robotics", "Kitchen-v77")
    assert str(error.value).startswith("Kitchen-v77 cannot be made with gymnasium-robotics 1.3.0 (")
    assert "needed is gymnasium-robotics>=1.4.2,<2: pip install --upgrade 'segue[robotics]'" in str(error.value)

    def without_mujoco(*_, **__):
        raise gymnasium.error.DependencyNotInstalled("no mujoco")

    monkeypatch.setattr(gymnasium, "make", without_mujoco)
    with pytest.raises(ConfigError, match=r"needs gymnasium-robotics: pip install 'segue\[robotics\]' \(no mujoco"):
        registered("gymnasium-robotics", "FrankaKitchen-v1")
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    for package, (extra, versions) in NEEDED.items():
        assert f"{package}{versions}" in project["optional-dependencies"][extra]


def test_horizon_comes_from_the_spec():
    env = Environment(gymnasium.make("Pendulum-v1"), "pendulum")
    assert env.horizon == 200
    assert env.obs_dim == 3
    env.reset(0)
    steps = [env.step(np.zeros(1)) for _ in range(200)]
    assert [s.timeout for s in steps] == [False] * 199 + [True]
    assert not any(s.terminal for s in steps)


# --- the point wall


@pytest.mark.parametrize(
    ("move", "crosses"),
    [
        ((0.49, 0.5, 0.51, 0.5), True),
        ((0.51, 0.5, 0.49, 0.5), True),
        ((0.49, 0.5, 0.5, 0.5), True),  # would stand on it
        ((0.49, 0.09, 0.51, 0.09), False),  # under
        ((0.49, 1.21, 0.51, 1.21), False),  # over
        ((0.49, 0.09, 0.51, 0.13), True),  # at x = 0.5 the height is 0.11
        ((0.49, 0.05, 0.51, 0.13), False),  # 0.09
        ((0.4, 0.5, 0.43, 0.5), False),
        ((0.5, 1.21, 0.5, 1.19), True),  # down along its plane
        ((0.5, 1.21, 0.53, 1.18), False),  # leaves from above
    ],
)
def test_crossing(move, crosses):
    assert crosses_wall(*move) is crosses


def test_point_wall_refuses_to_cross_and_stops_at_the_limit():
    env = PointWall()
    first = env.reset(3)
    assert np.abs(first - [0, 0.5]).max() <= 0.02
    assert (first == env.reset(3)).all()
    assert (first != env.reset(4)).any()
    xs = []
    for t in range(150):
        step = env.step(np.array([1.0, 0.0]))
        xs.append(step.obs[0])
        assert step.reward == 0
        assert not step.terminal
        assert step.timeout == (t == 149)
        assert ("episode" in step.info) == (t == 149)
    assert xs[1] - xs[0] == pytest.approx(point_wall.REACH, abs=1e-6)
    assert 0.5 - point_wall.REACH < max(xs) < 0.5
    assert xs[-1] == xs[-2]
    assert step.info["episode"]["success"] == 0
    assert step.info["episode"]["path_length"] == pytest.approx(xs[-1] - (xs[0] - point_wall.REACH), abs=1e-5)
    with pytest.raises(ConfigError, match="call reset"):
        env.step(np.zeros(2))
    env.reset(0)
    with pytest.raises(Diverged):
        env.step(np.array([0, np.nan]))
    with pytest.raises(ConfigError, match=r"\(3,\)"):
        env.step(np.zeros(3))


def test_point_wall_pays_at_the_goal_and_clips_to_the_room():
    env = PointWall(0.05)
    env.reset(0)
    env._move_to(0.93, 0.15)
    step = env.step(np.array([1.0, 0.0]))  # 0.965: 0.035 from the goal
    assert step.terminal
    assert step.reward == 1
    assert not step.timeout
    assert step.info["episode"]["success"] == 1
    strict = PointWall(0.01)
    strict.reset(0)
    strict._move_to(0.93, 0.15)
    assert not strict.step(np.array([1.0, 0.0])).terminal
    env.reset(0)
    env._move_to(-0.24, -0.24)
    np.testing.assert_allclose(env.step(np.array([-1.0, -1.0])).obs, [-0.25, -0.25])
    env._move_to(0, 0.5)
    np.testing.assert_allclose(env.step(np.array([5.0, -5.0])).obs, [0.035355, 0.464645], atol=1e-6)


@pytest.mark.parametrize("name", ["point-wall", "point-wall-strict"])
def test_point_wall_data(name):
    task = tasks.get(name)
    data = task.dataset
    assert data.hash == tasks.make_dataset(name).hash
    assert data is task.dataset
    assert len(data.starts) == 100
    assert data.terminal.sum() == 100
    assert not data.timeout.any()
    assert (data.returns == 1).all()
    across = np.abs(data.obs[:, 0] - 0.5) < 0.02
    assert across.sum() > 50
    assert data.obs[across, 1].min() > 1.2
    assert 0.9999 < np.abs(data.action).max() <= np.float32(1 - 1e-5)
    noise = data.action[data.step == 3] - np.float32(0.9999)
    assert noise.max() <= 1e-4
    assert noise.min() < -0.05
    ended = np.asarray(task.terminates(jnp.array(data.obs), jnp.array(data.action), jnp.array(data.next_obs)))
    assert (ended == data.terminal).all()
    # the environment replays its own data
    env = task.make_env()
    for i in range(1, 60):
        env.reset(0)
        env._move_to(*data.obs[i].tolist())
        np.testing.assert_array_equal(env.step(data.action[i]).obs, data.next_obs[i])
    assert (task.score(1.0, 1.0), task.score(0.0, 0.0)) == (100, 0)
    assert task.score_name == "success rate"
    assert task.spec.obs_dim == 2
    assert task.spec.horizon == 150
    assert task.spec.terminates is task.terminates


@pytest.mark.parametrize("name", ["point-wall", "point-wall-strict"])
def test_the_published_rows_of_the_wall_are_compared(name, monkeypatch):
    said = []
    data = tasks.get(name, message=said.append).dataset
    assert said == []
    known = made.published() | {f"segue/{name}-v0": {"hash": "0" * 64, "rows": 7, "versions": {"numpy": "0.1"}}}
    monkeypatch.setattr(made, "published", lambda: known)
    _ = tasks.get(name, message=said.append).dataset
    version = data.info["numpy"]
    assert len(said) == 1
    assert said[0].startswith(
        f"segue/{name}-v0: not the published rows. It was made with numpy {version}; the published"
    )


def test_packages_that_move_the_rows_are_recorded():
    assert maze2d.roll_out("umaze", 4).info.keys() & {"gymnasium", "mujoco", "numpy"} == {"numpy"}
    with pytest.warns(UserWarning, match="not the published rows"):
        made.compared(replace(maze2d.roll_out("umaze", 4), info={"rows": 100_000}), made.QUIET)


def test_tasks_without_ends_share_one_rule():
    """True of no observation, in NumPy and jax, not even where it is no number."""
    for name in ("maze2d-umaze", "pointmaze-umaze", "halfcheetah", "ant-sparse", "door", "door-binary-continuing"):
        assert tasks.get(name).terminates is never, name
    obs = np.float32([[0, 1], [-np.inf, 1], [np.nan, 1]])
    for ends in (never(None, None, obs), never(None, None, jnp.asarray(obs))):
        assert ends.dtype == bool
        assert ends.tolist() == [False] * 3


def test_a_success_rate_counts_whole_episodes():
    rate = Reference("success rate", -3, 0, solved=0)
    task = replace(tasks.get("point-wall"), reference=rate)
    assert [task.score(-1.0, success) for success in (1.0, 0.0, None)] == [100, 0, 0]
    rewards = [-1, -1, 0, -1, -1, -1, -1, 0, 0]  # episodes of 3, 2, 1 and 3
    at = np.array([0, 1, 2, 10, 11, 20, 30, 31, 32.0])[:, None]
    columns = {"obs": at, "action": np.zeros((9, 2)), "reward": rewards, "next_obs": at + 1}
    data = dataset_from_arrays({**columns, "terminal": np.isin(np.arange(9), (2, 4, 5, 8))}, "x")
    assert rate.scores(data).tolist() == [100, 0, 0, 100]
    assert Reference("return", -3, 0).scores(data).tolist() == pytest.approx([100 / 3, 100 / 3, 200 / 3, 200 / 3])


def test_a_success_rate_counts_recordings():
    """Rows 0 to 4 are one that goes on behind the goal, in which it starts twice; row 8 begins where none led, and row
    10 behind a limit.
    """
    at = np.array([0, 1, 2, 3, 4, 10, 11, 20, 30, 31, 32.0])
    reward = [-1, 0, 0, -1, -1, -1, -1, 0, -1, -1, 0]
    terminal = np.isin(np.arange(11), (1, 2, 7, 10))
    timeout = np.isin(np.arange(11), (4, 6, 9))
    columns = {"obs": at[:, None], "action": np.zeros((11, 1)), "reward": reward, "next_obs": at[:, None] + 1}
    data = dataset_from_arrays({**columns, "terminal": terminal, "timeout": timeout}, "x")
    assert data.starts.tolist() == [0, 2, 3, 5, 7, 8, 10]
    assert Reference("success rate", -3, 0, solved=0).scores(data).tolist() == [100, 0, 100, 0, 100]
    assert len(Reference("return", -3, 0).scores(data)) == 7


FAMILIES = (
    "point-wall",
    "maze2d-umaze",
    "pointmaze-umaze",
    "hopper",
    "ant-sparse",
    "antmaze-umaze",
    "pen",
    "door-binary",
    "kitchen-partial",
    "kitchen-partial-minari",
    "cube-single-play",
    "ogbench-antmaze-medium",
)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_segue_wrote_serves_every_task(name, tmp_path):
    """As it stands, in every format, whatever the task's reading says of other files: 0.5 is no terminal reward."""
    task = tasks.get(name)
    rng = np.random.default_rng(0)
    obs, next_obs = rng.normal(size=(2, 6, task.obs_dim)).astype(np.float32)
    action = rng.uniform(-1, 1, (6, task.act_dim)).astype(np.float32)
    columns = {"obs": obs, "action": action, "reward": [0, 0.5, 1, 0, 4, 0], "next_obs": next_obs}
    data = dataset_from_arrays({**columns, "terminal": [0, 0, 1, 0, 0, 0], "timeout": [0, 0, 0, 0, 0, 1]}, "segue/own")
    if task.relabel is not None:
        data = task.relabel(data)
    for end in (".npz", ".hdf5", ".csv", ".parquet", ".segue", "-v0"):
        tasks.write(data, tmp_path / f"own{end}")
        read = tasks.get(name, dataset=tmp_path / f"own{end}").dataset
        assert (read.hash, read.info, read.name) == (data.hash, data.info, data.name), end


def test_a_file_of_ones_own_is_understood_as_the_task_has_it(tmp_path):
    """The same columns without the envelope are those of a stranger: an archive of OGBench, or refused."""
    np.savez(tmp_path / "a.npz", observations=np.zeros((3, 28)), actions=np.zeros((3, 5)), rewards=np.zeros(3))
    with pytest.raises(DataError, match="'terminals' is missing from an archive of OGBench"):
        _ = tasks.get("cube-single-play", dataset=tmp_path / "a.npz").dataset
    (tmp_path / "a.csv").write_text("obs_0,action_0,reward\n1,1,1\n")
    with pytest.raises(DataError, match=r"an archive of OGBench ends in \.npz"):
        _ = tasks.get("cube-single-play", dataset=tmp_path / "a.csv").dataset


def test_a_named_task_learns_from_a_file(tmp_path):
    named = tasks.get("point-wall")
    file = tmp_path / "short.npz"
    keep = slice(0, int(named.dataset.lengths[0]))
    write_npz(dataset_from_arrays({c: getattr(named.dataset, c)[keep] for c in COLUMNS}, "short"), file)
    task = tasks.get("point-wall", dataset=file)
    assert task.dataset.size == named.dataset.lengths[0]
    assert task.dataset.name == "short"
    assert task.score(1.0, 1.0) == 100
    assert task.make_env().obs_dim == 2
    assert task.source == {"kind": "named", "name": "point-wall", "dataset": str(file)}
    assert tasks.from_source(task.source).dataset.hash == task.dataset.hash
    for source in ({"kind": "named"}, {"kind": "named", "name": 3}, {"kind": "named", "name": "hopper", "dataset": 1}):
        with pytest.raises(ConfigError, match="not the source of a task"):
            tasks.from_source(source)


# --- tasks of one's own

MODULE = """
import numpy as np
from gymnasium.spaces import Box

class Mine:
    observation_space = Box(-9, 9, (2,)); action_space = Box(-3, 3, (1,))
    def reset(self, *, seed=None, options=None): return np.zeros(2), {}
    def step(self, action): return np.zeros(2), float(action[0]), False, False, {}

class Old(Mine):
    def step(self, action): return np.zeros(2), 0.0, False, {}

class Unseeded(Mine):
    def reset(self): return np.zeros(2), {}

class Needs(Mine):
    def __init__(self, size): pass

def make(): return Mine()
number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_envs.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_envs", raising=False)


def rows(obs_dim=2, act=3.0):
    return {
        "obs": np.zeros((4, obs_dim)),
        "action": np.array([[-act], [0], [0], [act]]),
        "reward": np.array([1.0, 2, 3, 5]),
        "next_obs": np.zeros((4, obs_dim)),
        "terminal": np.array([0, 1, 0, 1]),
    }


@pytest.mark.parametrize("env", ["my_envs:Mine", "my_envs:make"])
def test_custom_class(module, env, tmp_path):
    np.savez(tmp_path / "mine.npz", **rows())
    task = custom_task(env, tmp_path / "mine.npz")
    assert (task.obs_dim, task.act_dim, task.horizon, task.replayable) == (2, 1, None, False)
    assert task.make_env().step(np.array([0.5])).reward == 1.5
    np.testing.assert_allclose(task.dataset.action[:, 0], [-1, 0, 0, 1])
    assert task.score_name == "dataset return range"  # returns 3 and 8
    assert task.score(3) == 0
    assert task.score(8) == 100
    assert task.score(5.5) == 50
    twin = tasks.from_source(json.loads(json.dumps(task.source)))
    assert twin.dataset.hash == task.dataset.hash
    assert twin.source == task.source
    assert twin.name == task.name


def test_custom_gymnasium_id():
    task = custom_task("Pendulum-v1", None, name="swing")
    assert (task.name, task.obs_dim, task.act_dim, task.horizon) == ("swing", 3, 1, 200)
    assert task.score(-7.0) == -7
    assert task.score_name == "return"
    with pytest.raises(ConfigError, match="'swing' has no dataset"):
        _ = task.dataset


def test_custom_dataset_alone(tmp_path):
    np.savez(tmp_path / "alone.npz", **rows(act=1.0))
    task = custom_task(None, tmp_path / "alone.npz")
    assert (task.name, task.obs_dim, task.act_dim) == ("alone", 2, 1)
    assert task.dataset.size == 4
    with pytest.raises(ConfigError, match="'alone' has only a dataset"):
        task.make_env()


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ("my_envs:Old", "a tuple of 4"),
        ("my_envs:Unseeded", "reset takes no `seed`"),
        ("my_envs:Needs", "without arguments raised TypeError"),
        ("my_envs:Absent", "has no 'Absent'"),
        ("my_envs:number", "neither a class"),
        ("my_envs:np.zeros", "not of the form"),
        ("no_such_module_here:X", "PYTHONPATH"),
        ("os:abort", "a module of Python itself"),
        ("Pendulum-v999", "cannot be made by Gymnasium"),
        ("CartPole-v1", "Discrete"),
        (None, "an environment, a dataset, or both"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_custom_refusals(module, env, words):
    with pytest.raises(ConfigError, match=words):
        custom_task(env, None)


def test_data_of_another_environment(module, tmp_path):
    np.savez(tmp_path / "wide.npz", **rows(obs_dim=5))
    with pytest.raises(DataError, match=r"observations .* have 5 entries, .* have 2"):
        _ = custom_task("my_envs:Mine", tmp_path / "wide.npz").dataset
    wide = {**rows(), "action": np.zeros((4, 6))}
    data = dataset_from_arrays(wide, "wide")
    task = Task("t", "custom", {}, lambda: None, lambda: data, None, False, 2, 1)
    with pytest.raises(DataError, match=r"actions .* have 6 entries, .* have 1"):
        _ = task.dataset


def test_flat_returns_give_no_range():
    data = dataset_from_arrays({**rows(act=1.0), "reward": np.zeros(4)}, "flat")
    task = Task("t", "custom", {}, lambda: None, lambda: data, None, False, 2, 1)
    assert task.score(4.0) == 4
    assert task.score_name == "return"
    with pytest.raises(ConfigError, match="must be finite, the first below the second"):
        Reference("flat", 1.0, 1.0)


# --- the list


def test_names_and_sources():
    names = tasks.names()
    assert names[:2] == ["point-wall", "point-wall-strict"]
    assert {"hopper-medium-replay", "maze2d-large", "door-binary", "cube-single-play"} <= set(names)
    for name in names:
        task = tasks.get(name)
        assert task.name == name
        assert tasks.from_source(json.loads(json.dumps(task.source))).name == name
        assert tasks.catalogue()[name]
    for wrong, hint in (("hoper-medium", "did you mean 'hopper-medium'"), ("hopper-medum", "hopper-medium")):
        with pytest.raises(ConfigError, match=hint):
            tasks.get(wrong)
    for source in ({}, {"kind": "other"}, {"kind": "named", "name": 3}, {"kind": "custom", "env": 1}, []):
        with pytest.raises(ConfigError, match="not the source of a task"):
            tasks.from_source(source)


def test_import_is_light():
    code = (
        "import sys, segue.tasks as t; t.names(); print([m for m in ('jax', 'gymnasium', 'h5py') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_written_file_is_readable_as_a_task(tmp_path):
    write_npz(tasks.make_dataset("point-wall"), tmp_path / "wall.npz")
    assert read(tmp_path / "wall.npz").hash == tasks.make_dataset("point-wall").hash
    assert custom_task(None, tmp_path / "wall.npz").dataset.size > 5000
