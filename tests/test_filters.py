"""Filters of incomplete data, by hand and by their laws."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.errors import ConfigError, DataError
from segue.tasks.dataset import COLUMNS, dataset_from_arrays
from segue.tasks.filters import NAMED, Near, Truncate, apply, parse


def made(x, ends, name="hand"):
    """Rows at positions (x, 0), one a character of `ends`: '.' goes on, 't' is terminal, 'c' a cut."""
    rows = len(ends)
    obs = np.stack([np.asarray(x, np.float32), np.zeros(rows, np.float32), np.arange(rows, dtype=np.float32)], axis=1)
    next_obs = obs + np.float32([0.5, 0, 1])  # no row's own
    next_obs[:-1][[c == "." for c in ends[:-1]]] = obs[1:][[c == "." for c in ends[:-1]]]
    columns = {
        "obs": obs,
        "action": np.linspace(-1, 1, rows, dtype=np.float32)[:, None],
        "reward": 2.0 ** np.arange(rows),
        "next_obs": next_obs,
        "terminal": np.array([c == "t" for c in ends]),
        "timeout": np.array([c == "c" for c in ends]),
    }
    return dataset_from_arrays(columns, name, info={"source": name})


def rows(dataset):
    """Which rows of `made` are there."""
    return dataset.obs[:, 2].astype(int).tolist()


def ends(dataset):
    return "".join("t" if t else "c" if c else "." for t, c in zip(dataset.terminal, dataset.timeout, strict=True))


def test_near_row_by_row():
    #          0  1  2  3  4  5  6  7  8  9 10
    data = made([0, 1, 2, 3, 4, 5, 0, 2, 3, 2, 9], ".....t..t.c")
    left = apply(data, [Near(((2.5, 0.0, 0.5),))])  # 2, 3, 7, 8 and 9; both ends of the ball are in it
    assert rows(left) == [0, 1, 4, 5, 6, 10]
    assert ends(left) == ".c.tcc"
    assert left.returns.tolist() == [1 + 2, 16 + 32, 64, 1024]
    assert left.next_obs[:, 2].tolist() == [1, 2, 5, 6, 7, 11]  # as they were, into the ball too
    assert left.action[:, 0].tolist() == data.action[[0, 1, 4, 5, 6, 10], 0].tolist()
    assert left.info == {
        "source": "hand",
        "transforms": [{"kind": "near", "balls": [[2.5, 0.0, 0.5]], "dims": [0, 1], "dropped": 5}],
    }
    assert data.info == {"source": "hand"}
    assert left.name == "hand"
    assert not left.obs.flags.writeable
    left.validate()


def test_balls_in_other_entries():
    data = made([0, 1, 2, 3], "...c")
    assert rows(apply(data, [Near(((3.0, 0.5), (0.0, 0.5)), dims=(2,))])) == [1, 2]
    assert rows(apply(data, [Near(((0.0, 3.0, 0.1),), dims=(1, 0))])) == [0, 1, 2]


def test_truncate_row_by_row():
    data = made(range(9), "...t.c..c")
    left = apply(data, [Truncate(2)])
    assert rows(left) == [0, 1, 4, 5, 6, 7]
    assert ends(left) == ".c.c.c"
    assert left.info["transforms"] == [{"kind": "truncate", "steps": 2, "dropped": 3}]
    assert ends(apply(data, [Truncate(4)])) == "...t.c..c"


def test_filters_follow_one_another():
    data = made([0, 9, 0, 0, 0, 0], ".....t")
    left = apply(data, [Near(((9.0, 0.0, 1.0),)), Truncate(2)])  # the piece behind the hole counts from its own start
    assert rows(left) == [0, 2, 3]
    assert ends(left) == "c.c"
    assert rows(apply(data, [Truncate(3), Near(((9.0, 0.0, 1.0),))])) == [0, 2]
    json.dumps(left.info)


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (Near(((0.0, 0.0, 99.0),)), "leaves 0 of 4 rows"),
        (Near(((1.5, 0.0, 1.6),)), "leaves 0 of 4 rows"),
        (Near(((50.0, 50.0, 1.0),)), r"no row is in .*span \[0, 3\], \[0, 0\]"),
        (Near(((0.0, 1.0),), dims=(3,)), "looks at entry 3 of observations that have 3"),
    ],
)
def test_filters_that_do_not_fit(one, message):
    with pytest.raises(DataError, match=message):
        apply(made(range(4), "...c"), [one])


def test_no_filter_twice():
    data = apply(made(range(6), "..c..c"), [Truncate(2)])
    with pytest.raises(DataError, match=r"hand: went through filter 'truncate=2' already"):
        apply(data, [Truncate(2)])
    assert data.info == json.loads(json.dumps(data.info))  # as a file gives it back
    assert rows(apply(data, [Truncate(1)])) == [0, 3]


@pytest.mark.parametrize(
    ("text", "one"),
    [
        ("near=7,9,1.5", Near(((7.0, 9.0, 1.5),))),
        ("near=7,9,1.5:1,10,1.5:1,1,2", NAMED["maze2d-large-missing-data"]),
        ("near=0.5,0.1@3", Near(((0.5, 0.1),), dims=(3,))),
        ("near=-1e-05,0.25,3@4,2", Near(((-1e-05, 0.25, 3.0),), dims=(4, 2))),
        ("truncate=20", NAMED["hammer-truncated"]),
    ],
)
def test_words(text, one):
    assert parse(text) == one
    assert one.text == text


def test_named_ones():
    assert parse("antmaze-large-goal-missing") == Near(((32.0, 24.0, 2.5),))
    assert {name: parse(name).text for name in NAMED} == {
        "antmaze-large-goal-missing": "near=32,24,2.5",
        "maze2d-large-missing-data": "near=7,9,1.5:1,10,1.5:1,1,2",
        "hammer-truncated": "truncate=20",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nearr=1,2,3", "did you mean 'near'"),
        ("hammer", "did you mean 'hammer-truncated'"),
        ("near", "has no numbers"),
        ("near=", "no list of floats"),
        ("near=1,2", "has 3 numbers, and '1,2' has 2"),
        ("near=1,2,0", "radius above 0"),
        ("near=1,nan,1", "finite"),
        ("near=1,2,3@0", "has 2 numbers"),
        ("near=1,2,3@0,0", "each once"),
        ("near=1,2,3@-1,0", "from 0 on"),
        ("near=1,2,3@", "no list of ints"),
        ("truncate=0", "at least 1"),
        ("truncate=2.5", "no list of ints"),
        ("truncate=1,2", "has 2 numbers"),
        ("", "unknown filter"),
    ],
)
def test_words_that_are_none(text, message):
    with pytest.raises(ConfigError, match=message):
        parse(text)


episodes = st.lists(
    st.tuples(st.lists(st.integers(-3, 3), min_size=1, max_size=6), st.sampled_from("tc")), min_size=1, max_size=6
)
near = st.builds(lambda x, r: Near(((float(x), 0.0, float(r)),)), st.integers(-3, 3), st.sampled_from([0.5, 1, 2]))


@settings(max_examples=60, deadline=None)
@given(episodes, near | st.builds(Truncate, st.integers(1, 6)))
def test_laws(parts, one):
    x = [place for places, _ in parts for place in places]
    if len(x) < 2:
        return
    data = made(x, "".join("." * (len(places) - 1) + end for places, end in parts))
    of = np.repeat(np.arange(len(data.starts)), data.lengths)
    if isinstance(one, Near):
        centre, _, radius = one.balls[0]
        expected = [row for row in range(data.size) if abs(x[row] - centre) > radius]
    else:
        expected = [row for row in range(data.size) if row - data.starts[of[row]] < one.steps]
    if len(expected) < 2 or (isinstance(one, Near) and len(expected) == data.size):
        with pytest.raises(DataError, match=r"leaves|no row is in"):
            apply(data, [one])
        return
    left = apply(data, [one])
    kept = rows(left)
    assert kept == expected
    assert data.size - len(kept) == left.info["transforms"][0]["dropped"]
    for column in set(COLUMNS) - {"timeout"}:  # bit for bit
        assert getattr(left, column).tobytes() == getattr(data, column)[kept].tobytes()
    for i, row in enumerate(kept):
        goes_on = i + 1 < len(kept) and kept[i + 1] == row + 1 and of[row] == of[row + 1]
        assert (left.terminal[i] or left.timeout[i]) == (not goes_on)
    whole = [e for e in range(len(data.starts)) if (of[kept] == e).sum() == data.lengths[e]]
    for episode in whole:
        assert data.returns[episode] in left.returns[left.lengths == data.lengths[episode]]
    left.validate()
