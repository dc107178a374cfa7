"""Formats: every layout read and written, nothing lost between them, and every file that must not get in."""

import json
import os
import shutil
import subprocess
import sys
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from test_datasets import flags

from segue import tasks
from segue.errors import ConfigError, DataError, SegueError
from segue.tasks.dataset import COLUMNS, D4RL, Dataset, dataset_from_arrays, licensed
from segue.tasks.formats import Reading, located, manifest, read, read_columns, write
from segue.tasks.formats import table as tables
from segue.tasks.formats.common import Sizes
from segue.tasks.task import Reference

pa = pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
pq = pytest.importorskip("pyarrow.parquet")

KEPT = {"npz": "a.npz", "d4rl": "a.hdf5", "csv": "a.csv", "parquet": "a.parquet", "minari": "a-v0"}


def columns(n=4, **changes):
    """n rows of one episode, the last terminal; observations (i, 10 i) count up."""
    obs = np.arange(n + 1, dtype=np.float32)[:, None] * np.array([1, 10], np.float32)
    made = {
        "obs": obs[:-1],
        "action": np.linspace(-1, 1, n, dtype=np.float32)[:, None],
        "reward": np.arange(n, dtype=np.float32),
        "next_obs": obs[1:],
        "terminal": np.arange(n) == n - 1,
        "timeout": np.zeros(n, bool),
    }
    made.update(changes)
    return {key: value for key, value in made.items() if value is not None}


def kinds(dataset):
    return [record["kind"] for record in dataset.info.get("transforms", [])]


def hdf5(path, given, **attrs):
    with h5py.File(path, "w") as file:
        for key, value in given.items():
            file[D4RL.get(key, key)] = value
        file.attrs.update(attrs)
    return path


# --------------------------------------------------------------------------------------------------------- round trips


