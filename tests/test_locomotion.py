"""Locomotion: the bodies and their rules of ends, data from synthetic policies, the cache, the sparse tasks."""

import json
import sys
from collections import Counter

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from segue import tasks
from segue.errors import ConfigError, DataError
from segue.files import cache_root
from segue.tasks import locomotion, made
from segue.tasks.formats import write_npz
from segue.tasks.made import Making

# --- behaviours and data


@pytest.fixture
def hopper(tmp_path, monkeypatch):
    """Hopper, and a file of small random policies; the bias of each level's mean tells it from the others."""
    pytest.importorskip("mujoco")
    monkeypatch.setenv("SEGUE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "hopper.safetensors"
    save_file(arrays(), path, metadata={"record": json.dumps({"trained": 5})})
    return locomotion.BODIES["hopper"], path


def arrays(seed=0, log_std=-5.0):
    rng = np.random.default_rng(seed)
    made = {}
    means = {"medium": 0.25, "expert": -0.25, "replay-0": 0.5, "replay-2": -0.5, "replay-10": 1.0}
    for level, mean in means.items():
        for i, (n, m) in enumerate([(11, 8), (8, 8), (8, 6)]):
            made[f"{level}/layer{i}/weight"] = (0.01 * rng.normal(size=(n, m))).astype(np.float16)
            made[f"{level}/layer{i}/bias"] = np.zeros(m, np.float16)
        made[f"{level}/layer2/bias"] = np.array([mean] * 3 + [log_std] * 3, np.float16)
    return made


def test_behaviours(hopper):
    _, path = hopper
    read_ = locomotion.read_behaviours(path, 11, 3)
    assert read_.ladder == ["replay-0", "replay-2", "replay-10"]
    assert read_.record == {"trained": 5}
    net = [(np.full((2, 2), 0.5), np.array([0.0, -9.0])), (np.eye(2), np.zeros(2)), (np.eye(2), np.array([0.5, 1.0]))]
    # hidden relu([1, -8]) = [1, 0]; mean 1.5, log std 1
    action = locomotion.act(net, np.array([1, 1], np.float32), np.array([-0.2]))
    np.testing.assert_allclose(action, [np.tanh(1.5 - 0.2 * np.e)])
    wide = [*net[:2], (np.eye(2), np.array([0.0, 50.0]))]
    np.testing.assert_allclose(locomotion.act(wide, np.zeros(2), np.array([1e-2])), [np.tanh(0.01 * np.exp(2))])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"medium/layer1/bias": None}, "'medium/layer1/bias' is missing"),
        ({"medium/layer0/weight": np.zeros((11, 8), np.float32)}, "'medium/layer0/weight' must be finite float16"),
        ({"medium/layer1/bias": np.full(8, np.nan, np.float16)}, "'medium/layer1/bias' must be finite"),
        ({"medium/layer1/weight": np.zeros((7, 8), np.float16)}, r"'medium/layer1' has weight \(7, 8\)"),
        ({"medium/layer3/bias": np.zeros(8, np.float16)}, "unknown array 'medium/layer3/bias'"),
        ({"best/layer0/bias": np.zeros(8, np.float16)}, "unknown level 'best'"),
    ],
)
def test_bad_behaviours(tmp_path, change, words):
    made = {key: value for key, value in {**arrays(), **change}.items() if value is not None}
    save_file(made, tmp_path / "b.safetensors")
    with pytest.raises(DataError, match=words) as error:
        locomotion.read_behaviours(tmp_path / "b.safetensors", 11, 3)
    assert "b.safetensors" in str(error.value)


