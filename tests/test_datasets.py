"""Datasets: hand-written rows through the entrance, and every file that must not get in."""

import json
import zipfile

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.errors import DataError
from segue.tasks.dataset import COLUMNS, D4RL, Dataset, dataset_from_arrays
from segue.tasks.formats import common, read, write_npz, writing


def columns(n=4, **changes):
    """n rows of one episode, the last terminal; observations count up."""
    made = {
        "obs": np.arange(n, dtype=np.float32)[:, None],
        "action": np.linspace(-1, 1, n, dtype=np.float32)[:, None],
        "reward": np.ones(n, np.float32),
        "next_obs": np.arange(1, n + 1, dtype=np.float32)[:, None],
        "terminal": np.arange(n) == n - 1,
        "timeout": np.zeros(n, bool),
    }
    made.update(changes)
    return {key: value for key, value in made.items() if value is not None}


def flags(text):
    """'..t.' -> [F, F, T, F]"""
    return np.array([c != "." for c in text])


def test_reconstruction_row_by_row():
    # rows:      0  1  2 | 3  4 | 5  6 | 7 | 8 9      ends: 2 terminal, 4 timeout, 6 terminal, 7 timeout, 9 open
    obs = np.array([10, 11, 12, 20, 21, 30, 31, 40, 50, 51], np.float32)[:, None]
    data = dataset_from_arrays(
        columns(
            10,
            obs=obs,
            reward=np.arange(10),
            next_obs=None,
            terminal=flags("..t...t..."),
            timeout=flags("....t..t.."),
        ),
        "hand",
    )
    # dropped: 4 (no successor), 7 (an episode of that row alone), 9 (open at the end of the file)
    assert data.obs[:, 0].tolist() == [10, 11, 12, 20, 30, 31, 50]
    assert data.next_obs[:, 0].tolist() == [11, 12, 12, 21, 31, 31, 51]
    assert data.reward.tolist() == [0, 1, 2, 3, 5, 6, 8]
    assert data.terminal.tolist() == flags("..t..t.").tolist()
    assert data.timeout.tolist() == flags("...t..t").tolist()
    assert data.starts.tolist() == [0, 3, 4, 6]
    assert data.lengths.tolist() == [3, 1, 2, 1]
    assert data.returns.tolist() == [3, 3, 11, 8]
    assert data.step.tolist() == [0, 1, 2, 0, 0, 1, 0]
    assert data.info["transforms"] == [
        {"kind": "last_row_ended"},
        {"kind": "next_obs_from_next_row"},
        {"kind": "rows_dropped", "rows": 3, "reason": "last of a cut episode: it has no next observation"},
    ]
    assert (data.size, data.obs_dim, data.act_dim) == (7, 1, 1)
    assert data.returns.dtype == np.float64
    assert data.obs.dtype == np.float32


def test_with_next_obs_no_row_is_dropped_and_gaps_end_episodes():
    obs = np.array([0, 1, 2, 9, 10, 5, 6], np.float32)[:, None]
    next_obs = np.array([1, 2, 3, 10, 11, 6, 7], np.float32)[:, None]
    data = dataset_from_arrays(
        columns(7, obs=obs, next_obs=next_obs, terminal=flags("....t.."), timeout=None),
        "gap",
    )
    # between 2 and 3 the next row starts elsewhere; after 4 it does as well, but 4 is terminal; 6 is left open
    assert data.size == 7
    assert data.timeout.tolist() == flags("..t...t").tolist()
    assert data.terminal.tolist() == flags("....t..").tolist()
    assert data.info["transforms"] == [
        {"kind": "ends_found", "rows": 1, "rule": "|obs[i+1] - next_obs[i]| > 1e-06"},
        {"kind": "last_row_ended"},
    ]
    assert data.starts.tolist() == [0, 3, 5]


def test_no_gap_is_seen_where_rows_continue():
    assert dataset_from_arrays(columns(), "whole").info == {}
    nudged = columns()
    nudged["next_obs"] = nudged["next_obs"] + np.array([[0.0], [1e-3], [0.0], [0.0]], np.float32)
    data = dataset_from_arrays(nudged, "nudged")
    assert data.timeout.tolist() == [False, True, False, False]


def test_terminal_wins_over_timeout():
    data = dataset_from_arrays(columns(timeout=flags("...t")), "both")
    assert data.terminal[-1]
    assert not data.timeout[-1]