@st.composite
def datasets(draw, chained=False):
    """Arbitrary datasets; `chained`: each row begins where the one before it led, as Minari needs."""
    n, d, a = draw(st.integers(2, 9)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    real = lambda shape, bound: hnp.arrays(np.float32, shape, elements=st.floats(-bound, bound, width=32))
    end = draw(hnp.arrays(bool, n))
    end[-1] = True
    terminal = end & draw(hnp.arrays(bool, n))
    obs, next_obs = draw(real((n, d), 2.0**60)), draw(real((n, d), 2.0**60))
    if chained:
        next_obs[:-1][~end[:-1]] = obs[1:][~end[:-1]]
    info = {"source": "drawn", "transforms": [{"kind": "actions_mapped", "low": [-2.0], "high": [2.0]}], "ü": [1, None]}
    reward = draw(real((n,), 2.0**60))
    return Dataset(obs, draw(real((n, a), 1)), reward, next_obs, terminal, end & ~terminal, "segue/x", info).validate()


@pytest.mark.parametrize("kind", KEPT)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_nothing_is_lost(tmp_path_factory, kind, data):
    dataset = data.draw(datasets(chained=kind == "minari"))
    path = tmp_path_factory.mktemp("round") / KEPT[kind]
    write(dataset, path)
    with_bounds = {"action_low": -2, "action_high": 2, "max_episode_steps": 1}  # nothing is done a second time
    back = read(path, **with_bounds, reading=Reading(terminals="cut", rewards="count"))
    assert back.hash == dataset.hash
    for column in COLUMNS:  # -0.0 too
        assert getattr(back, column).tobytes() == getattr(dataset, column).tobytes()
    assert back.info == dataset.info
    assert back.name == "segue/x"
    left = {"a.csv.json"} if kind == "csv" else set()
    assert {p.name for p in path.parent.iterdir()} == {path.name} | left


def test_a_dataset_goes_through_every_format_and_stays_the_same(tmp_path):
    first = dataset_from_arrays(columns(action=np.linspace(-2, 2, 4)[:, None]), "x", action_low=-2, action_high=2)
    first = dataset = licensed(first, "MIT")
    for name in (*KEPT.values(), "a.segue"):
        write(dataset, tmp_path / name)
        dataset = read(tmp_path / name)
    assert dataset.hash == first.hash
    mapped = {"kind": "actions_mapped", "low": [-2.0], "high": [2.0]}
    assert dataset.info == first.info == {"transforms": [mapped], "licence": "MIT"}


def test_a_licence_is_a_text(tmp_path):
    write(dataset_from_arrays(columns(), "x", info={"licence": ["MIT"]}), tmp_path / "a.npz")
    with pytest.raises(DataError, match="'licence' is no text"):
        read(tmp_path / "a.npz")


def test_long_infos_are_kept(tmp_path):
    info = {"record": ["x" * 100] * 2000}  # more than an attribute of HDF5 holds
    dataset = dataset_from_arrays(columns(), "long", info=info)
    for name in KEPT.values():
        write(dataset, tmp_path / name)
        assert read(tmp_path / name).info == info


def test_write_refuses(tmp_path):
    dataset = dataset_from_arrays(columns(), "x")
    for name in ("a.pkl", "a", "a.npy"):
        with pytest.raises(ConfigError, match=r"segue writes segue, npz, .*choose one of these"):
            write(dataset, tmp_path / name)
    with pytest.raises(ConfigError, match="choose one of these"):
        write(dataset, tmp_path / "a.npz", "ogbench")
    with pytest.raises(DataError, match=r"this format is \.hdf5"):
        write(dataset, tmp_path / "a.npz", "d4rl")
    broken = dataset_from_arrays(columns(), "x", info={"bad": object()})
    for name in KEPT.values():
        with pytest.raises(DataError, match="cannot be written as JSON"):
            write(broken, tmp_path / name)
    (tmp_path / "file").write_text("")
    for name in KEPT.values():
        with pytest.raises(DataError, match="cannot be written"):
            write(dataset, tmp_path / "file" / name)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_manifest(tmp_path):
    given_columns = columns(terminal=flags(".t.."), timeout=flags("...t"), reward=[1, 2, 3, 5])
    np.savez(tmp_path / "m.npz", **given_columns)
    dataset = read(tmp_path / "m.npz", name="m")
    told = json.loads(json.dumps(manifest(dataset, Reference("table", 0, 10)), allow_nan=False))
    assert told["format"] == "npz"
    assert told["source"] == "m.npz"
    assert told["licence"] is None  # nothing is guessed
    assert manifest(licensed(dataset, "CC-BY-4.0"))["licence"] == "CC-BY-4.0"
    assert (told["rows"], told["episodes"], told["terminals"], told["timeouts"]) == (4, 2, 1, 1)
    assert told["return"] == {"min": 3, "mean": 5.5, "median": 5.5, "max": 8, "std": 2.5}
    assert told["length"] == {"min": 2, "mean": 2, "median": 2, "max": 2, "std": 0}
    assert told["observation"] == {"dim": 2, "low": [0, 0], "high": [3, 30]}
    assert told["action"] == {"dim": 1, "low": [-1], "high": [1]}
    assert told["transforms"] == []
    assert told["reference"] == {"name": "table", "minimum": 0, "maximum": 10, "solved": None, "score": 55}
    assert told["hash"] == dataset.hash
    assert told["versions"].keys() == {"segue"}


# ------------------------------------------------------------------------------------------------------------- reading


def test_reading_is_json_and_checks_its_fields():
    reading = Reading(columns={"obs": "s_*"}, episode="e", clip_actions=True, terminal_reward=4.0)
    changes = json.loads(json.dumps(reading.changes()))
    assert changes == {"columns": {"obs": "s_*"}, "episode": "e", "clip_actions": True, "terminal_reward": 4.0}
    bounded = Reading(action_low=[0, -1], action_high=np.float32(10))
    assert bounded.changes() == {"action_low": [0.0, -1.0], "action_high": 10.0}
    assert Reading.of(json.loads(json.dumps(bounded.changes()))) == bounded
    assert Reading.of(changes) == reading
    assert Reading().changes() == {}
    for bad, words in (
        ({"kind": "hdf"}, "unknown kind of file 'hdf'"),
        ({"rewards": "counts"}, "did you mean 'count'"),
        ({"terminals": "x"}, "terminals are 'x'"),
        ({"columns": {"observation": "s_*"}}, "unknown column 'observation'"),
        ({"columns": {"obs": ""}}, "pattern of 'obs'"),
        ({"columns": "obs=s"}, "columns are 'obs=s'"),
        ({"epsiode": "e"}, "did you mean 'episode'"),
        ({"episode": 3}, "episode is 3"),
        ({"clip_actions": 1}, "clip_actions is 1"),
        ({"terminal_reward": "4"}, "terminal_reward is '4'"),
        ({"action_low": 0.0}, "--action-low and --action-high .* go together"),
        ({"action_low": "0", "action_high": 1}, "action_low is '0'; give a finite number"),
        ({"action_low": 0, "action_high": [1, float("inf")]}, "action_high is .*; give a finite number"),
        ({"action_low": [], "action_high": 1}, "action_low is"),
        ({"action_low": [0, 3], "action_high": [1, 3]}, "is 3 and --action-high 3 in entry 1 .*; low must lie below"),
        ({"action_low": [0, 0], "action_high": [1, 1, 1]}, "has 2 numbers and --action-high 3"),
    ):
        with pytest.raises(ConfigError, match=words):
            Reading.of(bad)
    with pytest.raises(ConfigError, match="no set of fields"):
        Reading.of("x")


def test_a_reading_rescales_actions_once(tmp_path):
    file = tmp_path / "robot.npz"
    np.savez(file, **columns(action=[[0, -1], [10, 1], [2.5, 0], [5, 0.5]]))
    reading = Reading(action_low=[0, -1], action_high=[10, 1])
    data = read(file, reading=reading)
    assert data.action.tolist() == [[-1, -1], [1, 1], [-0.5, 0], [0, 0.5]]
    assert data.info["transforms"] == [{"kind": "actions_mapped", "low": [0, -1], "high": [10, 1]}]
    write(data, tmp_path / "own.npz")
    assert read(tmp_path / "own.npz", reading=reading).info == data.info  # not once more
    assert read(file, action_low=[0, -1], action_high=np.array([10, 1]), reading=reading).hash == data.hash
    for low, high in ((0, 10), ([0, -1, 0], 1), (None, [10, 1])):
        with pytest.raises(
            ConfigError, match=r"--action-low .* are \[0, -1\] to \[10, 1\], and the box of the environ"
        ):
            read(file, action_low=low, action_high=high, reading=reading)
    with pytest.raises(ConfigError, match=r"the box of the environment is -1 to 1; .*segue data import"):
        tasks.get("point-wall", dataset=file, reading=reading)
    with pytest.raises(DataError, match="has 2 actions per row, and there are bounds for 3"):
        read(file, reading=Reading(action_low=[0, 0, 0], action_high=10))
    narrow = {"action_low": -1, "action_high": [9, 1]}
    with pytest.raises(
        DataError, match=r"row 1 holds 10 in entry 0, outside \[-1, 9\] .*--action-low and --action-high"
    ):
        read(file, reading=Reading(**narrow))
    assert kinds(read(file, reading=Reading(**narrow, clip_actions=True))) == ["actions_mapped", "actions_clipped"]


def test_a_reading_is_part_of_a_tasks_source(tmp_path):
    file = tmp_path / "human.npz"
    np.savez(file, **columns(action=np.full((4, 1), 1.5)))
    reading = Reading(clip_actions=True)
    task = tasks.custom_task(None, file, reading=reading)
    assert task.source["reading"] == {"clip_actions": True}
    again = tasks.from_source(json.loads(json.dumps(task.source)))
    assert again.dataset.hash == task.dataset.hash
    assert "reading" not in tasks.custom_task("Pendulum-v1", None).source
    wide = columns(action=np.full((4, 2), 1.5))
    np.savez(file, **wide)
    with pytest.raises(DataError, match="clip_actions"):
        assert tasks.get("point-wall", dataset=file).dataset
    named = tasks.get("point-wall", dataset=file, reading=reading)
    again = tasks.from_source(json.loads(json.dumps(named.source)))
    assert again.reading == reading
    assert again.dataset.action.tolist() == [[1, 1]] * 4
    with pytest.raises(ConfigError, match="unknown field"):
        tasks.from_source({**named.source, "reading": {"x": 1}})


# ---------------------------------------------------------------------------------------------------------------- D4RL


def test_human_actions_beyond_one_are_clipped_on_demand(tmp_path):
    path = hdf5(tmp_path / "door.hdf5", columns(action=[[-1.28], [0], [1.37], [1]]))
    with pytest.raises(DataError, match=r"row 0 holds -1.28 .* \(2 rows in all\).*--clip-actions .`clip_actions=True`"):
        read(path)
    data = read(path, reading=Reading(clip_actions=True))
    assert data.action[:, 0].tolist() == [-1, 0, 1, 1]
    assert data.info["transforms"] == [{"kind": "actions_clipped", "rows": 2, "largest": pytest.approx(1.37)}]
    back = tmp_path / "b.npz"
    write(data, back)
    assert read(back, reading=Reading(clip_actions=True)).info == data.info  # not once more


def test_antmaze_without_next_observations(tmp_path):
    # rows:   0 1 2(goal) 3(goal) 4 | 5 6 7      rows 2 and 3 are terminal, 4 and 7 are timeouts
    given_columns = columns(8, next_obs=None, terminal=flags("..tt...."), timeout=flags("....t..t"))
    data = read(hdf5(tmp_path / "antmaze.hdf5", given_columns | {"infos/goal": np.zeros((8, 2))}))
    # 4 and 7 have no successor: 4 was an episode of its own
    assert data.obs[:, 0].tolist() == [0, 1, 2, 3, 5, 6]
    assert data.next_obs[:, 0].tolist() == [1, 2, 2, 3, 6, 7]
    assert data.terminal.tolist() == flags("..tt..").tolist()
    assert data.timeout.tolist() == flags(".....t").tolist()
    assert data.starts.tolist() == [0, 3, 4]
    assert data.info["ignored_columns"] == ["infos"]
    assert kinds(data) == ["next_obs_from_next_row", "rows_dropped"]


def test_maze2d_is_off_by_one_and_never_ends(tmp_path):
    # the reward of a row is that of its own observation; a timeout marks a new target, its row is recorded twice
    given_columns = columns(
        6, next_obs=None, reward=[0, 0, 1, 1, 0, 1], terminal=np.zeros(6, bool), timeout=flags("..t...")
    )
    path = hdf5(tmp_path / "maze2d.hdf5", given_columns)
    plain = read(path)
    assert plain.reward.tolist() == [0, 0, 1, 0]  # of rows 0, 1, 3, 4
    data = read(path, reading=Reading(rewards="observation"))
    assert data.obs[:, 0].tolist() == [0, 1, 3, 4]
    assert data.reward.tolist() == [0, 1, 0, 1]  # those of rows 1, 2, 4, 5
    assert data.timeout.tolist() == flags(".t.t").tolist()
    assert not data.terminal.any()
    dropped = [r["rows"] for r in data.info["transforms"] if r["kind"] == "rows_dropped"]
    assert dropped == [2]
    assert "rewards_shifted" in kinds(data)


def test_rewards_of_observations_with_next_observations_and_ends():
    data = dataset_from_arrays(columns(timeout=flags(".t.t"), terminal=None), "m", rewards="observation")
    assert data.obs[:, 0].tolist() == [0, 2]
    assert data.next_obs[:, 0].tolist() == [1, 3]
    assert data.reward.tolist() == [1, 3]
    assert data.timeout.tolist() == [True, True]
    with pytest.raises(DataError, match=r"row 3 is terminal.*--rewards transition .`rewards='transition'`"):
        dataset_from_arrays(columns(), "m", rewards="observation")


@pytest.mark.parametrize("next_obs", [True, False])
def test_the_transition_that_leads_to_a_paid_observation_ends_the_task(next_obs):
    rewards = [0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 0, 0]  # of three recordings, the last of which begins at the goal
    given_columns = columns(15, terminal=None, timeout=flags(".....t.....t..t"), reward=rewards)
    assert dataset_from_arrays(given_columns, "m", terminal_reward=1).terminal.nonzero()[0].tolist() == [3, 9, 10]
    if not next_obs:
        del given_columns["next_obs"]
    data = dataset_from_arrays(given_columns, "m", rewards="observation", terminal_reward=1)
    # transitions 2 and 10 are paid and end; 3, 4 lie behind an end; 5, 11, 14 lead nowhere; 12 began at the goal
    assert data.obs[:, 0].tolist() == [0, 1, 2, 6, 7, 8, 9, 10, 12, 13]
    assert data.reward.tolist() == [0, 0, 1, 0, 0, 0, 0, 1, 0, 0]
    assert data.terminal.tolist() == flags("..t....t..").tolist()
    assert data.timeout.tolist() == flags(".........t").tolist()
    assert [r["rows"] for r in data.info["transforms"] if r["kind"] in ("rows_dropped", "ends_by_reward")] == [3, 2, 2]


def test_kitchen_counts_become_gains_and_ends_of_demonstrations_cuts(tmp_path):
    # counts of subtasks done so far; a terminal marks the end of a demonstration, all four done is the end of the task
    counts = [0, 1, 1, 0, 2, 2, 3, 4, 4, 4]
    ends = flags("...t.....t")
    given_columns = columns(10, next_obs=None, timeout=None, reward=counts, terminal=ends)
    path = hdf5(tmp_path / "kitchen.hdf5", given_columns)
    reading = Reading(rewards="count", terminals="cut", terminal_reward=4)
    data = read(path, reading=reading)
    # row 3 is the last of a cut demonstration; rows 8 and 9 lie behind the end at row 7
    assert data.obs[:, 0].tolist() == [0, 1, 2, 4, 5, 6, 7]
    assert data.reward.tolist() == [0, 1, 0, 2, 0, 1, 1]
    assert data.terminal.tolist() == flags("......t").tolist()
    assert data.timeout.tolist() == flags("..t....").tolist()
    assert data.returns.tolist() == [1, 4]
    assert kinds(data) == [
        "terminals_are_cuts", "rewards_are_gains", "ends_by_reward", "rows_dropped", "next_obs_from_next_row",
        "rows_dropped",
    ]  # fmt: skip
    falling = dataset_from_arrays(columns(5, reward=[1, 0, 1, 3, 2]), "f", rewards="count")
    assert falling.reward.tolist() == [1, 0, 0, 2, 0]  # undone and done again pays once


def test_a_time_limit_given_for_a_file_without_timeouts(tmp_path):
    given_columns = columns(7, next_obs=None, timeout=None, terminal=np.zeros(7, bool))
    data = read(hdf5(tmp_path / "human-v0.hdf5", given_columns), max_episode_steps=3)
    assert data.obs[:, 0].tolist() == [0, 1, 3, 4]
    assert data.info["transforms"][0] == {"kind": "time_limit", "steps": 3, "rows": 2}


def test_metadata_of_d4rl_is_never_read(tmp_path):
    path = hdf5(tmp_path / "a.hdf5", columns())
    with h5py.File(path, "a") as file:
        file.create_dataset("metadata/policy", (2,), h5py.vlen_dtype(np.float32))
        file["infos/gone"] = h5py.ExternalLink("/etc/passwd", "x")
    assert read(path).info["ignored_columns"] == ["infos", "metadata"]


def test_columns_for_the_linter_are_raw(tmp_path):
    values = columns(obs=np.array([[0, np.nan]] * 4), action=np.full((4, 1), 7.0))
    raw = read_columns(hdf5(tmp_path / "raw.hdf5", values))
    assert raw.columns.keys() == set(D4RL.values())
    assert raw.columns["observations"].dtype == np.float64
    assert np.isnan(raw.columns["observations"][:, 1]).all()
    assert not raw.own
    np.savez(tmp_path / "raw.npz", **values)
    assert read_columns(tmp_path / "raw.npz").columns["obs"].dtype == np.float64
    write(dataset_from_arrays(columns(), "own"), tmp_path / "own.npz")
    own = read_columns(tmp_path / "own.npz")
    assert (own.own, own.name) == (True, "own")


def peak_of(call):
    """What a call gives, and the most memory that it held at once, in units of the dataset's arrays."""
    tracemalloc.start()
    try:
        dataset = call()
        return dataset, tracemalloc.get_traced_memory()[1] / sum(getattr(dataset, c).nbytes for c in COLUMNS)
    finally:
        tracemalloc.stop()


def test_reading_is_lean(tmp_path):
    n = 200_000
    obs = np.random.default_rng(0).standard_normal((n + 1, 20), np.float32)
    timeout = np.arange(n) % 100 == 99
    whole = columns(n, obs=obs[:-1], next_obs=obs[1:], terminal=np.zeros(n, bool), timeout=timeout)
    np.savez(tmp_path / "a.npz", **whole)
    hdf5(tmp_path / "a.hdf5", whole)
    hdf5(tmp_path / "wide.hdf5", {**whole, "obs": obs[:-1].astype(float), "next_obs": obs[1:].astype(float)})
    short = {key: value for key, value in whole.items() if key != "next_obs"}
    hdf5(tmp_path / "bare.hdf5", short)
    read(tmp_path / "a.npz")  # what is imported once
    for name in ("a.npz", "a.hdf5", "wide.hdf5"):
        dataset, peak = peak_of(lambda name=name: read(tmp_path / name))
        assert dataset.size == n
        assert peak < 1.3
    dataset, peak = peak_of(lambda: read(tmp_path / "bare.hdf5"))
    assert dataset.size == n - n // 100
    assert peak < 1.3
    assert peak_of(lambda: dataset_from_arrays(whole, "shared"))[1] < 0.3  # float32 is not copied
    assert peak_of(lambda: dataset_from_arrays(short, "bare"))[1] < 1.3


def test_fortran_order_and_big_endian_come_out_as_they_are(tmp_path):
    obs = np.arange(8, dtype=">f8").reshape(4, 2)
    np.savez(tmp_path / "a.npz", **columns(obs=np.asfortranarray(obs), next_obs=None, timeout=flags("....")))
    hdf5(tmp_path / "a.hdf5", columns(obs=obs, next_obs=None, timeout=flags("....")))
    for name in ("a.npz", "a.hdf5"):
        data = read(tmp_path / name)
        assert data.obs.tolist() == obs.tolist()
        assert data.obs.dtype == np.float32


# -------------------------------------------------------------------------------------------------------------- Minari


def folder(path, episodes, **metadata):
    """Minari's HDF5 layout: of each episode a dictionary of columns."""
    data = path / "data"
    data.mkdir(parents=True)
    with h5py.File(data / "main_data.hdf5", "w") as file:
        for i, episode in enumerate(episodes):
            for key, value in episode.items():
                file[f"episode_{i}/{key}"] = value
    (data / "metadata.json").write_text(json.dumps({"data_format": "hdf5", "dataset_id": "ns/x-v0", **metadata}))
    return path


def episode(steps, start=0.0, end="truncations", **changes):
    made = {
        "observations": start + np.arange(steps + 1)[:, None] * np.array([1.0, 10.0]),
        "actions": np.zeros((steps, 1), np.float32),
        "rewards": np.ones(steps),
        "terminations": np.zeros(steps, bool),
        "truncations": np.zeros(steps, bool),
    }
    if end:
        made[end][-1] = True
    made.update(changes)
    return {key: value for key, value in made.items() if value is not None}


def test_minari_loses_no_observation(tmp_path):
    path = folder(tmp_path / "x-v0", [episode(3), episode(2, 100, "terminations"), episode(1, 200, None)])
    for place in (path, path / "data", path / "data" / "main_data.hdf5"):
        data = read(place)
        assert data.obs[:, 0].tolist() == [0, 1, 2, 100, 101, 200]
        assert data.next_obs[:, 1].tolist() == [10, 20, 30, 110, 120, 210]
        assert data.terminal.tolist() == flags("....t.").tolist()
        assert data.timeout.tolist() == flags("..t..t").tolist()
    assert data.name == "ns/x-v0"
    assert data.info["transforms"] == [{"kind": "ends_found", "rows": 1, "rule": "the recording of the episode ends"}]


def test_minari_names_a_licence_or_none(tmp_path):
    for number, (told, wanted) in enumerate((({}, None), ({"license": "MIT"}, "MIT"), ({"licence": "X"}, "X"))):
        path = folder(tmp_path / f"x-v{number}", [episode(3)], **told)
        assert manifest(read(path))["licence"] == wanted


def test_minari_dictionaries_flatten_in_sorted_order_or_as_chosen(tmp_path):
    parts = {
        "observations": None,
        "observations/observation": np.array([[0.0, 1], [2, 3], [4, 5]]),
        "observations/achieved_goal": np.array([[6.0], [7], [8]]),
        "observations/desired_goal/kettle": np.array([9.0, 9, 9]),
    }
    path = folder(tmp_path / "x-v0", [episode(2, **parts)])
    data = read(path)
    assert data.obs.tolist() == [[6, 9, 0, 1], [7, 9, 2, 3]]
    assert data.next_obs.tolist() == [[7, 9, 2, 3], [8, 9, 4, 5]]
    entries = ["achieved_goal", "desired_goal/kettle", "observation"]
    assert data.info["transforms"] == [{"kind": "flattened", "column": "obs", "entries": entries}]
    chosen = read(path, reading=Reading(columns={"obs": "observation, desired_goal/*"}))
    assert chosen.obs.tolist() == [[0, 1, 9], [2, 3, 9]]
    parts["observations/mission"] = [b"go", b"go", b"go"]
    texts = folder(tmp_path / "texts-v0", [episode(2, **parts)])
    assert read(texts, reading=Reading(columns={"obs": "achieved_goal"})).obs.tolist() == [[6], [7]]
    with pytest.raises(DataError, match=r"'mission' holds .*; give numbers"):
        read(texts)
    with pytest.raises(DataError, match="no column fits 'observations'; did you mean 'observation'"):
        read(path, reading=Reading(columns={"obs": "observations"}))
    with pytest.raises(DataError, match="column 'reward' has one place"):
        read(path, reading=Reading(columns={"reward": "r"}))


def test_minari_action_space_gives_the_bounds(tmp_path):
    box = lambda low, high: json.dumps({"type": "Box", "dtype": "float32", "shape": [1], "low": low, "high": high})
    steps = episode(2, actions=np.array([[-2.0], [1.0]]))
    data = read(folder(tmp_path / "a-v0", [steps], action_space=box([-2.0], [2.0])))
    assert data.action[:, 0].tolist() == [-1, 0.5]
    assert data.info["transforms"] == [{"kind": "actions_mapped", "low": [-2.0], "high": [2.0]}]
    assert read(tmp_path / "a-v0", action_low=-4, action_high=4).action[:, 0].tolist() == [-0.5, 0.25]
    with pytest.raises(DataError, match="row 0 holds -2"):
        read(folder(tmp_path / "b-v0", [steps], action_space=box([-np.inf], [np.inf])))
    with pytest.raises(DataError, match="actions are Discrete"):
        read(folder(tmp_path / "c-v0", [steps], action_space=json.dumps({"type": "Discrete", "n": 3})))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"observations": np.zeros((2, 1))}, "'observations' has 2 rows for 2 steps; it needs 3"),
        ({"observations": np.zeros((3, 4, 4))}, "segue takes vectors, not images"),
        ({"actions": np.zeros((3, 1))}, "'actions' has 3 rows for 2 steps"),
        ({"truncations": np.zeros(3, bool)}, r"timeout column has shape \(3,\), not \(2,\)"),
        ({"rewards": np.zeros(0)}, "has no steps"),
        ({"rewards": None}, "'rewards' is a link to elsewhere|cannot be read"),
        ({"observations": np.zeros((3, 5))}, "episodes must agree"),
    ],
)
def test_minari_episodes_that_do_not_fit(tmp_path, change, words):
    path = folder(tmp_path / "x-v0", [episode(2), episode(2, **change)])
    with pytest.raises(DataError, match=words) as error:
        read(path)
    assert "episode" in str(error.value)