def test_behaviour_files_that_are_none(tmp_path, hopper):
    body, path = hopper
    with pytest.raises(DataError, match="no such file of behaviour policies"):
        locomotion.roll_out(body, "medium", 10, tmp_path / "absent.safetensors")
    (tmp_path / "text").write_text("{}")
    with pytest.raises(DataError, match="cannot be read as safetensors"):
        locomotion.roll_out(body, "medium", 10, tmp_path / "text")
    save_file({k: v for k, v in arrays().items() if k.startswith("medium")}, tmp_path / "half")
    for level, missing in (("medium-expert", "expert"), ("medium-replay", "replay-0"), ("expert", "expert")):
        with pytest.raises(DataError, match=f"level '{missing}' is missing; there are: medium"):
            locomotion.roll_out(body, level, 10, tmp_path / "half")
    with pytest.raises(ConfigError, match="did you mean 'expert'"):
        locomotion.roll_out(body, "expret", 10, path)
    with pytest.raises(ConfigError, match="the least is 4"):
        locomotion.roll_out(body, "random", 3)


def test_roll_out(hopper):
    body, path = hopper
    seen = []
    data = {
        level: locomotion.roll_out(body, level, 300, path, lambda d, t: seen.append((d, t)))
        for level in locomotion.LEVELS
    }
    assert seen == [(300, 300)] * 5
    assert len({d.hash for d in data.values()}) == 5
    for level, d in data.items():
        assert d.size == 300
        assert d.name == f"segue/hopper/{level}-v0"
        assert (d.action * 4096 == np.rint(d.action * 4096)).all()
        assert np.abs(d.action).max() < 1
        ended = np.asarray(body.terminates(jnp.array(d.obs), jnp.array(d.action), jnp.array(d.next_obs)))
        assert (ended == d.terminal).all()
        assert d.terminal.sum() > 3
        assert d.terminal[-1] or d.timeout[-1]
        assert "transforms" not in d.info
        assert d.info["mujoco"]
        assert locomotion.roll_out(body, level, 300, path).hash == d.hash

    def means(d, rows=slice(None)):
        return d.action[rows].mean(axis=1)

    t = np.tanh
    np.testing.assert_allclose(means(data["medium"]), t(0.25), atol=0.05)
    both = data["medium-expert"]
    np.testing.assert_allclose(means(both, slice(0, 150)), t(0.25), atol=0.05)
    np.testing.assert_allclose(means(both, slice(150, 300)), t(-0.25), atol=0.05)
    assert both.terminal[149] or both.timeout[149]
    replay = data["medium-replay"]
    levels = np.round(means(replay, replay.starts), 1)
    assert set(levels) <= set(np.float32([0.5, -0.5, 0.8]))
    assert len(set(levels)) == 3
    for start, length in zip(replay.starts, replay.lengths, strict=True):
        assert np.ptp(means(replay, slice(start, start + length))) < 0.1  # one policy per episode
    assert np.std(data["random"].action) == pytest.approx(3**-0.5, abs=0.03)


def test_actions_stay_inside_the_open_interval(hopper, tmp_path):
    body, _ = hopper
    save_file({**arrays(), "medium/layer2/bias": np.array([9, -9, 0, -5, -5, -5], np.float16)}, tmp_path / "far")
    action = locomotion.roll_out(body, "medium", 20, tmp_path / "far").action
    assert set(action[:, 0]) == {1 - 2.0**-12}
    assert set(action[:, 1]) == {2.0**-12 - 1}


def test_hopper_terminates_by_hand():
    ends = locomotion.BODIES["hopper"].terminates
    obs = np.zeros((6, 11))
    obs[:, 0] = [1.2, 0.69, 1.2, 1.2, 1.2, np.nan]
    obs[2, 1], obs[3, 1], obs[4, 7] = 0.21, -0.21, 100
    assert np.asarray(ends(None, None, jnp.array(obs))).tolist() == [False, True, True, True, True, True]


