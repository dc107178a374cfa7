"""Adroit: rewards and ends of both binary conventions, rows relabelled by what their observations show."""

import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from segue import tasks
from segue.errors import ConfigError, DataError
from segue.tasks import adroit
from segue.tasks.dataset import dataset_from_arrays
from segue.tasks.formats import read, write_npz
from segue.tasks.success import Success, relabelled

SHARED = Path(__file__).parents[1].parent / "shared" / "data" / "hand_dapg"


@pytest.fixture
def robotics():
    pytest.importorskip("gymnasium_robotics", reason="needs gymnasium-robotics")


@pytest.fixture
def shared():
    if not SHARED.is_dir():
        pytest.skip("hand_dapg of ../shared is absent")
    return SHARED


def policy(shared, name):
    """The mean action of DAPG's policy."""
    w = dict(np.load(shared / f"dapg_policy_{name}.npz"))

    def act(obs):
        x = np.tanh(w["w0"] @ ((obs - w["in_shift"]) / (w["in_scale"] + 1e-8)) + w["b0"])
        return w["out_scale"] * (w["w2"] @ np.tanh(w["w1"] @ x + w["b1"]) + w["b2"]) + w["out_shift"]

    return act


def episode(env, act, seed):
    """Observations [T+1, obs_dim] and steps of one episode."""
    seen, steps = [env.reset(seed)], []
    while not steps or not (steps[-1].terminal or steps[-1].timeout):
        steps.append(env.step(act(seen[-1])))
        seen.append(steps[-1].obs)
    return np.array(seen), steps


# --- the environment that says how an episode went


class Lights:
    """An environment whose steps say in turn what `success` says; the observation is the number of the step."""

    observation_space = action_space = spec = None

    def __init__(self, success, limit):
        self.success, self.limit, self.closed = success, limit, False

    def reset(self, *, seed=None):
        self.time = 0
        return np.zeros(1), {}

    def step(self, action):
        self.time += 1
        info = {"success": np.bool_(self.success[self.time - 1])}
        return np.full(1, float(self.time)), 7.0, False, self.time == self.limit, info

    def close(self):
        self.closed = True


def run(env):
    env.reset(seed=0)
    steps = [env.step(None)]
    while not (steps[-1][2] or steps[-1][3]):
        steps.append(env.step(None))
    return [s[1] for s in steps], steps[-1][2], steps[-1][4]["episode"]


def test_success_pays_and_ends_as_each_convention_says():
    success = [False, True, False]
    assert run(Success(Lights(success, 3))) == ([7, 7, 7], False, {"success": 1})
    assert run(Success(Lights(success, 3), binary=True)) == ([-1, 0, -1], False, {"success": 1})
    assert run(Success(Lights(success, 3), binary=True, ends=True)) == ([-1, 0], True, {"success": 1})
    assert run(Success(Lights(success, 3), lost=lambda obs: obs[0] == 1)) == ([7], True, {"success": 0})


def test_an_episode_does_not_remember_the_one_before():
    inner = Lights([True, False], 2)
    env = Success(inner)
    assert run(env)[2] == {"success": 1}
    inner.success = [False, False]
    assert run(env)[2] == {"success": 0}
    env.close()
    assert inner.closed


# --- rows with other rewards and ends


def rows(terminal, timeout, next_obs=True):
    n = len(terminal)
    obs = np.arange(n, dtype=np.float32)[:, None]
    columns = {"obs": obs, "action": np.zeros((n, 1)), "reward": np.zeros(n), "terminal": terminal, "timeout": timeout}
    if next_obs:
        columns["next_obs"] = obs + 1
    return dataset_from_arrays(columns, "rows")


def test_rows_behind_the_first_end_of_an_episode_are_dropped():
    data = rows([0] * 7, [0, 0, 0, 1, 0, 0, 1])
    done = np.array([0, 1, 1, 0, 0, 0, 0], bool)
    new = relabelled(data, np.arange(7) * 2.0, done, "doubled")
    assert new.obs[:, 0].tolist() == [0, 1, 4, 5, 6]
    assert new.reward.tolist() == [0, 2, 8, 10, 12]
    assert new.terminal.tolist() == [0, 1, 0, 0, 0]
    assert new.timeout.tolist() == [0, 0, 0, 0, 1]
    assert new.info["transforms"] == [{"kind": "relabelled", "task": "doubled", "dropped": 2}]
    again = relabelled(new, new.reward, new.terminal, "doubled")
    assert again.hash == new.hash
    assert again.info["transforms"] == new.info["transforms"]
    assert "relabelled" not in str(data.info)