def test_minari_reads_what_segue_writes_and_the_reverse(tmp_path, monkeypatch):
    package = pytest.importorskip("minari", reason="the extra `minari` is not installed")
    from gymnasium import spaces
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    given_columns = columns(6, terminal=flags("..t..."), timeout=flags(".....t"))
    given_columns["obs"] = given_columns["obs"].copy()
    given_columns["obs"][3:] += 50
    given_columns["next_obs"] = given_columns["obs"] + np.array([1, 10], np.float32)
    ours = dataset_from_arrays(given_columns, "segue/hopper/medium-v0")
    write(ours, tmp_path / "segue" / "hopper" / "medium-v0")
    theirs = package.load_dataset("segue/hopper/medium-v0")
    assert (theirs.total_episodes, theirs.total_steps) == (2, 6)
    assert [e.observations[:, 0].tolist() for e in theirs] == [[0, 1, 2, 3], [53, 54, 55, 56]]
    assert theirs[0].observations.dtype == np.float32
    assert [e.terminations.tolist() for e in theirs] == [[False, False, True], [False] * 3]
    assert [e.truncations.tolist() for e in theirs] == [[False] * 3, [False, False, True]]
    assert theirs[1].rewards.tolist() == [3, 4, 5]
    assert theirs[1].actions.tolist() == ours.action[3:].tolist()
    assert theirs.action_space == spaces.Box(-1, 1, (1,))
    with pytest.raises(DataError, match="exists already"):
        write(ours, tmp_path / "segue" / "hopper" / "medium-v0")

    space = spaces.Dict({"b": spaces.Box(-9, 9, (1,)), "a": spaces.Box(-9, 9, (2,))})
    buffers = [
        EpisodeBuffer(
            id=i,
            observations={"b": np.arange(4, dtype=np.float32)[:, None] + i, "a": np.full((4, 2), i, np.float32)},
            actions=np.full((3, 1), 2.0, np.float32),
            rewards=[1.0, 2.0, 3.0],
            terminations=[False, False, i == 0],
            truncations=[False, False, i == 1],
        )
        for i in range(2)
    ]
    for layout in ("hdf5", "arrow", "parquet"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Minari wishes for an author and an environment
            package.create_dataset_from_buffers(
                f"ns/{layout}-v0", buffers, observation_space=space,
                action_space=spaces.Box(-4, 4, (1,)), data_format=layout,
            )  # fmt: skip
        data = read(f"minari:ns/{layout}-v0")
        assert data.obs.tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 2], [1, 1, 1], [1, 1, 2], [1, 1, 3]]
        assert data.next_obs[:, 2].tolist() == [1, 2, 3, 2, 3, 4]
        assert data.action.tolist() == [[0.5]] * 6
        assert data.reward.tolist() == [1, 2, 3, 1, 2, 3]
        assert data.terminal.tolist() == flags("..t...").tolist()
        assert data.timeout.tolist() == flags(".....t").tolist()
        assert data.name == f"ns/{layout}-v0"