def test_max_episode_steps_marks_the_cuts():
    data = dataset_from_arrays(
        columns(7, next_obs=None, timeout=None, terminal=flags(".t.....")), "limit", max_episode_steps=3
    )
    # episodes of the file: 0-1 terminal, 2-4 cut, 5-6 open; rows 4 and 6 have no successor
    assert data.obs[:, 0].tolist() == [0, 1, 2, 3, 5]
    assert data.terminal.tolist() == flags(".t...").tolist()
    assert data.timeout.tolist() == flags("...tt").tolist()
    with pytest.raises(DataError, match="max_episode_steps is 0"):
        dataset_from_arrays(columns(timeout=None), "limit", max_episode_steps=0)


def test_timeouts_alone_say_that_nothing_is_terminal():
    data = dataset_from_arrays(columns(terminal=None, timeout=flags(".t.t")), "cut")
    assert not data.terminal.any()
    assert data.timeout.tolist() == flags(".t.t").tolist()
    assert "no row ends the MDP" in data.info["assumed"]


def test_d4rl_names_and_extra_columns():
    given = {D4RL[key]: value for key, value in columns().items()}
    data = dataset_from_arrays({**given, "infos/qpos": np.zeros(3)}, "d4rl")
    assert data.hash == dataset_from_arrays(columns(), "own").hash
    assert data.info["ignored_columns"] == ["infos/qpos"]


def test_actions_are_mapped_from_the_environments_box():
    given = columns(3, action=np.array([[-2.0, 0.0], [0.0, 5.0], [2.0, 10.0005]]))
    data = dataset_from_arrays(given, "box", action_low=[-2, 0], action_high=[2, 10])
    np.testing.assert_allclose(data.action, [[-1, -1], [0, 0], [1, 1]], atol=1e-6)
    assert np.abs(data.action).max() == 1  # the last was a little outside
    assert data.info["transforms"] == [
        {"kind": "actions_mapped", "low": [-2, 0], "high": [2, 10]},
        {"kind": "actions_clipped", "rows": 1, "largest": pytest.approx(1.0001)},
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reward": None}, ["no column 'reward'", "rewards", "there are: action, next_obs, obs"]),
        ({"reward": None, "rewrad": np.ones(4)}, ["no column 'reward'", "did you mean 'rewrad'"]),
        ({"timeout": None, "timeuots": np.zeros(4)}, ["'timeuots'", "did you mean 'timeouts'"]),
        ({"observations": np.zeros((4, 1))}, ["'obs' and 'observations' mean the same"]),
        ({"reward": np.ones(3)}, ["'reward' has 3 rows", "'obs' has 4"]),
        ({"reward": np.ones((4, 2))}, ["'reward' has shape (4, 2)"]),
        ({"obs": np.ones((4, 8, 8))}, ["'obs'", "not images"]),
        ({"obs": np.ones(4)}, ["'obs'", "reshape it to [N, 1]"]),
        ({"obs": np.ones((4, 0)), "next_obs": np.ones((4, 0))}, ["'obs'", "rows are empty"]),
        ({"next_obs": np.ones((4, 2))}, ["'next_obs' has shape (4, 2)", "(4, 1)"]),
        ({"obs": np.array([["a"]] * 4)}, ["'obs'", "give numbers"]),
        ({"obs": np.ones((4, 1), complex)}, ["'obs'", "complex128"]),
        ({"obs": np.array([[1], [2], [3], None], object)}, ["'obs'", "objects"]),
        ({"obs": [[1.0], [2.0, 3.0], [1.0], [1.0]]}, ["'obs' is ragged"]),
        ({"reward": [0, np.nan, 0, np.inf]}, ["'reward' has NaN", "first at row 1", "in 2 rows"]),
        ({"obs": [[0], [1], [1e300], [3]]}, ["'obs' has NaN or infinity", "row 2", "1 row"]),
        ({"action": [[0], [0], [1.5], [2]]}, ["'action' row 2 holds 1.5", "[-1, 1]", "2 rows"]),
        ({"terminal": [0, 0, 2, 1]}, ["'terminal' row 2 holds 2"]),
        ({"terminal": None, "timeout": None}, ["no column 'terminal'", "--env", "max_episode_steps"]),
        ({"next_obs": None, "timeout": None}, ["none 'timeout'", "time limit", "--env", "max_episode_steps"]),
        ({"next_obs": None, "timeout": np.ones(4), "terminal": flags("...t")}, ["no next observation", "leaves 1 row"]),
    ],
)
def test_bad_columns(changes, words):
    with pytest.raises(DataError) as error:
        dataset_from_arrays(columns(**changes), "bad.npz")
    for word in ["bad.npz", *words]:
        assert word in str(error.value)