def test_an_end_that_is_none_any_more_keeps_its_row_only_with_a_successor():
    none = np.zeros(4, bool)
    given = relabelled(rows([0, 1, 0, 0], [0, 0, 0, 1]), np.zeros(4), none, "t")
    assert given.size == 4
    assert given.timeout.tolist() == [0, 1, 0, 1]
    without = rows([0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1], next_obs=False)
    assert without.obs[:, 0].tolist() == [0, 1, 2, 3, 4]  # the last row has no successor
    cut = relabelled(without, np.zeros(5), np.zeros(5, bool), "t")
    assert cut.obs[:, 0].tolist() == [0, 1, 3, 4]
    assert cut.next_obs[:, 0].tolist() == [1, 2, 4, 5]
    assert cut.timeout.tolist() == [0, 1, 0, 1]
    assert not cut.terminal.any()


# --- the tasks


def test_names_and_references():
    assert set(adroit.catalogue()) == {
        f"{skill}{end}"
        for skill in ("pen", "door", "relocate", "hammer")
        for end in ("", "-binary", "-binary-continuing")
    }
    for name in adroit.catalogue():
        task = tasks.get(name)
        assert task.load_dataset is None
        assert task.horizon == (100 if name.startswith("pen") else 200)
        assert (task.reference.solved is not None) == ("binary" in name)
    assert tasks.get("door").score(2880.5693087298737) == 100
    for name, limit in (("door-binary", 200), ("door-binary-continuing", 200), ("pen-binary", 100)):
        task = tasks.get(name)
        assert task.score_name == "success rate"
        assert task.reference.minimum == -limit
        assert (task.score(-limit, 0.0), task.score(1.0 - limit, 1.0)) == (0, 100)


def test_rules_at_their_bounds():
    def observation(size, **entries):
        obs = np.zeros((2, size), np.float32)
        for index, values in entries.items():
            obs[:, int(index[1:])] = values
        return obs

    cases = [
        (adroit.door_success, observation(39, _28=[1.3499, 1.3501])),
        (adroit.relocate_success, observation(39, _36=0.06, _37=[0.0801, 0.0799])),
        (adroit.hammer_success, observation(46, _42=[0.0306, 0.0308], _43=-0.00362358)),
        (adroit.pen_success, observation(45, _39=[0.0751, 0.0749], _33=1.0, _36=1.0)),
        (adroit.pen_success, observation(45, _39=0.01, _33=1.0, _36=[0.9499, 0.9501])),
        (adroit.pen_dropped, observation(45, _26=[0.0751, 0.0749])),
    ]
    for rule, obs in cases:
        assert rule(obs).tolist() == [False, True], rule.__name__
    rule, obs = cases[0]
    assert rule(jnp.asarray(obs)).tolist() == [False, True]


@pytest.mark.parametrize("name", list(adroit.SKILLS))
def test_replays_are_equal_to_the_bit(robotics, name):
    task = tasks.get(name)
    actions = np.random.default_rng(0).uniform(-1, 1, (40, task.act_dim))
    runs = []
    for env, before in ((task.make_env(), 5), (task.make_env(), None)):
        assert (env.obs_dim, env.act_dim, env.horizon) == (task.obs_dim, task.act_dim, task.horizon)
        assert (env.action_low == -1).all()
        assert (env.action_high == 1).all()
        if before is not None:  # an episode that leaves something behind
            env.reset(before)
            for a in actions[:7]:
                env.step(-a)
        seen = [env.reset(3)]
        for a in actions:
            step = env.step(a)
            seen.append(np.append(step.obs, step.reward))
            if step.terminal:
                break
        runs.append(seen)
        env.close()
    for one, other in zip(*runs, strict=True):
        assert np.array_equal(one, other)


def test_the_dense_pen_ends_when_it_drops(robotics):
    task = tasks.get("pen")
    env = task.make_env()
    clenched = np.append([1.0, 1.0], -np.ones(22))
    seen, steps = episode(env, lambda _: clenched, 0)
    assert steps[-1].terminal
    assert len(steps) < 100
    assert seen[-1][26] < 0.075
    assert (seen[:-1, 26] >= 0.075).all()
    assert steps[-1].info["episode"] == {"success": 0}


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    with pytest.raises(ConfigError, match=r"pip install 'segue\[robotics\]'"):
        tasks.get("door-binary").make_env()