def arrow(path, layout="arrow", rows=3, options=None, **changes):
    """Minari's Arrow or Parquet layout: one episode of `rows` - 1 steps, padded."""
    place = path / "data" / "0"
    place.mkdir(parents=True)
    (place.parent / "metadata.json").write_text(json.dumps({"data_format": layout}))
    made = {
        "observations": pa.array([[float(i), 0.5] for i in range(rows)], pa.list_(pa.float32(), 2)),
        "actions": pa.array([[0.25]] * rows, pa.list_(pa.float32(), 1)),
        "rewards": pa.array([1.0] * rows),
        "terminations": pa.array([False] * rows),
        "truncations": pa.array([i == rows - 2 for i in range(rows)]),
    }
    made.update(changes)
    table = pa.table({key: value for key, value in made.items() if value is not None})
    if layout == "parquet":
        pq.write_table(table, place / "part-0.parquet")
        return path
    with pa.ipc.new_file(str(place / "part-0.arrow"), table.schema, options=options) as out:
        out.write_table(table)
    return path


@pytest.mark.parametrize("layout", ["arrow", "parquet"])
def test_minari_tables_are_read_as_far_as_they_are_wanted(tmp_path, monkeypatch, layout):
    monkeypatch.setenv("SEGUE_MEMORY_LIMIT", "1MB")
    much = pa.array([b"x" * 2**20] * 3)  # what is not wanted may be large, and hold anything
    assert read(arrow(tmp_path / "a-v0", layout, infos=much)).obs.tolist() == [[0, 0.5], [1, 0.5]]
    goal = pa.StructArray.from_arrays([pa.array([7.0, 8, 9])], ["kettle"])
    struct = pa.StructArray.from_arrays([pa.array([[0.0], [1], [2]]), much, goal], ["state", "mission", "goal"])
    path = arrow(tmp_path / "b-v0", layout, observations=struct)
    data = read(path, reading=Reading(columns={"obs": "goal/*, state"}))
    assert data.next_obs.tolist() == [[8, 1], [9, 2]]
    assert data.info["transforms"][0]["entries"] == ["goal/kettle", "state"]
    with pytest.raises(DataError, match="may be used; allow more"):
        read(path)
    monkeypatch.delenv("SEGUE_MEMORY_LIMIT")
    with pytest.raises(DataError, match="'mission' holds binary; give numbers"):
        read(path)
    with pytest.raises(DataError, match="no column fits 'stat'; did you mean 'state'"):
        read(path, reading=Reading(columns={"obs": "stat"}))
    with pytest.raises(DataError, match="'truncations' is missing"):
        read(arrow(tmp_path / "c-v0", layout, truncations=None))
    with pytest.raises(DataError, match="'observations' has an empty cell at row 1"):
        read(arrow(tmp_path / "d-v0", layout, observations=pa.array([[1.0], None, None])))