def test_cache(hopper, monkeypatch):
    body, path = hopper
    said, rolls = [], Counter()
    roll_out = locomotion.roll_out

    def counted(*args, **kwargs):
        rolls["n"] += 1
        return roll_out(*args, **kwargs)

    monkeypatch.setattr(locomotion, "roll_out", counted)

    def get(force=False):
        return locomotion.cached(body, "medium", 60, path, Making(message=said.append, force=force))

    first = get()
    file = cache_root() / "datasets" / "segue" / "hopper" / "medium-v0.npz"
    manifest = file.with_suffix(".json")
    assert file.is_file()
    assert json.loads(manifest.read_text())["hash"] == first.hash
    again = get()
    assert again.hash == first.hash
    assert again.info == first.info
    assert rolls["n"] == 1
    assert not said
    get(force=True)
    assert rolls["n"] == 2
    assert not said

    # other policies: made again, and said
    save_file(arrays(seed=1), path)
    changed = get()
    assert changed.hash != first.hash
    assert rolls["n"] == 3
    assert len(said) == 1
    assert "behaviours was" in said[0]
    assert "made again" in said[0]

    # rows changed behind the manifest's back
    write_npz(first, file)
    with pytest.raises(DataError, match="segue data make hopper-medium --force") as error:
        get()
    assert file.name in str(error.value)
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(DataError, match="segue data make hopper-medium --force"):
        get()
    assert get(force=True).hash == changed.hash
    manifest.write_text("{")
    with pytest.raises(DataError, match=r"not a manifest.*--force"):
        get()
    get(force=True)

    # another MuJoCo: made again, and said; without MuJoCo the cached set serves
    n, versions = rolls["n"], made.installed("mujoco", "gymnasium")
    assert set(versions) == {"mujoco", "gymnasium", "numpy"}
    assert json.loads(manifest.read_text()).items() >= versions.items()
    with monkeypatch.context() as m:
        m.setattr(made, "installed", lambda *_: versions | {"mujoco": "0.1"})
        get()
        assert rolls["n"] == n + 1
        assert f"mujoco was {versions['mujoco']} and is now 0.1; the dataset is made again" in said[-1]
        m.setattr(made, "installed", lambda *_: {"numpy": "0.1"})
        assert get().hash == changed.hash
    assert rolls["n"] == n + 1
    get()
    assert rolls["n"] == n + 2
    assert "mujoco was 0.1" in said[-1]
    with monkeypatch.context() as m:  # nor other bodies; NumPy's streams are stable
        m.setattr(made, "installed", lambda *_: versions | {"gymnasium": "0.2", "numpy": "0.1"})
        get()
    assert rolls["n"] == n + 3
    assert f"gymnasium was {versions['gymnasium']} and is now 0.2" in said[-1]
    get()
    assert rolls["n"] == n + 4
    with monkeypatch.context() as m:
        m.setattr(made, "installed", lambda *_: versions | {"numpy": "0.1"})
        get()
    assert rolls["n"] == n + 4

    manifest.unlink()
    assert get().hash == changed.hash
    assert "manifest medium-v0.json is missing" in said[-1]
    with pytest.warns(UserWarning, match="rows was 60 and is now 50"):
        locomotion.cached(body, "medium", 50, path)


def test_published_checksum(hopper, monkeypatch):
    body, path = hopper
    said = []
    known = {"hash": "0" * 64, "rows": 20, "versions": {"mujoco": "1.2.3", "a-package": "1"}}
    monkeypatch.setattr(made, "published", lambda: {"segue/hopper/medium-v0": known})
    data = locomotion.cached(body, "medium", 20, path, Making(message=said.append))
    assert len(said) == 1
    assert f"mujoco {data.info['mujoco']}" in said[0]
    assert "mujoco 1.2.3" in said[0]
    assert "None" not in said[0]
    known["hash"] = data.hash
    locomotion.cached(body, "medium", 20, path, Making(message=said.append))
    assert len(said) == 1