def test_too_few_rows_and_wrong_bounds():
    with pytest.raises(DataError, match="1 row; a dataset needs at least 2"):
        dataset_from_arrays(columns(1), "one")
    with pytest.raises(DataError, match=r"has 1 actions per row, and there are bounds for 2 .of the environment"):
        dataset_from_arrays(columns(), "dims", action_low=[-1, -1], action_high=[1, 1])
    with pytest.raises(DataError, match="must be finite"):
        dataset_from_arrays(columns(), "bounds", action_low=-np.inf, action_high=1)
    with pytest.raises(DataError, match="a list; give a dictionary"):
        dataset_from_arrays([1, 2], "list")


def test_validate_holds_the_promises():
    good = dataset_from_arrays(columns(), "good")
    parts = {column: getattr(good, column).copy() for column in COLUMNS}

    def broken(**changes):
        return pytest.raises(DataError), Dataset(**{**parts, **changes}, name="broken")

    for change, word in (
        ({"terminal": np.zeros(4, bool)}, "last row"),
        ({"timeout": flags("...t")}, "row 3 is terminal and timeout"),
        ({"action": np.full((4, 1), 2, np.float32)}, "outside"),
        ({"reward": np.ones(4)}, "'reward' must be a 1-d float32"),
        ({"obs": np.full((4, 1), np.nan, np.float32)}, "'obs' has NaN"),
    ):
        raises, made = broken(**change)
        with raises as error:
            made.validate()
        assert word in str(error.value)
    assert good.validate() is good


def test_columns_cannot_be_written_and_float32_is_shared():
    given = columns(reward=np.ones(4))
    data = dataset_from_arrays(given, "lean")
    assert np.shares_memory(data.obs, given["obs"])
    assert not np.shares_memory(data.reward, given["reward"])  # float64
    given["obs"][0] = 99  # the caller's array stays writeable
    with pytest.raises(ValueError, match="read-only"):
        data.obs[0] = 1


def test_hash_sees_every_column():
    base = dataset_from_arrays(columns(), "a").hash
    assert dataset_from_arrays(columns(), "b").hash == base
    seen = {base}
    for change in (
        {"reward": [1, 1, 1, 2]},
        {"action": np.zeros((4, 1))},
        {"terminal": flags(".t.t")},
        {"timeout": flags(".t..")},
        {"next_obs": np.array([[1.0], [2], [3], [5]])},
    ):
        seen.add(dataset_from_arrays(columns(**change), "a").hash)
    assert len(seen) == 6


@st.composite
def recordings(draw):
    """Episodes whose observations are (episode, time), so that every row tells where it belongs."""
    episodes = draw(st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=8))
    obs, terminal, timeout = [], [], []
    for e, (length, ends) in enumerate(episodes):
        for t in range(length):
            obs.append((e, t))
            terminal.append(ends and t == length - 1)
            timeout.append(not ends and t == length - 1)
    n = len(obs)
    reward = draw(st.lists(st.floats(-1e3, 1e3, width=32), min_size=n, max_size=n))
    kept = sum(length if ends else length - 1 for length, ends in episodes)
    made = {"obs": obs, "action": np.zeros((n, 2)), "reward": reward, "terminal": terminal, "timeout": timeout}
    return episodes, kept, {key: np.array(value) for key, value in made.items()}


@settings(max_examples=60, deadline=None)
@given(recordings())
def test_reconstruction_never_crosses_an_episode(recording):
    episodes, kept, given_columns = recording
    if kept < 2:
        with pytest.raises(DataError):
            dataset_from_arrays(given_columns, "short")
        return
    data = dataset_from_arrays(given_columns, "drawn")
    assert data.size == kept
    assert (data.obs[:, 0] == data.next_obs[:, 0]).all()
    moved = data.next_obs[:, 1] - data.obs[:, 1]
    assert (moved == np.where(data.terminal, 0, 1)).all()
    assert data.terminal.sum() == sum(ends for _, ends in episodes)
    first = data.obs[data.starts]
    assert (first[:, 1] == 0).all()
    assert len(np.unique(first[:, 0])) == len(first)
    assert (data.step == data.obs[:, 1]).all()