@pytest.mark.parametrize("layout", ["arrow", "parquet"])
def test_minari_tables_may_not_promise_more_than_fits(tmp_path, monkeypatch, layout):
    rows = 50_000
    zeros = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(8 * rows)), 8)  # 3.2 MB, of which Parquet stores little
    path = arrow(tmp_path / "a-v0", layout, rows, observations=zeros)
    assert read(path).size == rows - 1
    monkeypatch.setenv("SEGUE_MEMORY_LIMIT", "2MB")
    fails(path, "its columns take .* allow more")
    monkeypatch.delenv("SEGUE_MEMORY_LIMIT")
    monkeypatch.setattr("segue.tasks.formats.common.SUSPECT", (10**6, 100 if layout == "parquet" else 0.5))
    fails(path, "'observations.* declares 3200000 bytes")


def test_arrow_files_that_are_refused(tmp_path):
    for packed in ("zstd", "lz4"):
        path = arrow(tmp_path / f"{packed}-v0", options=pa.ipc.IpcWriteOptions(compression=packed))
        fails(path, "its columns are compressed")
    words = arrow(tmp_path / "words-v0", infos=pa.array(["a", "a", "b"]).dictionary_encode())
    assert read(words).size == 2
    file = words / "data" / "0" / "part-0.arrow"
    whole = file.read_bytes()
    for share in (0.3, 0.6, 0.99):
        file.write_bytes(whole[: int(share * len(whole))])
        fails(words, "truncated")
    nothing = pa.Array.from_buffers(pa.list_(pa.float32(), 0), 2**40, [None], children=[pa.array([], pa.float32())])
    batch = pa.record_batch([nothing] * 5, ["observations", "actions", "rewards", "terminations", "truncations"])
    long = pa.ipc.IpcWriteOptions(allow_64bit=True)
    with pa.ipc.new_file(str(file), batch.schema, options=long) as out:
        out.write_batch(batch)
    fails(words, "broken or hostile")  # 2^40 rows of nothing
    file.write_bytes(b"PAR1" * 9)
    fails(words, "no Arrow file")


def test_minari_ids_lead_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    folder(tmp_path / "outside-v0", [episode(2)])
    for identity in ("../outside-v0", "/etc/passwd-v0", "a/../../outside-v0", "a//b-v0", "", "door", "a-v0\n"):
        with pytest.raises(DataError, match="no id of Minari"):
            located(f"minari:{identity}")
    monkeypatch.setitem(sys.modules, "minari", None)  # not installed
    with pytest.raises(DataError, match=r"minari:a/b-v0: not in the local store .*segue\[minari\]"):
        read("minari:a/b-v0")
    folder(tmp_path / "store" / "a" / "b-v0", [episode(2)])
    assert read("minari:a/b-v0").size == 2


def test_minari_is_asked_to_download(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))

    class Package:
        @staticmethod
        def download_dataset(identity):
            if identity == "gone-v0":
                raise ValueError("offline")
            folder(tmp_path / identity, [episode(2)])

    monkeypatch.setitem(sys.modules, "minari", Package)
    assert read("minari:a-v0").size == 2
    with pytest.raises(DataError, match="download failed: offline; on a machine with a network"):
        read("minari:gone-v0")


def test_minari_cannot_hold_a_jump(tmp_path):
    jump = Dataset(**{**columns(), "next_obs": columns()["next_obs"] + np.float32(0.5)}, name="jump").validate()
    with pytest.raises(DataError, match="row 0 leads to another observation than row 1 begins with"):
        write(jump, tmp_path / "jump-v0")
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------------------- OGBench


def archive(path, **changes):
    """Two trajectories of 3 and 2 transitions; qpos is (x, y) of the observation."""
    xy = np.array([[0, 0], [1, 0], [2, 0], [3, 0], [20, 20], [20, 20.1], [9, 9]], np.float32)
    made = {
        "observations": xy,
        "actions": np.linspace(-1, 1, 7, dtype=np.float32)[:, None],
        "terminals": flags("...t..t"),
        "qpos": xy.astype(np.float64),
        "qvel": np.zeros((7, 2)),
    }
    made.update(changes)
    np.savez(path, **{key: value for key, value in made.items() if value is not None})
    return path


def test_ogbench_without_a_task_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(DataError, match=r"hold no rewards; name the single task.*--relabel antmaze-medium"):
        read(archive(tmp_path / "a.npz"))


def test_ogbench_relabels_a_maze(tmp_path):
    pytest.importorskip("ogbench", reason="the extra `ogbench` is not installed")
    # task 1 of the medium maze ends at cell (6, 6), xy (20, 20), within 1.0 for the point
    path = archive(tmp_path / "pointmaze-medium-navigate-v0.npz")
    before = np.random.get_state()[1].copy()
    for task in ("pointmaze-medium-singletask-v0", "pointmaze-medium-navigate-singletask-task1-v0"):
        data = read(path, reading=Reading(task=task))
        assert data.obs[:, 0].tolist() == [0, 1, 2, 20, 20]  # the last observation of a trajectory begins nothing
        assert data.next_obs[:, 0].tolist() == [1, 2, 3, 20, 9]
        np.testing.assert_array_equal(data.action[:, 0], np.linspace(-1, 1, 7, dtype=np.float32)[[0, 1, 2, 4, 5]])
        assert data.reward.tolist() == [-1, -1, -1, 0, 0]
        assert data.terminal.tolist() == flags("...tt").tolist()
        assert data.timeout.tolist() == flags("..t..").tolist()
    assert (np.random.get_state()[1] == before).all()
    record = data.info["transforms"][0]
    assert record["kind"] == "rewards_relabelled"
    assert record["task"] == "pointmaze-medium-singletask-task1-v0"
    with pytest.raises(ConfigError, match="no single task of OGBench; did you mean 'pointmaze-medium-singletask"):
        read(path, reading=Reading(task="pointmaze-medium-v0"))
    with pytest.raises(DataError, match="'qpos' is missing"):
        read(archive(path, qpos=None), reading=Reading(task="pointmaze-medium-singletask-v0"))