@pytest.mark.parametrize("name", ["door", "relocate", "hammer"])
def test_policies_succeed_in_both_conventions(robotics, shared, name):
    """DAPG's policies succeed always in these three; the observation shows it at the step that says so."""
    act = policy(shared, name)
    ending, going_on = tasks.get(f"{name}-binary"), tasks.get(f"{name}-binary-continuing")
    _, ended = episode(ending.make_env(), act, 0)
    seen, steps = episode(going_on.make_env(), act, 0)
    first = next(i for i, s in enumerate(steps) if s.info["success"])
    assert len(ended) == first + 1
    assert ended[-1].terminal
    assert [s.reward for s in ended] == [-1.0] * first + [0.0]
    assert len(steps) == 200
    assert steps[-1].timeout
    assert not any(s.terminal for s in steps)
    assert [s.reward for s in steps] == [float(s.info["success"]) - 1 for s in steps]
    assert adroit.SKILLS[name].success(seen[1:]).tolist() == [bool(s.info["success"]) for s in steps]
    for task, run in ((ending, ended), (going_on, steps)):
        assert run[-1].info["episode"] == {"success": 1}
        assert max(s.reward for s in run) == task.reference.solved
        done = task.terminates(None, None, np.array([s.obs for s in run]))
        assert done.tolist() == [s.terminal for s in run]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rate", "score"), [("pen", 0.6, 71), ("door", 1, 104), ("relocate", 1, 99)])
def test_policies_score_as_published(robotics, shared, name, rate, score):
    task = tasks.get(name)
    act, env = policy(shared, name), task.make_env()
    last = [episode(env, act, seed)[1] for seed in range(10)]
    assert np.mean([s[-1].info["episode"]["success"] for s in last]) == pytest.approx(rate)
    assert np.mean([task.score(sum(x.reward for x in s)) for s in last]) == pytest.approx(score, abs=1)


def test_human_doors_relabelled(shared, tmp_path):
    """25 human episodes, of which 7 open the door to 1.35 rad."""
    raw = dict(np.load(shared / "door_human_demos.npz"))
    # D4RL's layout: the last row of an episode has no successor, and is dropped
    names = ("observations", "actions", "rewards", "terminals", "timeouts")
    np.savez(tmp_path / "door.npz", **{name: raw[name] for name in names})
    assert np.abs(raw["actions"]).max() > 1.3
    episodes = np.split(raw["observations"][:, 28], np.flatnonzero(raw["timeouts"])[:-1] + 1)
    opened = [np.flatnonzero(hinge[1:] >= 1.35) for hinge in episodes]
    assert sum(len(rows) > 0 for rows in opened) == 7

    going_on = tasks.get("door-binary-continuing", dataset=tmp_path / "door.npz").dataset
    assert going_on.size == 6729 - 25
    assert len(going_on.lengths) == 25
    assert not going_on.terminal.any()
    assert (going_on.reward == 0).sum() == sum(map(len, opened))
    assert set(going_on.reward.tolist()) == {-1, 0}
    assert np.abs(going_on.action).max() == 1
    assert going_on.info["transforms"][-1] == {"kind": "relabelled", "task": "door-binary-continuing", "dropped": 0}

    ending = tasks.get("door-binary", dataset=tmp_path / "door.npz").dataset
    assert ending.terminal.sum() == 7
    assert (ending.reward == 0).tolist() == ending.terminal.tolist()
    assert ending.lengths.tolist() == [
        rows[0] + 1 if len(rows) else len(hinge) - 1 for rows, hinge in zip(opened, episodes, strict=True)
    ]

    dense = tasks.get("door", dataset=tmp_path / "door.npz").dataset
    assert np.array_equal(dense.reward, raw["rewards"][~raw["timeouts"]])

    write_npz(ending, tmp_path / "binary.npz")  # a file that is binary already comes out as it is
    again = tasks.get("door-binary", dataset=tmp_path / "binary.npz").dataset
    assert again.hash == read(tmp_path / "binary.npz").hash == ending.hash
    assert again.info["transforms"] == ending.info["transforms"]


def test_binary_rewards_are_refused_by_the_dense_task(tmp_path):
    columns = {"observations": np.zeros((3, 39)), "actions": np.zeros((3, 28)), "rewards": np.ones(3)}
    np.savez(tmp_path / "door.npz", **columns, terminals=np.zeros(3), timeouts=np.array([0, 0, 1]))
    assert tasks.get("door", dataset=tmp_path / "door.npz").dataset.reward.tolist() == [1, 1]
    tasks.write_npz(tasks.get("door-binary", dataset=tmp_path / "door.npz").dataset, tmp_path / "binary.npz")
    with pytest.raises(DataError, match="has the rewards of 'door-binary', and 'door' learns from the recorded ones"):
        _ = tasks.get("door", dataset=tmp_path / "binary.npz").dataset


def test_rows_of_another_skill_are_refused(tmp_path):
    columns = {"observations": np.zeros((3, 39)), "actions": np.zeros((3, 28)), "rewards": np.zeros(3)}
    np.savez(tmp_path / "door.npz", **columns, terminals=np.zeros(3), timeouts=np.array([0, 0, 1]))
    with pytest.raises(DataError, match="39 entries, and those of the environment of 'pen-binary' have 45"):
        _ = tasks.get("pen-binary", dataset=tmp_path / "door.npz").dataset
