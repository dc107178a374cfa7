"""The linter: every finding by hand, nothing of clean data, and an error exactly where the entrance refuses."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.errors import DataError
from segue.tasks import dataset_from_arrays, get, read
from segue.tasks.dataset import COLUMNS, D4RL
from segue.tasks.lint import PIECE, SEVERITIES, lint


def clean(n=60, length=20):
    """`n` rows in episodes of `length`, one of them ended by the task at row 16; actions all over [-1, 1]."""
    rng = np.random.default_rng(0)
    obs, next_obs = rng.normal(size=(2, n, 3)).astype(np.float32)
    terminal, timeout = np.zeros(n, bool), np.zeros(n, bool)
    timeout[length - 1 :: length] = timeout[-1] = terminal[16] = True
    inside = ~(terminal | timeout)[:-1]
    obs[1:][inside] = next_obs[:-1][inside]
    action = np.linspace(-1, 1, 2 * n).reshape(n, 2).astype(np.float32)
    reward = rng.normal(size=n).astype(np.float32)
    return dict(zip(COLUMNS, (obs, action, reward, next_obs, terminal, timeout), strict=True))


def found(columns, **given):
    """What was found but the words: severity, rule, column, count, rows."""
    return [(f.severity, f.rule, f.column, f.count, f.rows) for f in lint(columns, **given)]


def text(columns, **given):
    """The sentence and the way out of the one finding."""
    (finding,) = lint(columns, **given)
    return f"{finding.text}; {finding.way_out}"


def test_clean_data_have_no_findings():
    assert found(clean()) == []
    assert found({D4RL[c]: array for c, array in clean().items()}) == []
    assert found({c: array.astype(np.float64) for c, array in clean().items()}) == []
    data = get("point-wall").dataset
    assert found({c: getattr(data, c) for c in COLUMNS}, own=True) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_cells_that_are_not_finite(value):
    columns = clean()
    columns["next_obs"] = columns["next_obs"].astype(np.float64)  # 1e39 is a number there, and none in float32
    columns["next_obs"][[16, 19, 39], 1] = value  # of ends: elsewhere it would be a jump too
    assert found(columns) == [("error", "not finite", "next_obs", 3, (16, 19, 39))]


@pytest.mark.filterwarnings("error")
def test_half_floats_are_compared_without_a_warning(tmp_path):
    columns = {c: array.astype(np.float16) if array.dtype == np.float32 else array for c, array in clean().items()}
    assert found(columns) == []
    np.savez(tmp_path / "f16.npz", **columns)
    assert read(tmp_path / "f16.npz").size == 60
    columns["obs"][[0, 20], 2] = np.inf, np.nan  # starts of episodes: elsewhere it would be a jump too
    assert found(columns) == [("error", "not finite", "obs", 2, (0, 20))]


def test_only_the_first_rows_are_named():
    columns = clean()
    columns["reward"][10:40] = np.nan
    assert found(columns) == [("error", "not finite", "reward", 30, (10, 11, 12, 13, 14))]
    assert text(columns).startswith("30 rows hold NaN, infinity")


def test_constant_entries():
    columns = clean()
    columns["obs"][:, 1] = columns["next_obs"][:, 1] = 7.5
    assert found(columns) == [("note", "constant", "obs", 1, ())]
    assert "entry 1 of 3 is always 7.5" in text(columns)
    columns = clean()
    columns["action"][:] = 0.25, -0.5
    assert found(columns) == [("warning", "constant", "action", 2, ())]
    assert "entries 0, 1 of 2 are always 0.25, -0.5" in text(columns)


def test_actions_outside_their_bounds():
    columns = clean()
    columns["action"][[3, 50], 1] = 1.5, -1.002
    columns["action"][7, 0] = 1.0005  # within the slack of a thousandth
    outside, rounding = found(columns)
    assert outside == ("error", "action range", "action", 2, (3, 50))
    assert rounding == ("note", "action rounding", "action", 1, (7,))
    assert "outside [-1, 1]; the file's actions run from -1.002 to 1.5" in lint(columns)[0].text
    assert found(columns, clip_actions=True)[0] == ("note", "action range", "action", 2, (3, 50))
    assert found(columns, action_low=-2, action_high=[2, 2]) == []
    assert "outside the bounds of their entries" in lint(columns, action_low=-1, action_high=[1.1, 1.2])[0].text
    assert "--action-low and --action-high, or --env" in lint(columns)[0].way_out
    assert found(columns, own=True, action_low=-2, action_high=2)[0][0] == "error"


def test_a_range_that_is_hardly_used():
    columns = clean()
    columns["action"][:, 1] *= 0.24  # -0.24 to 0.24 of -1 to 1
    assert found(columns) == [("warning", "range in use", "action", 1, ())]
    assert "entry 1 of 2 is within less than a quarter of their bounds: entry 1 runs from -0.2" in text(columns)
    assert "--action-low and --action-high or --env" in text(columns)
    assert found(clean(), action_low=-3.9, action_high=3.9) == []
    assert found(clean(), action_low=[-4, -1], action_high=[4.1, 1])[0][:4] == ("warning", "range in use", "action", 1)


def test_actions_at_their_bounds():
    columns = clean()
    columns["action"][:30, 0] = 1  # half of the rows, and no more
    assert found(columns) == []
    columns["action"][30, 0] = -1
    assert found(columns) == [("note", "at the bounds", "action", 1, ())]
    assert "entry 0 in 52% of the rows" in text(columns)


def test_rewards():
    columns = clean()
    assert found(columns | {"reward": np.full(60, 0.5)}) == [("warning", "reward", "reward", 60, ())]
    assert text(columns | {"reward": np.full(60, 0.5)}).startswith("the reward is 0.5 in all rows")
    reward = np.zeros(60)
    reward[4] = 999
    assert found(columns | {"reward": reward}) == []
    reward[4] = -1001
    assert found(columns | {"reward": reward}) == [("warning", "reward scale", "reward", 60, ())]
    reward[4] = 9e-4
    assert found(columns | {"reward": reward}) == [("warning", "reward scale", "reward", 60, ())]


def test_rows_that_repeat_earlier_ones():
    columns = {c: np.concatenate([array, array[20:40]]) for c, array in clean().items()}
    assert found(columns) == [("warning", "duplicates", "", 20, (60, 61, 62, 63, 64))]
    columns["reward"][60:79] += 1  # equal but in the reward
    assert found(columns) == [("warning", "duplicates", "", 1, (79,))]
    many = {c: np.concatenate([array, array[39:40]]) for c, array in clean(400).items()}
    assert found(many) == [("note", "duplicates", "", 1, (400,)), ("note", "short episodes", "", 1, (400,))]


def test_equal_hashes_are_compared(monkeypatch):
    zeros = SimpleNamespace(integers=lambda *args: np.zeros(args[2], args[3]))
    columns = clean()
    monkeypatch.setattr(np.random, "default_rng", lambda _: zeros)
    assert found(columns) == []


def test_terminals_at_a_time_limit():
    columns = clean(200, 20)
    columns["terminal"][[19, 59, 99]] = True  # and cut: both is a note
    columns["timeout"][[19, 59, 99]] = False
    # the episode that ended at row 16 leaves 3 rows to row 19
    assert found(columns) == []
    columns["terminal"][[39, 119, 199]] = True
    columns["timeout"][[39, 119, 199]] = False
    assert found(columns) == [("warning", "time limits", "terminal", 5, (39, 59, 99, 119, 199))]
    assert "5 of 11 episodes are terminal at just 20 steps" in text(columns)
    assert found(columns, max_episode_steps=20) == found(columns)
    assert found(columns, max_episode_steps=25) == []
    assert found(columns, terminals="cut") == []


def test_rows_both_terminal_and_cut():
    columns = clean()
    columns["terminal"][39] = True
    assert found(columns) == [("note", "both ends", "timeout", 1, (39,))]


def test_jumps():
    columns = clean()
    columns["timeout"][19] = False
    columns["obs"][30] += 1e-3
    assert found(columns) == [("warning", "jumps", "next_obs", 2, (19, 29))]
    assert "flag them in 'timeouts'" in text(columns)
    columns["obs"][30] -= 1e-3
    assert "1 row ends no episode" in lint(columns)[0].text
    columns["obs"] = columns["obs"][::-1]
    (jumps,) = (f for f in lint(columns) if f.rule == "jumps")
    assert jumps.count == 60 - 3  # the ends at 16, 39 and 59
    assert "in the order of their episodes" in jumps.way_out


def test_jumps_across_pieces():
    n = PIECE // (4 * 3) + 5  # rows of 3 float32: a second piece of 5 rows
    columns = clean(n, n)
    columns["obs"][n - 5] += 1
    columns["obs"][n - 2] += 1
    assert ("warning", "jumps", "next_obs", 2, (n - 6, n - 3)) in found(columns)


def test_terminal_rows_that_go_on():
    columns = clean()
    columns["terminal"][[5, 6]] = True
    on, short = found(columns)
    assert on == ("warning", "goes on", "terminal", 2, (5, 6))
    assert short == ("warning", "short episodes", "", 1, (6,))


def test_short_episodes():
    columns = clean(400)
    columns["terminal"][[5, 6]] = True
    columns["obs"][[6, 7]] += 1  # they do not go on
    assert found(columns) == [("note", "short episodes", "", 1, (6,))]
    columns = clean(60)
    columns["terminal"][[5, 6]] = True
    columns["obs"][[6, 7]] += 1
    assert found(columns) == [("warning", "short episodes", "", 1, (6,))]


def test_precision_that_float32_has_not():
    columns = clean()
    clock = 1.7e9 + np.linspace(0, 3000, 60)  # seconds: float32 keeps every 128th
    columns["obs"] = np.concatenate([columns["obs"], clock[:, None]], axis=1)
    columns["next_obs"] = np.concatenate([columns["next_obs"], clock[:, None]], axis=1)
    (one, two) = (f for f in found(columns) if f[1] == "precision")
    assert one == ("warning", "precision", "obs", 1, ())
    assert two == ("warning", "precision", "next_obs", 1, ())
    assert "1.7e+09 to 1.700003e+09, of which 24 values are left" in lint(columns)[0].text
    narrow = {c: a.astype(np.float32) if a.dtype == np.float64 else a for c, a in columns.items()}
    assert not [f for f in found(narrow) if f[1] == "precision"]  # what is lost was lost before
    whole = clean() | {"reward": 2**20 + np.arange(60)}  # whole numbers below 2^24 are exact
    assert [f[1] for f in found(whole)] == ["reward scale"]


def test_flags_that_are_none():
    columns = clean()
    columns["terminal"] = columns["terminal"].astype(np.float32)
    columns["terminal"][[2, 9]] = 0.5, np.nan
    assert found(columns) == [("error", "flags", "terminal", 2, (2, 9))]


def test_unknown_ends():
    columns = clean()
    bare = {c: columns[c] for c in ("obs", "action", "reward", "next_obs")}
    assert found(bare) == [("error", "ends", "", 60, ())]
    assert found(bare, max_episode_steps=20) == [("warning", "jumps", "next_obs", 2, (16, 19))]  # 20 steps on: row 39
    assert found(bare, max_episode_steps=17) == [("warning", "jumps", "next_obs", 2, (19, 39))]
    bare = {c: columns[c] for c in ("obs", "action", "reward", "terminal")}
    assert found(bare) == [("error", "ends", "", 60, ())]
    assert "'timeouts'" in text(bare)
    assert found(bare, max_episode_steps=0)[0][:2] == ("error", "ends")


def test_a_last_row_that_ends_nothing():
    columns = clean()
    columns["timeout"][59] = False
    assert found(columns) == [("note", "open end", "", 1, (59,))]


def test_cut_rows_without_a_next_observation():
    columns = clean()
    del columns["next_obs"]
    columns["timeout"][:] = True
    columns["timeout"][3] = False
    columns["terminal"][:] = False
    assert ("error", "ends", "", 59, ()) in found(columns)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"obs": None}, "no column 'obs'"),
        ({"obs": None, "obz": np.zeros((60, 3))}, "did you mean 'obz'"),
        ({"reward": np.zeros(59)}, "'reward' has 59 rows"),
        ({"action": np.zeros(60)}, "'action' has shape (60,), not [N, dim]"),
        ({"obs": np.zeros((60, 2, 2))}, "'obs' has shape (60, 2, 2)"),
        ({"reward": np.zeros((60, 2))}, "'reward' has shape (60, 2), not [N]"),
        ({"action": np.array([["x"]] * 60)}, "'action' holds <U1"),
        ({"next_obs": np.zeros((60, 4))}, "'next_obs' has shape (60, 4)"),
        ({"observations": np.zeros((60, 3))}, "mean the same"),
    ],
)
def test_columns_that_are_none(change, words):
    columns = {c: array for c, array in (clean() | change).items() if array is not None}
    assert found(columns) == [("error", "structure", "", 0, ())]
    assert words in text(columns)


def test_bounds_that_do_not_fit():
    assert "an action has 2 entries" in text(clean(), action_low=[-1, -1, -1])
    assert "low below high" in text(clean(), action_low=1)


def test_the_worst_comes_first():
    columns = clean()
    columns["obs"][:, 0] = columns["next_obs"][:, 0] = 1
    columns["reward"][:] = 0
    columns["action"][3] = np.nan
    severities = [f.severity for f in lint(columns)]
    assert severities == sorted(severities, key=SEVERITIES.index)
    assert set(severities) == {"error", "warning", "note"}


def test_memory_maps_and_progress(tmp_path):
    columns, done = clean(), []
    for column, array in columns.items():
        np.save(tmp_path / f"{column}.npy", array)
    maps = {c: np.load(tmp_path / f"{c}.npy", mmap_mode="r") for c in columns}
    assert lint(maps, progress=lambda *x: done.append(x)) == []
    assert done == [(60, 60)]


GOOD = st.sampled_from([0.0, 1.0, -1.0, 0.5])
CELL = st.sampled_from([0.0, 1.0, -1.0, 0.5, 1.0005, 1.5, np.nan, np.inf, 3e38, 1e39, 2.0])


@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_an_error_is_what_the_entrance_refuses(data):
    n = data.draw(st.integers(0, 5))
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))

    def cells(*shape):
        size, cell = int(np.prod(shape)), data.draw(st.sampled_from([GOOD, GOOD, CELL]))
        return np.array(data.draw(st.lists(cell, min_size=size, max_size=size))).reshape(shape)

    with np.errstate(over="ignore"):
        columns = {"obs": cells(n, 1).astype(dtype), "action": cells(n, 1).astype(dtype), "reward": cells(n)}
        if data.draw(st.booleans()):
            columns["next_obs"] = cells(n, 1).astype(dtype)
    for flag in ("terminal", "timeout"):
        if data.draw(st.booleans()):
            values = data.draw(st.sampled_from([[0, 1], [0, 1], [0, 1, 2]]))
            columns[flag] = np.array(data.draw(st.lists(st.sampled_from(values), min_size=n, max_size=n)))
    given_options = {
        "max_episode_steps": data.draw(st.sampled_from([None, 0, 1, 2])),
        "action_high": data.draw(st.sampled_from([None, 2.0, -1.0, -1 + 1e-6])),
        "clip_actions": data.draw(st.booleans()),
        "terminals": data.draw(st.sampled_from(["end", "cut"])),
    }
    try:
        json.dumps(dataset_from_arrays(columns, "x", **given_options).info, allow_nan=False)
        refused = None
    except DataError as error:
        refused = str(error)
    errors = [f for f in lint(columns, **given_options) if f.severity == "error"]
    assert bool(errors) == (refused is not None), (refused, errors)


def test_actions_that_no_clipping_mends():
    columns = clean()
    columns["action"] = columns["action"].astype(np.float64)
    columns["action"][3, 1] = 1e39  # no float32
    assert [f[:2] for f in found(columns, clip_actions=True)] == [("error", "not finite"), ("error", "action range")]
    columns["action"][3, 1] = 3e38  # one, but not in units of these bounds
    bounded = {"action_low": -1e-3, "action_high": 1e-3, "clip_actions": True}
    (error,) = (f for f in lint(columns, **bounded) if f.severity == "error")
    assert error.rule == "action range"
    assert "float32 cannot hold them" in error.way_out
    with pytest.raises(DataError, match="'action' has NaN or infinity, first at row 3"):
        dataset_from_arrays(columns, "x", **bounded)