def test_ogbench_rewards_and_masks_that_are_there(tmp_path):
    given_columns = {"rewards": -np.ones(7), "masks": np.array([1, 0, 1, 1, 1, 1, 1.0])}
    path = archive(tmp_path / "a.npz", **given_columns)
    data = read(path, reading=Reading(kind="ogbench"))
    assert data.terminal.tolist() == flags(".t...").tolist()
    assert data.timeout.tolist() == flags("..t.t").tolist()
    named = read(path, reading=Reading(kind="ogbench", task="cube-single-singletask-v0"))  # nothing is computed anew
    assert named.hash == data.hash


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"actions": None}, "'actions' is missing"),
        ({"actions": np.zeros((3, 1))}, r"'actions' is float32 of shape \(3, 1\), and there are 7"),
        ({"terminals": np.array(1)}, "'terminals' is"),
        ({"terminals": np.ones(7)}, "0 transitions"),
        ({"masks": np.ones(7)}, "rewards and masks come together"),
    ],
)
def test_ogbench_archives_that_do_not_fit(tmp_path, change, words):
    with pytest.raises(DataError, match=words):
        read(archive(tmp_path / "a.npz", **change), reading=Reading(kind="ogbench", task="x-singletask-v0"))


# -------------------------------------------------------------------------------------------------------------- tables

PATTERNS = Reading(columns={"obs": "sensor_*", "action": "u", "reward": "r"}, episode="run")


def sensors(path, n=12):
    """Two runs of n / 2 rows, one row a transition, sensors 0 to 10 out of order."""
    names = [f"sensor_{i}" for i in (10, 2, 0, 1, 3, 4, 5, 6, 7, 8, 9)]
    lines = [",".join(["run", *names, "u", "r"])]
    for i in range(n):
        cells = [f"{100 * i + int(name[7:])}" for name in names]
        lines.append(",".join([f"run-{2 * i // n}", *cells, "0.5", f"{i}"]))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_csv_by_patterns_in_natural_order_and_an_episode_column(tmp_path):
    data = read(sensors(tmp_path / "log.csv"), reading=PATTERNS)
    assert data.obs[1].tolist() == [100 + i for i in range(11)]  # sensor_2 before sensor_10
    assert data.size == 10  # the last row of either run has no successor
    assert data.starts.tolist() == [0, 5]
    assert data.reward.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert data.next_obs[4, 0] == 500
    assert data.info["assumed"].startswith("no terminal column")


def test_parquet_lists_and_patterns(tmp_path):
    n = 6
    arrays = {
        "observation.state": [[float(i), i + 0.5] for i in range(n)],
        "extra_1": list(range(n)),
        "action": [[0.25]] * n,
        "next.reward": [0.0, 0, 1, 0, 0, 1],
        "next.done": [False, False, True, False, False, True],
        "episode_index": [0, 0, 0, 1, 1, 1],
        "task": ["a"] * n,
    }
    pq.write_table(pa.table(arrays), tmp_path / "a.parquet", row_group_size=2)
    names = {"obs": "observation.state, extra_*", "reward": "next.reward", "terminal": "next.done"}
    data = read(tmp_path / "a.parquet", reading=Reading(columns=names, episode="episode_index"))
    assert data.obs.tolist() == [[i, i + 0.5, i] for i in range(n)]
    assert data.terminal.tolist() == flags("..t..t").tolist()
    assert not data.timeout.any()
    assert data.info["ignored_columns"] == ["task"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (lambda cells: [*cells[:3], "abc", *cells[4:]], "line 5, column 'sensor_0' holds 'abc'; give a number"),
        (lambda cells: [*cells[:3], "", *cells[4:]], "line 5, column 'sensor_0' holds ''"),
        (lambda cells: cells[:-1], "line 5 has 13 cells, and line 1 names 14"),
        (lambda cells: [*cells, "1"], "line 5 has 15 cells"),
        (lambda cells: ["run-1", *cells[1:]], "rows of episode run-0 are not together"),
        (lambda cells: ["x" * 70, *cells[1:]], "64 characters or more"),
        (lambda cells: [*cells[:3], "nan", *cells[4:]], "'obs' has NaN or infinity, first at row 3"),
    ],
)
def test_bad_lines_of_a_csv_are_named(tmp_path, line, words):
    path = sensors(tmp_path / "log.csv")
    lines = path.read_text().splitlines()
    lines[4] = ",".join(line(lines[4].split(",")))
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=words):
        read(path, reading=PATTERNS)


@pytest.mark.parametrize(
    ("text", "reading", "words"),
    [
        ("", {}, "no rows"),
        ("obs,action\n", {}, "no rows"),
        ("1,2\n3,4\n", {}, "line 1 holds numbers"),
        ("\nobs,action,reward\n1,2,3\n", {}, "line 1 is blank; it must name the columns"),
        (" , \n1,2\n", {}, "line 1 is blank"),
        ("a,a\n1,2\n", {}, "'a' occurs twice"),
        ("s_0,u\n1,2\n", {}, "no column for 'obs'; name it, as in obs=PATTERN; there are: s_0, u"),
        ("s_0,u\n1,2\n", {"columns": {"obs": "t_*"}}, r"no column fits 't_\*'"),
        ("obs,observations,action,reward\n1,2,3,4\n", {}, "mean the same"),
        (
            "s_0,s_n0,u,r\n1,2,3,4\n",
            {"columns": {"obs": "s_*", "next_obs": "s_n*", "action": "u", "reward": "r"}},
            "fits both 'obs' and 'next_obs'",
        ),
        ("obs,action,reward,terminal\n1,0,0,yes\n1,0,0,0\n", {}, "line 2, column 'terminal' holds 'yes'; give 0 or 1"),
        ("obs,action,reward\n1,0,0\n1,0,0\n", {"episode": "run"}, "no column fits 'run'"),
    ],
)
def test_tables_that_do_not_fit(tmp_path, text, reading, words):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        read(tmp_path / "a.csv", reading=Reading(**reading))


def test_csv_flags_and_quotes(tmp_path):
    text = 'obs,action,reward,note,terminal,timeout\n1,0,0,"a, b",False,0\n\n2,0,1,"c",TRUE,0\n3,0,1,d,0,1.0\n'
    (tmp_path / "a.csv").write_text("\ufeff" + text, encoding="utf-8")
    columns_ = read_columns(tmp_path / "a.csv").columns
    assert columns_["terminal"].tolist() == [False, True, False]
    assert columns_["timeout"].tolist() == [False, False, True]