@settings(max_examples=20, deadline=None)
@given(recordings())
def test_write_then_read_gives_the_same_rows(tmp_path_factory, recording):
    _, kept, given_columns = recording
    if kept < 2:
        return
    data = dataset_from_arrays(given_columns, "drawn", info={"who": "hypothesis"})
    path = tmp_path_factory.mktemp("round") / "sub" / "data.npz"
    write_npz(data, path)
    back = read(path)
    assert back.hash == data.hash
    assert back.info == data.info
    assert back.name == "drawn"
    assert [p.name for p in path.parent.iterdir()] == ["data.npz"]


def test_own_format_is_not_scaled_twice(tmp_path):
    data = dataset_from_arrays(columns(), "unit", action_low=-2, action_high=2)
    assert np.abs(data.action).max() == 0.5
    write_npz(data, tmp_path / "unit.npz")
    back = read(tmp_path / "unit.npz", action_low=-2, action_high=2, name="other")
    assert back.hash == data.hash
    assert back.name == "other"
    np.savez(tmp_path / "raw.npz", **columns())
    raw = read(tmp_path / "raw.npz", action_low=-2, action_high=2)
    assert raw.hash == data.hash
    assert raw.info["source"] == "raw.npz"
    assert raw.name == "raw"


def test_write_refuses_what_it_cannot_keep(tmp_path):
    data = dataset_from_arrays(columns(), "info", info={"bad": object()})
    with pytest.raises(DataError, match="cannot be written as JSON"):
        write_npz(data, tmp_path / "a.npz")
    with pytest.raises(DataError, match=r"\.npz"):
        write_npz(dataset_from_arrays(columns(), "x"), tmp_path / "a.h5")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_npz(dataset_from_arrays(columns(), "x"), tmp_path / "file" / "a.npz")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_failed_write_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    reader = path.open("rb")  # what another process holds open stays whole

    def fail():
        with writing(path) as file:
            file.write(b"new")
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        fail()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    with writing(path) as file:
        file.write(b"new")
    with reader:
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new"


def test_files_that_are_no_files(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "absent.npz")
    with pytest.raises(DataError, match="no Minari dataset; name a file"):
        read(tmp_path)
    (tmp_path / "data.pkl").write_text("1")
    with pytest.raises(DataError, match=r"'\.pkl'; segue reads \.npz"):
        read(tmp_path / "data.pkl")
    for name in ("text.npz", "text.hdf5"):
        (tmp_path / name).write_text("not a container")
        with pytest.raises(DataError, match="cannot be read"):
            read(tmp_path / name)


@pytest.mark.parametrize("suffix", [".npz", ".hdf5"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.97])
def test_truncated_files(tmp_path, suffix, share):
    path = tmp_path / f"cut{suffix}"
    many = columns(2000)
    if suffix == ".npz":
        np.savez_compressed(path, **many)
    else:
        with h5py.File(path, "w") as file:
            for key, value in many.items():
                file[key] = value
    assert read(path).size == 2000
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataError, match="truncated"):
        read(path)


def test_corrupted_member(tmp_path):
    path = tmp_path / "flip.npz"
    np.savez(path, **columns(2000))
    raw = bytearray(path.read_bytes())
    raw[1000] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"cannot be read as \.npz"):
        read(path)


def test_pickled_objects_are_never_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was run",))

    path = tmp_path / "pickle.npz"
    np.savez(path, **columns(reward=None), reward=np.array([Bomb()] * 4, object))
    with pytest.raises(DataError, match=r"column 'reward' holds pickled objects"):
        read(path)


def test_declared_sizes_are_checked_before_reading(tmp_path, monkeypatch):
    path = tmp_path / "zeros.npz"
    np.savez_compressed(path, **columns(200_000, reward=np.zeros(200_000)))
    assert read(path).size == 200_000  # zeros pack well: that alone is no crime
    monkeypatch.setattr(common, "SUSPECT", (10_000, 100))
    with pytest.raises(DataError, match="'reward' declares 1600128 bytes"):
        read(path)


def test_what_is_stored_is_large_and_not_hostile():
    sizes = common.Sizes("a.hdf5", whole=False)  # read in pieces
    for _ in range(3):
        sizes.add(2**50, 2**41, "a.hdf5: column 'obs'")
    with pytest.raises(DataError, match=r"column 'obs' declares .* broken or hostile"):
        sizes.add(2**50, 2**39, "a.hdf5: column 'obs'")
    with pytest.raises(DataError, match=r"may be used; allow more \(--memory-limit\)"):
        common.Sizes("a.hdf5").add(2**50, 2**50, "a.hdf5: column 'obs'")


