"""Datasets in our own folder, in memory or left on disk: the same rows, and runs that are the same bit for bit."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import equinox as eqx
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import segue.runs.run as runs
from segue import tasks
from segue.errors import ConfigError, DataError
from segue.learners import Hold, Standardise
from segue.phases import Block, PerStep, Phase, Settings, Warmup, run, start
from segue.replays import Balanced, Best, Decaying, Sequences, Symmetric
from segue.store import Affine, make_store, with_returns
from segue.tasks import filters, formats, success
from segue.tasks.dataset import COLUMNS, Dataset, dataset_from_arrays
from segue.tasks.formats import disk, memory
from segue.transitions import Fresh

TASK = tasks.get("point-wall")


@pytest.fixture
def folder(tmp_path):
    """The detours in two pieces, cut between episodes."""
    data = TASK.dataset
    at = int(data.starts[40])
    info = {"source": "here", "transforms": [{"kind": "near", "dropped": 3}, {"kind": "cut"}]}
    halves = [Dataset(*(getattr(data, c)[s] for c in COLUMNS), "half") for s in (slice(0, at), slice(at, None))]
    path = tmp_path / "detours.segue"
    halves = [replace(half, name=data.name, info=info) for half in halves]
    disk.write_pieces(halves, path)
    return path


@pytest.fixture
def on_disk(folder, monkeypatch):
    monkeypatch.setenv("SEGUE_MEMORY_LIMIT", "100 k")
    return disk.read(folder)


def test_the_folder_holds_every_bit(folder, monkeypatch):
    data = TASK.dataset
    monkeypatch.setenv("SEGUE_MEMORY_LIMIT", "1GiB")
    whole = disk.read(folder).validate()
    monkeypatch.setenv("SEGUE_MEMORY_LIMIT", "100k")
    lazy = disk.read(folder)
    assert type(whole) is Dataset
    assert isinstance(lazy, disk.DiskDataset)
    for read in (whole, lazy):
        assert read.hash == data.hash
        assert read.name == data.name
        assert read.info == {"source": "here", "transforms": [{"kind": "near", "dropped": 6}, {"kind": "cut"}]}
        for column in COLUMNS:
            np.testing.assert_array_equal(getattr(read, column), getattr(data, column))
        np.testing.assert_array_equal(read.step, data.step)
        np.testing.assert_array_equal(read.returns, data.returns)


def test_rows_are_taken_in_any_order(on_disk, monkeypatch):
    data = TASK.dataset
    monkeypatch.setattr(disk, "FEW", 10)
    indices = np.random.default_rng(0).integers(-2, data.size + 5, (7, 9))
    rows = on_disk.disk.take(indices)
    i = np.clip(indices, 0, data.size - 1)
    packed = [data.obs[i], data.action[i], data.next_obs[i]]
    packed += [getattr(data, c)[i][..., None] for c in ("reward", "terminal", "timeout", "step")]
    np.testing.assert_array_equal(rows, np.concatenate(packed, -1).astype(np.float32))
    np.testing.assert_array_equal(on_disk.disk.take(indices[:1]), rows[:1])  # by one thread


def follow(phases, data):
    first, fixed = start(5, phases, TASK.spec, data)
    rows = []
    for state, more in run(phases, TASK, first, fixed, Settings(60, 0, 10)):
        last = state
        rows += [{k: v for k, v in row.items() if k not in ("wall", "seconds")} for row in more]
    return last, rows


def bc_then(online, **fields):
    return (
        Phase("offline", zoo.bc, 22, batch_size=8),
        Phase("online", online, 30, True, transition=Fresh(), batch_size=8, reward=Affine(2.0, -1.0), **fields),
    )


@pytest.mark.parametrize(
    "phases",
    [
        bc_then(zoo.bc, replay=Symmetric(0.5)),  # a block, two single updates; one update a step
        pytest.param((Phase("offline", zoo.td3, 44, batch_size=8, reward=Affine(2.0, -1.0)),), marks=pytest.mark.slow),
        pytest.param(bc_then(zoo.td3, replay=Symmetric(0.5), updates=PerStep(2)), marks=pytest.mark.slow),
        pytest.param(bc_then(zoo.td3, warmup=Warmup(10), updates=PerStep(4)), marks=pytest.mark.slow),
        pytest.param(bc_then(zoo.sac, replay=Symmetric(0.25)), marks=pytest.mark.slow),
        pytest.param(bc_then(zoo.sac, replay=Decaying(), updates=Block(15, 25)), marks=pytest.mark.slow),
        pytest.param((Phase("offline", Hold(zoo.bc, ("actor",)), 25, batch_size=8),), marks=pytest.mark.slow),
    ],
)
def test_a_run_from_disk_is_the_run_from_memory(on_disk, phases):
    (a, rows_a), (b, rows_b) = follow(phases, TASK.dataset), follow(phases, on_disk)
    offline = [[row for row in rows if row["phase"] == "offline"] for rows in (rows_a, rows_b)]
    assert offline[0] == offline[1]  # bit for bit
    assert len(rows_a) == len(rows_b)
    # online the programs are not the same, so their roundings need not be
    for x, y in zip(jax.tree.leaves(a.parts), jax.tree.leaves(b.parts), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(a.ring.rows, b.ring.rows, rtol=1e-4, atol=1e-4)


def test_given_rows_make_the_same_batch(on_disk):
    batches = []
    for data in (TASK.dataset, on_disk):
        store = with_returns(make_store(TASK.spec, data, 8), Affine(2.0, -1.0), 0.9, 0)
        rows = jax.random.normal(jax.random.key(1), (8, store.layout.width))
        store = eqx.tree_at(lambda s: (s.ring.rows, s.ring.written), store, (rows, jnp.int32(5)))
        n = TASK.dataset.size
        indices = jnp.array([[0, n - 1, -1], [n, n + 4, 17]])
        given = None if store.disk is None else store.disk.take(np.asarray(indices))
        batches.append(store.at(indices, Affine(2.0, -1.0), jnp.ones(indices.shape), given))
    assert zoo.same(*batches)
    with pytest.raises(TypeError, match="fetched before"):
        store.at(indices, Affine(), jnp.ones(indices.shape))


@pytest.mark.parametrize(
    ("phase", "name"),
    [
        (Phase("offline", Standardise(zoo.bc), 20), "Standardise"),
        (Phase("offline", Hold(Standardise(zoo.bc), ("actor",)), 20), "Standardise"),
        (Phase("offline", zoo.mopo, 20), "MOPO"),
        (Phase("offline", zoo.bc, 20, replay=Best(0.1)), "Best"),
        (Phase("offline", zoo.dt, 20, replay=Sequences(4)), "Sequences"),
        (Phase("offline", zoo.sac, 20, replay=Balanced()), "Balanced"),
    ],
)
def test_what_looks_at_everything_is_refused_before_training(on_disk, phase, name):
    with pytest.raises(
        ConfigError, match=rf"phase 'offline': {name} looks at the whole dataset.*--memory-limit.*--filter truncate=20"
    ):
        start(0, (phase,), TASK.spec, on_disk)
    start(0, (replace(phase),), TASK.spec, TASK.dataset)


def test_the_limit(monkeypatch):
    for text, value in {"1": 1, "4GiB": 2**32, "1.5 k": 1536, "2MB": 2**21, "1t": 2**40}.items():
        assert memory.bytes_of(text) == value
    for text in ("", "GiB", "-1", "0", "4 Gb/s", "1e9"):
        with pytest.raises(ConfigError, match="memory limit"):
            memory.bytes_of(text)
    monkeypatch.delenv("SEGUE_MEMORY_LIMIT", raising=False)
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < memory.memory_limit() <= pages / 2


def test_twice_the_rows_must_fit(folder, monkeypatch):
    size = (folder / "rows.f32").stat().st_size
    monkeypatch.setenv("SEGUE_MEMORY_LIMIT", str(2 * size))
    assert type(disk.read(folder)) is Dataset
    monkeypatch.setenv("SEGUE_MEMORY_LIMIT", str(2 * size - 1))
    assert isinstance(disk.read(folder), disk.DiskDataset)


def manifest_with(folder, **fields):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "manifest.json").unlink(), r"manifest\.json: cannot be read as a dataset"),
        (lambda f: (f / "manifest.json").write_text("{"), r"manifest\.json is not JSON"),
        (lambda f: (f / "manifest.json").write_text("[" * 100_000), r"manifest\.json is not JSON"),
        (lambda f: (f / "manifest.json").write_text("[]"), r"manifest\.json is not a JSON object"),
        (lambda f: manifest_with(f, format=2), "not a manifest of format 1"),
        (lambda f: manifest_with(f, rows=-5), "field 'rows' is -5"),
        (lambda f: manifest_with(f, rows=True), "field 'rows' is True"),
        (lambda f: manifest_with(f, rows=2**60), "field 'rows'"),
        (lambda f: manifest_with(f, info=[]), "field 'info'"),
        (lambda f: manifest_with(f, info={"transforms": [1]}), "'transforms' is no list of objects"),
        (lambda f: manifest_with(f, obs_dim=3), r"rows\.f32: holds [\d,]+ bytes and not"),
        (lambda f: (f / "reward.f32").unlink(), r"reward\.f32: cannot be read"),
        (lambda f: (f / "timeout.b1").write_bytes(b"\0"), r"timeout\.b1: holds 1 bytes"),
        (lambda f: os.truncate(f / "rows.f32", 400), r"rows\.f32: holds 400 bytes"),
    ],
)
def test_broken_folders(folder, spoil, words):
    spoil(folder)
    with pytest.raises(DataError, match=words):
        disk.read(folder)


@pytest.mark.parametrize("column", range(10))  # obs 2, action 2, next_obs 2, reward, terminal, timeout, step
@pytest.mark.parametrize("limit", ["1GiB", "100k"])
def test_changed_rows_are_seen(folder, monkeypatch, column, limit):
    rows = np.memmap(folder / "rows.f32", "<f4", "r+").reshape(-1, 10)
    rows[3, column] = 0.125
    rows.flush()
    monkeypatch.setenv("SEGUE_MEMORY_LIMIT", limit)
    words = r"hash differs|row 3 is not what was written"
    if limit == "1GiB":
        with pytest.raises(DataError, match=words):
            disk.read(folder)
    else:
        data = disk.read(folder)  # opening does not read all of it
        with pytest.raises(DataError, match=words):
            data.verify()


def spoilt(folder, file, row, value):
    column = np.memmap(folder / file, disk.FILES[file], "r+")
    column[row] = value
    column.flush()


@pytest.mark.parametrize(
    ("file", "row", "value", "words"),
    [
        ("reward.f32", 4, np.nan, "'reward' has NaN"),
        ("timeout.b1", -1, False, "hash differs|not as it was written|last row ends no episode"),
        ("timeout.b1", 55, True, "terminal and timeout|not as it was written"),
    ],
)
@pytest.mark.parametrize("limit", ["1GiB", "100k"])
def test_the_entrance_looks_at_folders_too(folder, monkeypatch, file, row, value, words, limit):
    if file == "timeout.b1":
        row = row if row < 0 else int(np.argmax(TASK.dataset.terminal))
        if row < 0:
            spoilt(folder, "terminal.b1", row, False)
    spoilt(folder, file, row, value)
    monkeypatch.setenv("SEGUE_MEMORY_LIMIT", limit)
    with pytest.raises(DataError, match=words):
        disk.read(folder)


def test_rows_on_disk_are_filtered_piece_by_piece(on_disk, folder, monkeypatch):
    def left(words, data):
        return filters.apply(data, [filters.parse(word) for word in words])

    sizes = [piece.size for piece in disk.split(on_disk)]
    assert len(sizes) > 9
    assert sum(sizes) == on_disk.size
    known = replace(TASK.dataset, info=on_disk.info)
    for words in (["truncate=3"], ["near=0,0.5,0.05", "truncate=2"], ["truncate=3", "near=0,0.5,0.05"]):
        kept = left(words, on_disk)
        assert type(kept) is Dataset
        assert (kept.hash, kept.info) == (left(words, known).hash, left(words, known).info)
        assert kept.name == on_disk.name
    for words in (["truncate=3", "near=50,50,1"], ["near=0,0,99"], ["truncate=3", "truncate=3"], ["near=0,0,1@9,8"]):
        with pytest.raises(DataError) as whole:
            left(words, known)
        with pytest.raises(DataError, match=re.escape(str(whole.value))):
            left(words, on_disk)
    with pytest.raises(
        DataError, match=rf"'truncate=90' leaves [\d.]+ kB or more.* 102 kB may.*import {folder} --filter"
    ):
        left(["truncate=90"], on_disk)
    monkeypatch.setenv("SEGUE_MEMORY_LIMIT", "1k")
    joint = replace(on_disk, terminal=on_disk.terminal & False, timeout=np.arange(on_disk.size) == on_disk.size - 1)
    with pytest.raises(DataError, match=r"too long to be cut.*--memory-limit"):
        next(disk.split(joint))


def test_rows_on_disk_are_not_relabelled(on_disk, folder):
    words = rf"larger than the memory.*the reward of x.*segue data import {folder} --task NAME"
    with pytest.raises(DataError, match=words):
        success.relabelled(on_disk, on_disk.reward, on_disk.terminal, "x")
    done = {"kind": "relabelled", "task": "x", "dropped": 2}
    again = replace(on_disk, info={"transforms": [done]})
    assert success.relabelled(again, on_disk.reward, on_disk.terminal, "x") is again
    with pytest.raises(DataError, match="was relabelled for 'x' already"):
        success.relabelled(again, on_disk.reward, on_disk.terminal, "y")


def test_info_that_is_no_json_is_refused_before_it_is_missed(tmp_path):
    for info in ({"a": {1, 2}}, {"a": float("nan")}):
        with pytest.raises(DataError, match="info cannot be written"):
            disk.write(replace(TASK.dataset, info=info), tmp_path / "x.segue")
    assert not list(tmp_path.iterdir())


def test_records_of_one_piece_stay_as_they_are(tmp_path):
    records = [{"kind": "truncate", "dropped": 1}, {"kind": "near", "dropped": 2}, {"kind": "truncate", "dropped": 1}]
    disk.write(replace(TASK.dataset, info={"transforms": records}), tmp_path / "x.segue")
    assert formats.read(tmp_path / "x.segue").info["transforms"] == records
    assert disk._summed([records, records]) == [{**one, "dropped": 2 * one["dropped"]} for one in records]
    first, then, last = ({"kind": kind, "rows": 1} for kind in ("ends_found", "ends_by_reward", "rows_dropped"))
    summed = disk._summed([[then], [first, then], [then, last], [first, then, last]])
    assert summed == [first | {"rows": 2}, then | {"rows": 4}, last | {"rows": 2}]
    shifted = [{"kind": "rewards_shifted", "rows": 1}]
    assert disk._summed([shifted, shifted]) == shifted


def test_a_run_stays_on_disk(folder, tmp_path, monkeypatch):
    phases = (Phase("offline", zoo.bc, 2, batch_size=8),)
    monkeypatch.setenv("SEGUE_MEMORY_LIMIT", "100k")
    config = runs.make_config("x", tasks.get("point-wall", dataset=folder), phases, 0, Settings(eval_episodes=0), [])
    assert config["dataset"]["on_disk"]
    monkeypatch.setenv("SEGUE_MEMORY_LIMIT", "1GiB")
    said = []
    assert isinstance(runs.task_of(config, said.append).dataset, disk.DiskDataset)
    assert not said
    config = runs.make_config("x", tasks.get("point-wall", dataset=folder), phases, 0, Settings(eval_episodes=0), [])
    assert "on_disk" not in config["dataset"]
    assert type(runs.task_of(config, said.append).dataset) is Dataset
    monkeypatch.setenv("SEGUE_MEMORY_LIMIT", "100k")
    assert isinstance(runs.task_of(config, said.append).dataset, disk.DiskDataset)
    assert "in memory" in said[0]


def test_writing_is_whole_or_not_at_all(tmp_path, folder):
    with pytest.raises(DataError, match="exists already"):
        disk.write(TASK.dataset, folder)
    with pytest.raises(DataError, match=r"end in \.segue"):
        disk.write(TASK.dataset, tmp_path / "x.npz")
    with pytest.raises(DataError, match="no rows"):
        disk.write_pieces([], tmp_path / "x.segue")

    def breaks():
        yield TASK.dataset
        raise DataError("the source is broken")

    with pytest.raises(DataError, match="the source is broken"):
        disk.write_pieces(breaks(), tmp_path / "x.segue")
    other = dataset_from_arrays({"obs": np.zeros((3, 4)), "action": np.zeros((3, 1)), "reward": np.zeros(3),
                                 "next_obs": np.zeros((3, 4)), "terminal": np.zeros(3)}, "other")  # fmt: skip
    with pytest.raises(DataError, match=r"rows from \d+ on have"):
        disk.write_pieces([TASK.dataset, other], tmp_path / "x.segue")
    assert [p.name for p in tmp_path.iterdir()] == [folder.name]


def test_reading_loads_no_jax(folder):
    program = "import sys; from segue.tasks.formats import disk; disk.read(__import__('pathlib').Path(sys.argv[1]));"
    program += "assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", program, str(folder)], check=True)


# ------------------------------------------------------------------------------------------------------------- pieces


@pytest.fixture
def long_file(tmp_path):
    """D4RL's layout without next observations: 40 episodes, some cut, some ended, of 5 to 30 rows."""
    rng = np.random.default_rng(3)
    lengths = rng.integers(5, 31, 40)
    ends = np.cumsum(lengths) - 1
    n = int(lengths.sum())
    terminal, timeout = np.zeros(n, bool), np.zeros(n, bool)
    terminal[ends[::2]], timeout[ends[1::2]] = True, True
    path = tmp_path / "long.hdf5"
    with h5py.File(path, "w") as file:
        file["observations"] = rng.normal(size=(n, 3))
        file["actions"] = rng.uniform(-1.2, 1.2, (n, 2)).astype(np.float32)
        file["rewards"] = rng.normal(size=n).astype(np.float32)
        file["terminals"], file["timeouts"] = terminal, timeout
    return path