def test_a_csv_that_was_changed_after_its_export(tmp_path):
    path = tmp_path / "a.csv"
    write(dataset_from_arrays(columns(), "x"), path)
    path.write_text(path.read_text() + "\n")
    with pytest.raises(DataError, match=r"changed after segue wrote it; remove a\.csv\.json"):
        read(path)
    for others in ("[1, 2]", '{"columns": ["segue"]}', "no JSON", "\0\xff"):
        (tmp_path / "a.csv.json").write_bytes(others.encode("latin-1"))  # of another program
        assert read(path).hash == dataset_from_arrays(columns(), "x").hash
    (tmp_path / "a.csv.json").write_text('{"segue": "{')  # ours, cut short
    with pytest.raises(DataError, match=r"a\.csv\.json is not JSON"):
        read(path)
    (tmp_path / "a.csv.json").unlink()
    assert read(path).hash == dataset_from_arrays(columns(), "x").hash


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"obs": [[1.0], [2.0, 3.0], [1.0], [1.0]]}, "ragged: row 1"),
        ({"obs": [[1.0], None, [1.0], [1.0]]}, "'obs' has an empty cell at row 1"),
        ({"obs": [[1.0], [None], [1.0], [1.0]]}, "entries has an empty cell at row 1"),
        ({"obs": ["a", "b", "c", "d"]}, "holds string; give numbers"),
        ({"obs": [[[1.0]]] * 4}, "not images"),
        ({"reward": [[1.0, 2.0]] * 4}, r"'reward' has shape \(4, 2\)"),
        ({"terminal": [0, 2, 0, 1]}, "'terminal' row 1 holds 2"),
    ],
)
def test_parquet_that_does_not_fit(tmp_path, change, words):
    given_columns = {key: value.tolist() for key, value in columns().items()}
    pq.write_table(pa.table({**given_columns, **change}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=words):
        read(tmp_path / "a.parquet")


def test_a_parquet_file_may_not_promise_more_than_it_holds(tmp_path, monkeypatch):
    given_columns = {key: value.tolist() for key, value in columns(20_000, reward=np.zeros(20_000)).items()}
    pq.write_table(pa.table(given_columns), tmp_path / "a.parquet")
    assert read_columns(tmp_path / "a.parquet").columns["reward"].shape == (20_000,)
    monkeypatch.setattr("segue.tasks.formats.common.SUSPECT", (10_000, 100))
    with pytest.raises(DataError, match="'reward' declares 160000 bytes"):
        read(tmp_path / "a.parquet")


def documented(name, folder):
    """The converter of docs/formats.md whose first line says `name`, as a file."""
    text = (Path(__file__).parents[1] / "docs" / "formats.md").read_text(encoding="utf-8")
    script = next(part for part in text.split("```python\n")[1:] if name in part).split("```")[0]
    (folder / "convert.py").write_text(script, encoding="utf-8")
    return folder / "convert.py"


def test_the_documented_converter_of_rlds(tmp_path):
    """With a stand-in for tensorflow_datasets: one episode that ends, one that is cut."""
    stand_in = """
def load(name, split):
    assert (name, split) == ("some/set", "train")
    return [{"steps": [step(e, t) for t in range(3)]} for e in range(2)]

as_numpy = iter

def step(e, t):
    at_end = {"is_last": t == 2, "is_terminal": t == 2 and e == 0}
    return {"observation": [10.0 * e + t], "action": [0.1 * t], "reward": 1.0 * t, "is_first": t == 0, **at_end}
"""
    (tmp_path / "tensorflow_datasets.py").write_text(stand_in, encoding="utf-8")
    command = [sys.executable, documented("rlds_to_npz", tmp_path), "some/set", tmp_path / "out.npz"]
    subprocess.run(command, check=True, timeout=60, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    data = read(tmp_path / "out.npz")
    assert data.obs[:, 0].tolist() == [0, 1, 10, 11]
    assert data.next_obs[:, 0].tolist() == [1, 2, 11, 12]
    assert data.reward.tolist() == [0, 1, 0, 1]
    assert (data.terminal.tolist(), data.timeout.tolist()) == (flags(".t..").tolist(), flags("...t").tolist())


def test_the_documented_converter_of_lerobot(tmp_path):
    convert = documented("lerobot_to_parquet", tmp_path)
    for i, rewards in enumerate(([0.0, 1.0], None)):
        data = tmp_path / f"set{i}" / "data" / "chunk-000"
        data.mkdir(parents=True)
        for e in range(2):
            part = {
                "observation.state": pa.array([[float(10 * e + t), 0.5] for t in range(3)], pa.list_(pa.float32())),
                "action": pa.array([[0.1 * t] for t in range(3)], pa.list_(pa.float32(), 1)),
                "episode_index": [e] * 3,
                "frame_index": [0, 1, 2],
                "timestamp": [0.0, 0.1, 0.2],
            }
            if rewards:
                part |= {"next.reward": [0.0, 0.0, rewards[e]], "next.done": [False, False, e == 1]}
            pq.write_table(pa.table(part), data / f"episode_00000{e}.parquet")
        command = [sys.executable, convert, tmp_path / f"set{i}", tmp_path / f"out{i}.parquet"]
        subprocess.run(command, check=True, timeout=60)
    reading = Reading(episode="episode")
    marked = read(tmp_path / "out0.parquet", reading=reading)
    assert marked.obs[:, 0].tolist() == [0, 1, 10, 11, 12]  # the first episode is cut, its last row has no successor
    assert marked.reward.tolist() == [0, 0, 0, 0, 1]
    assert marked.terminal.tolist() == flags("....t").tolist()
    bare = read(tmp_path / "out1.parquet", reading=reading)
    assert bare.reward.tolist() == [0, 0, 1, 0, 0, 1]
    assert bare.starts.tolist() == [0, 3]
    assert bare.action[:, 0].tolist() == pytest.approx([0, 0.1, 0.2] * 2)


# ----------------------------------------------------------------------------------------------------------- bad input


def fails(path, words, **options):
    with pytest.raises(DataError, match=words):
        read(path, **options)


def test_members_that_would_leave_the_archive_are_not_touched(tmp_path):
    path = tmp_path / "in" / "a.npz"
    path.parent.mkdir()
    np.savez(path, **columns())
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("../../escaped.npy", b"x")
        file.writestr("/tmp/segue-escaped.npy", b"x")
    assert read(path).info["ignored_columns"] == ["../../escaped", "/tmp/segue-escaped"]
    assert {p.name for p in tmp_path.rglob("*")} == {"in", "a.npz"}
    assert not Path("/tmp/segue-escaped.npy").exists()


def test_duplicate_members_and_bombs(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    np.savez(path, **columns())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(path, "a") as file:
            file.writestr("obs.npy", b"x")
    fails(path, "'obs' occurs twice")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file, file.open("obs.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": (2**12, 2**10)})
        member.write(bytes(2**22))
    assert path.stat().st_size < 2**13
    monkeypatch.setattr("segue.tasks.formats.common.SUSPECT", (2**20, 500))
    fails(path, "'obs' declares .* refused as a broken or hostile file")


def test_small_columns_add_up(tmp_path, monkeypatch):
    zeros = columns(5000, reward=np.zeros(5000), obs=np.zeros((5000, 2)), next_obs=np.zeros((5000, 2)))
    np.savez_compressed(tmp_path / "a.npz", **zeros)
    assert read_columns(tmp_path / "a.npz").columns["obs"].shape == (5000, 2)
    monkeypatch.setattr("segue.tasks.formats.common.SUSPECT", (100_000, 10))  # bytes; no column alone has as many
    fails(tmp_path / "a.npz", r"a\.npz declares \d+ bytes")


def test_deeply_nested_json_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", **columns(), name="x", format=1, info="[" * 100_000)
    fails(tmp_path / "a.npz", "is not JSON")
    np.savez(tmp_path / "a.npz", **columns(), name="x", format=1, info='{"a": NaN}')
    fails(tmp_path / "a.npz", "NaN is no number of JSON")


def test_an_envelope_that_is_none(tmp_path):
    for seal, words in (
        ("{", "is not JSON"),
        ("[1]", "not a JSON object"),
        ('{"format": 9}', "format 9 is not known to this version"),
        ('{"format": 1, "name": 3, "info": {}}', "name and info are missing"),
        ('{"format": 1, "name": "x", "info": {"transforms": 5}}', "'transforms' is no list of objects"),
        ('{"format": 1, "name": "x", "info": {"transforms": [{}]}}', "'transforms' is no list of objects"),
    ):
        fails(hdf5(tmp_path / "a.hdf5", columns(), segue0=seal), words)
    whole = '{"format": 1, "name": "x", "info": {}}'
    fails(hdf5(tmp_path / "a.hdf5", columns(timeout=None), segue0=whole), "'timeout' is missing")
    fails(hdf5(tmp_path / "a.hdf5", columns(action=np.full((4, 1), 3, np.float32)), segue0=whole), r"outside \[-1, 1\]")
    fails(hdf5(tmp_path / "a.hdf5", columns(reward=np.zeros(4, int)), segue0=whole), "'reward' must be a 1-d float32")


def test_filters_that_are_plug_ins_are_refused(tmp_path):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for key, value in columns(obs=None).items():
            file[D4RL[key]] = value
        kind = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        kind.set_chunk((2, 2))
        kind.set_filter(h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple((4, 2))
        h5py.h5d.create(file.id, b"observations", h5py.h5t.NATIVE_FLOAT, space, kind)
    assert read(tmp_path / "a.hdf5").obs.max() == 0
    raw = bytearray((tmp_path / "a.hdf5").read_bytes())
    place = raw.index(b"shuffle\x00") - 8  # id, length of the name, flags, number of values
    raw[place : place + 2] = (32001).to_bytes(2, "little")
    (tmp_path / "a.hdf5").write_bytes(raw)
    fails(tmp_path / "a.hdf5", r"plug-in \(filter 32001\)")


def test_minari_links_and_pickles_are_refused(tmp_path):
    path = folder(tmp_path / "x-v0", [episode(2)])
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        del file["episode_0/rewards"]
        file["episode_0/rewards"] = h5py.ExternalLink("/etc/passwd", "x")
    fails(path, "'rewards' is a link to elsewhere")
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        del file["episode_0/rewards"]
        file.create_dataset("episode_0/rewards", (2**40,), "f8", chunks=(2**10,))
    fails(path, "broken or hostile")
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        del file["episode_0"]
        file["episode_0"] = h5py.SoftLink("/")
    fails(path, "missing or a link to elsewhere")
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        del file["episode_0"]
        file["episode_0/observations/a"] = np.zeros((3, 1))
        file["episode_0/observations/loop"] = file["episode_0/observations"]
    fails(path, "nested deeper")
    (path / "data" / "metadata.json").write_text("{" * 10)
    fails(path, "metadata")


def test_a_folder_or_a_kind_that_does_not_fit(tmp_path):
    np.savez(tmp_path / "a.npz", **columns())
    for kind in ("d4rl", "minari", "table"):
        with pytest.raises(DataError):
            read(tmp_path / "a.npz", reading=Reading(kind=kind))
    fails(tmp_path, "'npz' needs", reading=Reading(kind="npz"))
    fails(tmp_path / "absent-v0", "no such file")


SEEDS: dict[str, bytes] = {}


def seed(kind):
    """Bytes of a valid file of a kind."""
    if not SEEDS:
        import tempfile

        with tempfile.TemporaryDirectory() as place:
            dataset = dataset_from_arrays(columns(), "x")
            for name in ("a.npz", "a.hdf5", "a.csv", "a.parquet"):
                write(dataset, Path(place) / name)
                SEEDS[name] = (Path(place) / name).read_bytes()
            SEEDS["m.hdf5"] = (folder(Path(place) / "m-v0", [episode(3)]) / "data" / "main_data.hdf5").read_bytes()
            for layout in ("arrow", "parquet"):
                made = arrow(Path(place) / f"{layout}-v0", layout)
                SEEDS[f"m.{layout}"] = (made / "data" / "0" / f"part-0.{layout}").read_bytes()
            SEEDS["o.npz"] = archive(Path(place) / "o.npz", rewards=np.zeros(7), masks=np.ones(7)).read_bytes()
    return SEEDS[kind]


def feed(tmp_path_factory, kind, raw):
    """Reads bytes as a file of a kind: a dataset or one of our errors."""
    place = tmp_path_factory.mktemp("fuzz")
    path, reading = place / kind, Reading(kind="ogbench") if kind[0] == "o" else Reading()
    if kind == "m.hdf5":
        (place / "metadata.json").write_text('{"data_format": "hdf5"}')
        path = place / "main_data.hdf5"
    if kind in ("m.arrow", "m.parquet"):
        (place / "metadata.json").write_text(json.dumps({"data_format": kind[2:]}))
        (place / "0").mkdir()
        (place / "0" / f"part-0.{kind[2:]}").write_bytes(raw)
        path = place
    else:
        path.write_bytes(raw)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(path, reading=reading)
    except SegueError as error:
        if len(str(error)) > 2000:
            raise AssertionError("a message nobody reads") from error
    finally:
        shutil.rmtree(place)


FED = ["a.npz", "a.hdf5", "a.csv", "a.parquet", "m.hdf5", "m.arrow", "m.parquet", "o.npz"]
FUZZ = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("kind", FED)
@FUZZ
@given(data=st.data())
def test_mutated_files_end_in_one_error(tmp_path_factory, kind, data):
    raw = bytearray(seed(kind))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(raw) - 1))
        chunk = data.draw(st.binary(max_size=8))
        raw[place : place + data.draw(st.integers(0, 8))] = chunk
        if not raw:
            break
    feed(tmp_path_factory, kind, bytes(raw))


@pytest.mark.parametrize("kind", FED)
@FUZZ
@given(head=st.booleans(), raw=st.binary(max_size=200))
def test_arbitrary_bytes_end_in_one_error(tmp_path_factory, kind, head, raw):
    feed(tmp_path_factory, kind, (seed(kind)[:8] if head else b"") + raw)


@pytest.mark.parametrize("kind", ["a.parquet", "m.parquet"])
def test_a_broken_schema_of_parquet_does_not_end_the_process(tmp_path_factory, kind):
    raw = bytearray(seed(kind))
    place = raw.index(b"schema\x15") + 10  # repetition of the first column, which the histogram of its levels follows
    assert raw[place - 1 : place + 1] == b"\x35\x02"
    raw[place] = 18
    feed(tmp_path_factory, kind, bytes(raw))


def test_sizes_in_a_footer_are_those_of_pyarrow(tmp_path, monkeypatch):
    nested = pa.StructArray.from_arrays([pa.array(range(300)), pa.array([[1.0, 2.0]] * 300)], ["x", "y"])
    wide = {f"c{i}": pa.array([i % 2 == 0] * 300) for i in range(20)}  # more columns than a short list holds
    pq.write_table(pa.table({"a": [0.5] * 300, "ö": nested, **wide}), tmp_path / "a.parquet", row_group_size=100)
    seen = []
    monkeypatch.setattr(Sizes, "add", lambda _, *sizes: seen.append(sizes))
    tables.check_declared(tmp_path / "a.parquet", ["a", "ö.y", "c19"], 300, Sizes(""))
    told = pq.ParquetFile(tmp_path / "a.parquet").metadata
    chunks = [told.row_group(g).column(c) for g in range(3) for c in (0, 2, 22)]
    assert [chunk.path_in_schema for chunk in chunks[:3]] == ["a", "ö.y.list.element", "c19"]
    sizes = [(max(8 * c.num_values, c.total_uncompressed_size), c.total_compressed_size) for c in chunks]
    assert [entry[:2] for entry in seen[:-1]] == sizes
    assert seen[-1][:2] == (2400, (tmp_path / "a.parquet").stat().st_size)
    monkeypatch.undo()
    monkeypatch.setattr(tables, "FOOTER", 100)
    fails(
        tmp_path / "a.parquet",
        "write it with fewer row groups",
        reading=Reading(columns={"obs": "a", "action": "c0", "reward": "c1"}),
    )


@FUZZ
@given(text=st.text(st.sampled_from('obs,action reward\n"01.-e\r\0'), max_size=80))
def test_arbitrary_tables_end_in_one_error(tmp_path_factory, text):
    feed(tmp_path_factory, "a.csv", b"obs,action,reward,timeout\n" + text.encode())


def test_importing_the_formats_loads_no_package_of_theirs():
    code = (
        "import sys, segue.tasks.formats; sys.exit(bool({'h5py', 'pyarrow', 'minari', 'ogbench'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, timeout=60).returncode == 0


def test_a_missing_package_names_the_extra(tmp_path, monkeypatch):
    write(dataset_from_arrays(columns(), "x"), tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"segue\[parquet\]"):
        read(tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "ogbench", None)
    monkeypatch.setitem(sys.modules, "ogbench.relabel_utils", None)
    with pytest.raises(ConfigError, match=r"segue\[ogbench\]"):
        read(archive(tmp_path / "a.npz"), reading=Reading(task="x-singletask-v0"))