def test_a_header_may_not_promise_more_than_the_member_holds(tmp_path):
    path = tmp_path / "lie.npz"
    np.savez(path, **columns(reward=None))
    with zipfile.ZipFile(path, "a") as archive, archive.open("reward.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)})
    with pytest.raises(DataError, match="'reward' is cut short"):
        read(path)


def test_own_format_from_the_future_or_broken(tmp_path):
    whole = {**columns(), "name": np.str_("x"), "info": np.str_("{}"), "format": np.int64(1)}
    for change, words in (
        ({"format": np.int64(9)}, "format 9 is not known"),
        ({"info": np.str_("{")}, "'info' is not JSON"),
        ({"info": np.str_("[1]")}, "not a JSON object"),
        ({"info": np.str_('{"transforms": 5}')}, "'transforms' is no list of objects, each with a 'kind'; export"),
        ({"info": np.str_('{"transforms": [1]}')}, "'transforms' is no list"),
        ({"info": np.str_('{"transforms": [{"kind": 1}]}')}, "'transforms' is no list"),
    ):
        np.savez(tmp_path / "own.npz", **{**whole, **change})
        with pytest.raises(DataError, match=words):
            read(tmp_path / "own.npz")
    del whole["timeout"]
    np.savez(tmp_path / "own.npz", **whole)
    with pytest.raises(DataError, match="'timeout' is missing"):
        read(tmp_path / "own.npz")


def test_d4rl_hdf5(tmp_path):
    path = tmp_path / "hopper_medium-v2.hdf5"
    with h5py.File(path, "w") as file:
        for key, value in columns().items():
            file[D4RL[key]] = value
        file["infos/qpos"] = np.zeros((4, 3))
        file["metadata/algorithm"] = "SAC"
    data = read(path)
    assert data.hash == dataset_from_arrays(columns(), "x").hash
    assert data.name == "hopper_medium-v2"
    assert data.info["ignored_columns"] == ["infos", "metadata"]


def test_hdf5_that_reaches_outside_itself(tmp_path):
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["rewards"] = np.ones(4)
    (tmp_path / "raw").write_bytes(np.ones(4).tobytes())

    def external(file):
        file["rewards"] = h5py.ExternalLink(str(other), "rewards")

    def soft(file):
        file["rewards"] = h5py.SoftLink("/infos/elsewhere")

    def virtual(file):
        layout = h5py.VirtualLayout((4,), "f8")
        layout[:] = h5py.VirtualSource(str(other), "rewards", (4,))
        file.create_virtual_dataset("rewards", layout)

    def raw(file):
        file.create_dataset("rewards", (4,), "f8", external=[(str(tmp_path / "raw"), 0, 32)])

    def group(file):
        file.create_group("rewards")

    def text(file):
        file["rewards"] = ["a", "b", "c", "d"]

    def bomb(file):
        file.create_dataset("rewards", (2**40,), "f8", chunks=(2**10,))

    def chunk(file):  # four values, for which 2 GiB would be unpacked
        file.create_dataset("rewards", (4,), "f8", maxshape=(None,), chunks=(2**28,), compression="gzip")

    for make, words in (
        (external, "link to elsewhere"),
        (soft, "link to elsewhere"),
        (virtual, "in other files"),
        (raw, "in other files"),
        (group, "is a group"),
        (text, "give numbers"),
        (bomb, "broken or hostile"),
        (chunk, "holds 32 bytes in chunks of 2147483648"),
    ):
        path = tmp_path / f"{make.__name__}.h5"
        with h5py.File(path, "w") as file:
            for key, value in columns(reward=None).items():
                file[key] = value
            make(file)
        with pytest.raises(DataError, match=words) as error:
            read(path)
        assert "'rewards'" in str(error.value)
        assert path.name in str(error.value)


def test_chunks_count_while_they_are_read(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for key, value in columns(2000).items():
            file.create_dataset(key, data=value, chunks=(2**18, *value.shape[1:]), maxshape=(None, *value.shape[1:]))
    assert read(path).size == 2000
    monkeypatch.setenv("SEGUE_MEMORY_LIMIT", "2050k")  # columns of 36 kB, and twice a chunk of 1 MiB
    with pytest.raises(DataError, match="may be used; allow more"):
        read(path)
    monkeypatch.setenv("SEGUE_MEMORY_LIMIT", "2000k")
    with pytest.raises(DataError, match="in chunks of 1048576, each of which is unpacked as a whole"):
        read(path)


def test_info_is_json(tmp_path):
    data = dataset_from_arrays(columns(next_obs=None), "x", action_low=[-1], action_high=[1])
    assert json.loads(json.dumps(data.info)) == data.info