READING = formats.Reading(clip_actions=True)


def test_a_file_in_pieces_is_the_file(long_file, tmp_path):
    whole = formats.read(long_file, reading=READING)
    told = []
    pieces = list(formats.read_pieces(long_file, reading=READING, pieces=7, progress=lambda *x: told.append(x)))
    assert len(pieces) > 4
    assert min(piece.size for piece in pieces) > 70  # rows are dropped from those of 100
    assert [x[1] for x in told] == [told[-1][0]] * len(pieces)
    out = tmp_path / "long.segue"
    disk.write_pieces(pieces, out)
    again = formats.read(out)
    assert again.hash == whole.hash
    assert again.info == whole.info
    assert again.name == whole.name == "long"
    assert [one["kind"] for one in again.info["transforms"]] == [one["kind"] for one in whole.info["transforms"]]


def test_only_a_piece_is_held(long_file, tmp_path, monkeypatch):
    size = 4 * 9 * formats.read(long_file, reading=READING).size
    monkeypatch.setenv("SEGUE_MEMORY_LIMIT", str(size // 2))
    with pytest.raises(
        DataError, match=r"take [\d.]+ kB, .* [\d.]+ kB may.*segue data import .*long\.hdf5 --out long\.segue"
    ):
        formats.read(long_file, reading=READING)
    out = tmp_path / "long.segue"
    disk.write_pieces(formats.read_pieces(long_file, reading=READING, pieces=7), out)
    assert isinstance(formats.read(out), disk.DiskDataset)
    assert formats.read(out, name="other").name == "other"


RELABELLED = [name for name in tasks.names() if tasks.get(name).relabel is not None]


def goes_on_file(path, task, flags, given):
    """D4RL's layout: 40 recordings of 24 rows, most of them in the goal at some rows, where a terminal is flagged, and
    on behind it; `flags` names the columns of ends, `given`: with next observations.
    """
    rng = np.random.default_rng(5)
    rows = 40 * 24
    obs = rng.normal(size=(rows, task.obs_dim)).astype(np.float32)
    obs[:, 0] = np.tile(0.3 * np.arange(24), 40) + np.tile(np.repeat([0.0, 20.0], 24), 20)
    obs[:, 1] = 0
    obs[100:104, :2], obs[900:903, :2] = (7, 9), (32, 24)  # in regions that named tasks leave out
    last = np.arange(rows) % 24 == 23
    next_obs = np.append(obs[1:], obs[:1], axis=0)
    next_obs[last] = obs[last] + 1
    paid = (rng.uniform(size=(40, 24)) < np.array([[0.0], [0.2], [0.5], [0.9]]).repeat(10, 0)).reshape(-1)
    actions = rng.uniform(-1, 1, (rows, task.act_dim)).astype(np.float32)
    if task.reading.clip_actions:
        actions[700] = 1.5  # in one piece
    columns = {"observations": obs, "actions": actions, "rewards": paid.astype(np.float32)}
    columns |= (
        {"terminals": paid, "timeouts": last} if flags == "both" else {flags: paid if flags == "terminals" else last}
    )
    with h5py.File(path, "w") as file:
        for key, column in (columns | ({"next_observations": next_obs} if given else {})).items():
            file[key] = column


@pytest.mark.parametrize(
    ("name", "flags", "given"),
    [(name, "timeouts" if name.startswith("maze2d") else "both", False) for name in RELABELLED]
    + [("antmaze-umaze-ogbench", flags, True) for flags in ("both", "terminals", "timeouts")]
    + [("antmaze-umaze-ogbench", flags, False) for flags in ("terminals", "timeouts")]
    + [("door-binary", flags, True) for flags in ("both", "terminals", "timeouts")],
)
def test_pieces_relabelled_are_the_file_relabelled(name, flags, given, tmp_path):
    """Whatever a task makes of the rows behind its goal; and what tells that it was done is not done again."""
    task = tasks.get(name)
    goes_on_file(tmp_path / "a.hdf5", task, flags, given)
    whole = tasks.get(name, dataset=tmp_path / "a.hdf5").dataset
    tasks.write(whole, tmp_path / "own.hdf5")
    for file in ("a.hdf5", "own.hdf5"):
        pieces = list(
            formats.read_pieces(
                tmp_path / file, max_episode_steps=task.horizon, reading=task.reading, goes_on=task.goes_on, pieces=12
            )
        )
        assert len(pieces) > 2 or file == "own.hdf5"  # what is left of one may be a single recording
        out = tmp_path / f"{file}.segue"
        disk.write_pieces(map(task.relabel, pieces), out)
        for again in (formats.read(out), tasks.get(name, dataset=out).dataset):
            assert again.info["transforms"] == whole.info["transforms"]
            assert (again.hash, again.info) == (whole.hash, whole.info)


def test_a_broken_piece_is_named(long_file):
    with h5py.File(long_file, "r+") as file:
        file["rewards"][350] = np.nan
    with pytest.raises(DataError, match=r"rows \d+ to \d+, numbered from 0 there.*'rewards' has NaN"):
        list(formats.read_pieces(long_file, reading=READING, pieces=7))


def test_a_file_of_ours_in_pieces_is_the_file(long_file, tmp_path):
    formats.write(formats.read(long_file, reading=READING), tmp_path / "own.hdf5")
    whole = formats.read(tmp_path / "own.hdf5")
    disk.write_pieces(formats.read_pieces(tmp_path / "own.hdf5", pieces=5), tmp_path / "own.segue")
    again = formats.read(tmp_path / "own.segue")
    assert (again.hash, again.info) == (whole.hash, whole.info)


def test_flags_in_a_column_are_ends_too(long_file):
    with h5py.File(long_file, "r+") as file:
        for key in ("terminals", "timeouts"):
            flags = file[key][()][:, None]
            del file[key]
            file[key] = flags
    assert len(list(formats.read_pieces(long_file, reading=READING, pieces=7))) > 4


def test_what_cannot_be_cut_says_so(long_file, monkeypatch):
    with h5py.File(long_file, "r+") as file:
        del file["terminals"], file["timeouts"]
    monkeypatch.setenv("SEGUE_MEMORY_LIMIT", "1k")
    with pytest.raises(DataError, match="too long to be cut into pieces; flag their ends"):
        list(formats.read_pieces(long_file, reading=READING, max_episode_steps=50))


def test_a_file_without_ends_is_one_piece(long_file):
    with h5py.File(long_file, "r+") as file:
        del file["terminals"], file["timeouts"]
    (piece,) = formats.read_pieces(long_file, reading=READING, pieces=9, max_episode_steps=50)
    assert piece.hash == formats.read(long_file, reading=READING, max_episode_steps=50).hash


def test_the_formats_know_the_folder(tmp_path, on_disk, folder):
    assert formats.find_kind(folder) == "segue"
    assert formats.read(folder).hash == on_disk.hash
    raw = formats.read_columns(folder)
    assert raw.own
    np.testing.assert_array_equal(raw.columns["obs"], on_disk.obs)
    formats.write(TASK.dataset, tmp_path / "again.segue")
    assert disk.read(tmp_path / "again.segue").hash == TASK.dataset.hash
    task = tasks.get("point-wall", dataset=folder)
    assert isinstance(task.dataset, disk.DiskDataset)
    assert tasks.from_source(task.source).dataset.hash == TASK.dataset.hash