@pytest.mark.usefixtures("hopper")
def test_hopper_task(monkeypatch):
    task = tasks.get("hopper")
    env = task.make_env()
    assert (env.obs_dim, env.act_dim, env.horizon) == (task.obs_dim, task.act_dim, task.horizon) == (11, 3, 1000)
    first = env.reset(5)
    trail = [env.step(np.full(3, 0.1)).obs for _ in range(5)]
    env.reset(5)
    np.testing.assert_array_equal(trail, [env.step(np.full(3, 0.1)).obs for _ in range(5)])  # replayable
    assert task.replayable
    assert first.shape == (11,)
    assert task.score(3234.3) == 100
    assert task.score(-20.272305) == 0
    assert task.score_name == "D4RL hopper"
    with pytest.raises(ConfigError, match="'hopper' has no dataset"):
        _ = task.dataset
    with pytest.raises(ConfigError, match="'hopper' has no dataset"):
        tasks.make_dataset("hopper", force=True)
    monkeypatch.setattr(locomotion, "ROWS", 20)
    ticks = []
    made = tasks.make_dataset("hopper-random", progress=lambda done, total: ticks.append((done, total)))
    assert made.size == 20
    assert ticks == [(20, 20)]
    assert tasks.make_dataset("hopper-random", progress=lambda *_: pytest.fail("made again")).hash == made.hash
    forced = []
    tasks.make_dataset("hopper-random", force=True, progress=lambda *_: forced.append(1))
    assert forced == [1]


def test_without_mujoco(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(ConfigError, match=r"pip install 'segue\[mujoco\]'"):
        tasks.get("hopper").make_env()


# --- the bodies

DIMS = {"hopper": (11, 3), "halfcheetah": (17, 6), "walker2d": (17, 6), "ant": (27, 8)}
SPARSE = {"ant-sparse": (28, 8), "halfcheetah-sparse": (17, 6)}


def test_walker2d_terminates_by_hand():
    ends = locomotion.BODIES["walker2d"].terminates
    obs = np.zeros((7, 17))
    obs[:, 0] = [1.2, 0.79, 2.01, 0.81, 1.99, 1.2, np.nan]
    obs[5, 1] = -1.01
    assert np.asarray(ends(None, None, jnp.array(obs))).tolist() == [False, True, True, False, False, True, True]


def test_ant_terminates_by_hand():
    ends = locomotion.BODIES["ant"].terminates
    obs = np.zeros((6, 27))
    obs[:, 0] = [0.5, 0.19, 1.01, 0.21, 0.99, 0.5]
    obs[5, 20] = np.inf
    assert np.asarray(ends(None, None, jnp.array(obs))).tolist() == [False, True, True, False, False, True]


def test_nothing_ends_the_cheetah():
    ends = locomotion.BODIES["halfcheetah"].terminates(None, None, jnp.array([[1.0, -5], [np.nan, 0], [-9, 9]]))
    assert ends.dtype == bool
    assert ends.tolist() == [False] * 3


@pytest.mark.parametrize(("name", "dims"), [*DIMS.items(), *SPARSE.items()])
def test_bodies(name, dims):
    pytest.importorskip("mujoco")
    task = tasks.get(name)
    env = task.make_env()
    assert (env.obs_dim, env.act_dim, env.horizon) == (task.obs_dim, task.act_dim, task.horizon) == (*dims, 1000)
    assert (env.action_low == -1).all()
    assert (env.action_high == 1).all()
    actions = np.random.default_rng(0).uniform(-1, 1, (25, task.act_dim))

    def episode(seed):
        return np.array([env.reset(seed), *(env.step(action).obs for action in actions)])

    first = episode(5)
    np.testing.assert_array_equal(first, episode(5))  # replayable, to the last bit
    assert (first != episode(6)).any(1).all()
    assert task.replayable
    env.close()


@pytest.mark.parametrize("name", ["halfcheetah", "walker2d", "ant"])
def test_rules_of_ends_hold_in_the_simulator(name, monkeypatch, tmp_path):
    pytest.importorskip("mujoco")
    monkeypatch.setenv("SEGUE_CACHE", str(tmp_path))
    task, rows = tasks.get(f"{name}-random"), 1500
    data = locomotion.roll_out(locomotion.BODIES[name], "random", rows)
    ends = task.terminates(jnp.array(data.obs), jnp.array(data.action), jnp.array(data.next_obs))
    np.testing.assert_array_equal(ends, data.terminal)
    assert data.terminal.sum() > 5 if name != "halfcheetah" else data.lengths.tolist() == [1000, 500]


def test_scores_are_d4rls():
    for name, low, high in (
        ("halfcheetah", -280.178953, 12135.0),
        ("walker2d", 1.629008, 4592.3),
        ("ant", -325.6, 3879.7),
    ):
        task = tasks.get(name)
        assert (task.score(low), task.score(high)) == (0, 100)
        assert task.score_name == f"D4RL {name}"


def test_levels_are_listed_where_the_behaviours_are(monkeypatch, tmp_path):
    monkeypatch.setattr(locomotion.Body, "behaviours", property(lambda body: tmp_path / f"{body.name}.safetensors"))
    without = [name for name in tasks.names() if name.startswith("walker2d")]
    assert without == ["walker2d", "walker2d-random"]
    with pytest.raises(ConfigError, match="unknown task 'walker2d-medium'"):
        tasks.get("walker2d-medium")
    (tmp_path / "walker2d.safetensors").write_bytes(b"")
    names = tasks.names()
    assert [n for n in names if n.startswith("walker2d-")] == [f"walker2d-{level}" for level in locomotion.LEVELS]
    assert "ant-medium" not in names


# --- the sparse tasks


@pytest.mark.parametrize(("name", "line"), [("ant-sparse", 10.0), ("halfcheetah-sparse", 20.0)])
def test_sparse_tasks_pay_beyond_the_line(name, line):
    pytest.importorskip("mujoco")
    task = tasks.get(name)
    env = task.make_env()
    first = env.reset(3)
    simulator = env._env._env.unwrapped
    x0 = simulator.data.qpos[0]
    assert 0 < abs(x0) < 0.1

    def rewards_at(x):
        qpos, qvel = simulator.init_qpos.copy(), np.zeros_like(simulator.init_qvel)
        qpos[0] = x
        simulator.set_state(qpos, qvel)
        step = env.step(np.zeros(task.act_dim))
        assert simulator.data.qpos[0] == pytest.approx(x, abs=1e-3)
        return step.reward

    assert [rewards_at(x0 + line + d) for d in (0.01, -0.01, 0.01)] == [1, 0, 1]
    seen = env.step(np.zeros(task.act_dim)).obs
    qpos, qvel = simulator.data.qpos, simulator.data.qvel
    expected = [qpos[:1], qpos[2:], qvel] if name == "ant-sparse" else [qpos[1:], qvel]
    np.testing.assert_array_equal(seen, np.concatenate(expected).astype(np.float32))
    assert first.shape == seen.shape
    steps = [env.step(np.zeros(task.act_dim)) for _ in range(1000 - 4)]
    assert not any(s.terminal or s.timeout or "episode" in s.info for s in steps[:-1])
    assert steps[-1].timeout
    assert steps[-1].info["episode"] == {"success": 1.0}


def test_a_fallen_ant_goes_on_and_a_new_episode_begins_without_success():
    pytest.importorskip("mujoco")
    env = tasks.get("ant-sparse").make_env()
    env.reset(0)
    simulator = env._env._env.unwrapped
    qpos = simulator.init_qpos.copy()
    qpos[0], qpos[2], qpos[3:7] = 12.0, 1.5, [0, 1, 0, 0]  # on its back, too high to be healthy, beyond the line
    simulator.set_state(qpos, np.zeros_like(simulator.init_qvel))
    step = env.step(np.zeros(8))
    assert (step.reward, step.terminal) == (1, False)
    env.reset(1)
    steps = [env.step(np.zeros(8)) for _ in range(1000)]
    assert steps[-1].info["episode"] == {"success": 0.0}
    task = tasks.get("ant-sparse")
    assert task.score_name == "success rate"
    assert [task.score(r, s) for r, s in ((0, 0.0), (1, 1.0), (1000, 1.0))] == [0, 100, 100]
    assert task.load_dataset is None
    assert task.terminates(None, None, jnp.zeros((2, 28))).tolist() == [False, False]
