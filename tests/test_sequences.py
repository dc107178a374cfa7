"""Sequence methods: the transformer's masks, contexts, windows of the store, DT, ODT, Standardise, Best."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare
from test_store import SPEC as ROW_SPEC
from test_store import dataset, row
from zoo import SPEC, batch_for, bc, close, dt, handover, iql, make_batch, mopo, odt, same

from segue import losses, recipes, transformer
from segue.errors import ConfigError, DataError
from segue.learners import BC, DT, ODT, Hold, Standardise
from segue.optim import adamw, descend, lamb, trained, warmup
from segue.phases import Phase, Settings, run, start
from segue.presets import dt as dt_presets
from segue.presets import odt as odt_presets
from segue.replays import Best, Sequences, Uniform
from segue.store import Affine, Rows, Store, close_episode, make_store, with_returns
from segue.tasks import get
from segue.tasks.dataset import dataset_from_arrays
from segue.transformer import Windows, windows
from segue.transitions import Carry
from segue.types import replace as exchange

KEY = jax.random.key(0)
ALPHA = 1e-4  # a false alarm in 10,000 seeds; the seed is fixed

# --------------------------------------------------------------------------------------------------------- transformer


@cache
def body(times=12, heads=2, activation="gelu", dropout=0.0):
    net = transformer.init(
        KEY, SPEC, embed=16, layers=2, heads=heads, activation=activation, times=times, dropout=dropout
    )
    return jax.tree.map(lambda x: 5 * x, net)  # weights of 0.02 hardly attend


def some_windows(b=3, k=5, seed=0, **columns):
    rng = np.random.default_rng(seed)
    f = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    w = Windows(f(b, k), f(b, k, 3), f(b, k, 2), jnp.tile(jnp.arange(float(k)), (b, 1)), jnp.ones((b, k)))
    return exchange(w, **columns) if columns else w


def disturbed(w, where, also_actions=None):
    """`w` with everything but `valid` changed at `where` [B, K]; actions at `also_actions` too."""
    at = jnp.asarray(where)
    actions = at if also_actions is None else at | jnp.asarray(also_actions)
    other = some_windows(*w.valid.shape, seed=9)
    pick = lambda at, a, b: jnp.where(at.reshape(*at.shape, *[1] * (a.ndim - 2)), b, a)
    return Windows(
        pick(at, w.return_to_go, 100 * other.return_to_go),
        pick(at, w.obs, 100 * other.obs),
        pick(actions, w.action, 100 * other.action),
        pick(at, w.time, w.time + 3),
        w.valid,
    )


PADDINGS = {"behind": [1, 1, 1, 0, 0], "before": [0, 0, 1, 1, 1], "between": [1, 0, 1, 0, 1], "everything": [0] * 5}


@pytest.mark.parametrize("padding", PADDINGS)
def test_padding_reaches_nothing(padding):
    valid = jnp.tile(jnp.array(PADDINGS[padding], jnp.float32), (3, 1))
    w = some_windows(valid=valid)
    out, other = body()(w), body()(disturbed(w, valid == 0))
    assert np.isfinite(out).all()
    np.testing.assert_array_equal(out[valid > 0], other[valid > 0])
    total = lambda w: (body()(w) ** 2 * valid[..., None]).sum()
    grad = jax.grad(total)(w)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grad))
    assert not np.any(grad.obs[valid == 0])


@pytest.mark.parametrize("t", range(4))
def test_what_follows_reaches_nothing(t):
    """Outputs up to time t see returns and observations up to t, actions before t."""
    w, times = some_windows(), np.tile(np.arange(5), (3, 1))
    out, other = body()(w), body()(disturbed(w, times > t, also_actions=times == t))
    np.testing.assert_array_equal(out[:, : t + 1], other[:, : t + 1])
    assert not np.allclose(out[:, t + 1], other[:, t + 1], atol=1e-3)


@pytest.mark.parametrize("part", ["return_to_go", "obs", "action", "time"])
def test_everything_before_is_seen(part):
    w = some_windows()
    column = getattr(w, part)
    other = body()(exchange(w, **{part: column.at[:, 0].add(1.0)}))
    assert not np.allclose(body()(w)[:, -1], other[:, -1], atol=1e-5)
    assert not np.allclose(body()(w)[:, 1], other[:, 1], atol=1e-5)


def test_attention_by_hand():
    """One head and two tokens: softmax over what is visible, scaled by the root of the width."""
    rng = np.random.default_rng(0)
    qkv = rng.normal(size=(1, 2, 12)).astype(np.float32)
    q, k, v = np.split(qkv[0], 3, -1)
    out = transformer._attention(jnp.asarray(qkv), jnp.tril(jnp.ones((1, 2, 2), bool)), 1, lambda x: x)[0]
    w = np.exp(q[1] @ k.T / 2)
    np.testing.assert_allclose(out, [v[0], (w / w.sum()) @ v], rtol=1e-5)


def test_windows_do_not_see_one_another():
    w = some_windows()
    np.testing.assert_allclose(body()(w)[1:2], body()(jax.tree.map(lambda x: x[1:2], w)), rtol=2e-5, atol=1e-6)


def test_times_beyond_the_table_share_its_last_row():
    w = some_windows()
    late = [body()(exchange(w, time=w.time * 0 + t)) for t in (11.0, 12.0, 1e6)]
    np.testing.assert_array_equal(late[0], late[1])
    np.testing.assert_array_equal(late[0], late[2])
    assert not np.allclose(late[0], body()(exchange(w, time=w.time * 0 + 10.0)))
    assert np.isfinite(body()(exchange(w, time=w.time - 1))).all()


def test_without_a_table_time_says_nothing():
    w = some_windows()
    np.testing.assert_array_equal(body(0)(w), body(0)(exchange(w, time=w.time + 7)))


def test_activations_differ_and_gelu_is_exact():
    x = jnp.array([-1.0, 0.5, 2.0])
    np.testing.assert_allclose(transformer.ACTIVATIONS["gelu"](x), [-0.158655254, 0.345731231, 1.954499736], rtol=1e-6)
    assert not np.allclose(body()(some_windows()), body(activation="relu")(some_windows()))


def test_dropout_only_with_a_key():
    w = some_windows()
    np.testing.assert_array_equal(body(dropout=0.5)(w), body()(w))
    a, b = (body(dropout=0.5)(w, key) for key in jax.random.split(KEY))
    assert not np.allclose(a, b)
    x = transformer._dropout(jnp.ones(200_000), 0.1, KEY)
    assert abs(float((x == 0).mean()) - 0.1) < 0.004
    assert abs(float(x.mean()) - 1) < 0.004


def test_initial_weights():
    net = transformer.init(KEY, SPEC, embed=64, layers=3, heads=1, activation="relu", times=0)
    assert abs(float(net.blocks[2].up.weight.std()) - 0.02) < 1e-3
    assert not np.any(net.blocks[0].qkv.bias)
    assert net.times.shape == (0, 64)


# ------------------------------------------------------------------------------------------------------------ contexts


def rollout(learner, state, steps, greedy=True):
    """Actions taken, and the episode's columns, on made-up observations and rewards."""
    rng = np.random.default_rng(1)
    obs, reward = rng.normal(size=(steps, 3)).astype(np.float32), rng.normal(size=steps).astype(np.float32)
    memory, actions = learner.begin(state, KEY, greedy), []
    for t in range(steps):
        last = reward[t - 1] if t else np.float32(0)
        a, memory, info = learner.act(state, memory, obs[t], last, jax.random.key(t), greedy)
        actions.append(a)
    return np.stack(actions), obs, reward, memory, info


@pytest.mark.parametrize("learner", [dt, odt, replace(odt, timed=True)], ids=["dt", "odt", "odt timed"])
@pytest.mark.parametrize("steps", [1, 2, 3, 6])
def test_acting_is_the_training_window_of_the_same_history(learner, steps):
    state = learner.init(KEY, SPEC)
    state = exchange(state, actor=trained(jax.tree.map(lambda x: 4 * x, state.actor.net)))
    actions, obs, reward, memory, info = rollout(learner, state, steps)
    asked = 2.0 - np.concatenate([[0], np.cumsum(reward)[:-1]])
    k, n = learner.context, min(learner.context, steps)
    rows = lambda c: jnp.zeros((1, k, *c.shape[1:])).at[0, :n].set(c[-n:])  # padded behind, as the replay pads
    w = Windows(
        rows(asked) / learner.return_scale, rows(obs), rows(actions), rows(np.arange(steps)), rows(np.ones(steps))
    )
    w = exchange(w, action=w.action.at[0, n - 1].set(0.3))  # the newest action is not seen
    out = state.actor(w)
    out = out if isinstance(learner, DT) else out.mode()
    np.testing.assert_allclose(out[0, n - 1], actions[-1], rtol=1e-5, atol=1e-6)
    assert float(info["act/return_to_go"]) == pytest.approx(asked[-1], rel=1e-5)
    np.testing.assert_array_equal(memory.valid, [0] * (k - n) + [1] * n)
    np.testing.assert_array_equal(memory.time[k - n :], np.arange(steps)[-n:])


def test_greedy_asks_for_the_target_and_acting_for_more():
    state = odt.init(KEY, SPEC)
    assert float(odt.begin(state, KEY, True).grown(jnp.zeros(3), jnp.zeros(())).return_to_go[-1]) == 2.0
    assert float(odt.begin(state, KEY, False).grown(jnp.zeros(3), jnp.zeros(())).return_to_go[-1]) == 4.0
    greedy, acting = (rollout(odt, state, 3, g)[0] for g in (True, False))
    assert not np.allclose(greedy, acting)
    with_another_target = replace(odt, target_return=-50.0)
    np.testing.assert_array_equal(rollout(with_another_target, state, 3, False)[0], acting)
    assert not np.allclose(rollout(with_another_target, state, 3)[0], greedy)


def test_an_observed_reward_is_no_longer_asked_for():
    c = transformer.begin(body(), 3, 10.0)
    for reward in (0.0, 4.0, 1.5):
        c = c.grown(jnp.zeros(3), jnp.array(reward))
    np.testing.assert_array_equal(c.return_to_go, [10.0, 6.0, 4.5])
    np.testing.assert_allclose(c.windows(10.0).return_to_go, [[1.0, 0.6, 0.45]], rtol=1e-6)


def test_the_return_asked_for_is_in_the_network_s_units():
    state = dt.init(KEY, SPEC)
    scaled = replace(dt, target_return=2000.0, return_scale=1000.0)
    memory = scaled.begin(state, KEY, True)
    a, *_ = scaled.act(state, memory, jnp.ones(3), jnp.zeros(()), KEY, True)
    b, *_ = dt.act(state, dt.begin(state, KEY, True), jnp.ones(3), jnp.zeros(()), KEY, True)  # 2 of scale 1
    np.testing.assert_allclose(a, b, rtol=1e-6)


# ------------------------------------------------------------------------------------------------------------- windows


def closed_ring(capacity, lengths, rewards=None, terminal=False):
    """A ring into which episodes of these lengths were written and closed; the rows' numbers count on."""
    ring, i = make_store(ROW_SPEC, None, capacity).ring, 0
    for n in lengths:
        for t in range(n):
            reward = rewards[i] if rewards is not None else 1.0
            end = t == n - 1
            ring = ring.add(
                jnp.asarray(row(i, reward, terminal=end and terminal, timeout=end and not terminal, step=t))
            )
            i += 1
        ring = close_episode(ring, n, Affine(), 1.0)
    return ring


def union(offline=(3, 1, 4), capacity=16, online=(5, 1, 6, 2), open_rows=2):
    """A store whose dataset and ring hold episodes of these lengths, and an open one."""
    ends = np.cumsum(offline) - 1
    data = dataset(np.ones(sum(offline)), terminal=ends[::2], timeout=ends[1::2]) if offline else None
    store = make_store(ROW_SPEC, data, capacity)
    ring = closed_ring(capacity, online)
    for i in range(open_rows):
        ring = ring.add(jnp.asarray(row(1000 + i, step=i)))
    store = Store(store.offline, store.offline_mc, ring, store.layout, store.size_offline)
    closed = sum(online)
    return with_returns(store, Affine(), 1.0, closed)


def numbers_of(store, indices):
    """The rows' own numbers (-1: padding), offline ones below 0.5 less to tell them apart."""
    b = store.at(jnp.asarray(indices), Affine(), jnp.ones(indices.shape))
    number = np.where(np.asarray(b.offline) > 0, np.asarray(b.obs[..., 0]) - 0.5, np.asarray(b.obs[..., 0]))
    return np.where(np.asarray(b.valid) > 0, number, -1)


def expected_windows(offline, online, capacity, open_rows, context):
    """All windows by hand, each equally often, as tuples of row numbers."""
    windows, written = [], sum(online) + open_rows
    for lengths, oldest, shift in ((offline, 0, -0.5), (online, written - capacity, 0.0)):
        first = 0
        for n in lengths:
            rows = [i for i in range(first, first + n) if i >= oldest]
            for j in range(len(rows)):
                window = [r + shift for r in rows[j : j + context]]
                windows.append(tuple(window + [-1.0] * (context - len(window))))
            first += n
    return windows


CASES = {
    "dataset": ((3, 1, 4), (), 16, 0),
    "both": ((3, 1, 4), (5, 1, 6, 2), 16, 2),
    "full ring": ((3, 1, 4), (5, 1, 6, 2), 16, 0),
    "ring lost rows": ((3, 1, 4), (5, 1, 6, 2), 9, 1),
    "ring only": ((), (5, 1, 6, 2), 9, 3),
    "one-row episodes": ((1, 1, 2, 1), (1, 1), 4, 0),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("context", [1, 3, 20])
def test_windows_are_all_those_of_closed_episodes_equally_often(case, context):
    offline, online, capacity, open_rows = CASES[case]
    store = union(offline, capacity, online, open_rows)
    replay = Sequences(context)
    rstate = replay.init(KEY, ROW_SPEC, store)
    indices, weight = jax.jit(lambda k: replay.indices(rstate, store, k, 4096))(jax.random.key(3))
    assert indices.shape == weight.shape == (4096, context)
    np.testing.assert_array_equal(weight, 1)
    assert indices.dtype == jnp.int32
    expected = expected_windows(offline, online, capacity, open_rows, context)
    drawn = [tuple(w) for w in numbers_of(store, indices)]
    assert set(drawn) == set(expected)
    assert len(set(expected)) == len(expected)
    counts = [drawn.count(w) for w in expected]
    assert chisquare(counts).pvalue > ALPHA


def test_closing_an_episode_lets_it_be_drawn():
    store, replay = union(online=(2,), open_rows=3), Sequences(4)
    rstate = replay.init(KEY, ROW_SPEC, store)
    assert int(rstate.rows) == 2
    rstate = replay.close(rstate, 2, 3)
    ring = close_episode(store.ring, 3, Affine(), 1.0)
    store = Store(store.offline, store.offline_mc, ring, store.layout, store.size_offline)
    drawn = set(numbers_of(store, replay.indices(rstate, store, KEY, 512)[0])[:, 0])
    assert {1000.0, 1001.0, 1002.0} <= drawn
    assert int(replay.init(KEY, ROW_SPEC, store).rows) == int(rstate.rows)


def test_nothing_to_draw_is_all_padding():
    store = make_store(ROW_SPEC, None, 4)
    for replay in (Sequences(3), Sequences(3, buffer=2)):
        indices, _ = replay.indices(replay.init(KEY, ROW_SPEC, store), store, KEY, 8)
        np.testing.assert_array_equal(indices, -1)
    state, info = jax.jit(dt.update)(dt.init(KEY, SPEC), jax.tree.map(jnp.zeros_like, batch_for(dt)), KEY)
    assert float(info["actor/error"]) == 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


# --------------------------------------------------------------------------------------------------------------- buffer


def with_dataset(rewards, ends, capacity=16):
    store = make_store(ROW_SPEC, dataset(rewards, terminal=ends), capacity)
    return with_returns(store, Affine(), 1.0, 0)


def places(b):
    return [(int(s), int(n), bool(o)) for s, n, o in zip(b.start, b.length, b.online, strict=True)]


def test_the_buffer_begins_with_the_best_in_ascending_order():
    # episodes at rows 0, 2, 3, 6 with returns 5, 9, 1, 7
    store = with_dataset([2, 3, 9, 0, 1, 0, 7], ends=[1, 2, 5, 6])
    b = Sequences(2, buffer=3).init(KEY, ROW_SPEC, store)
    assert places(b) == [(0, 2, False), (6, 1, False), (2, 1, False)]  # 5, 7, 9
    assert int(b.slot) == 0
    b = Sequences(2, buffer=6).init(KEY, ROW_SPEC, store)
    assert places(b)[:4] == [(3, 3, False), (0, 2, False), (6, 1, False), (2, 1, False)]
    assert int(b.slot) == 4


def test_the_buffer_appends_and_then_overwrites_the_worst_first():
    store, replay = with_dataset([2, 3, 9, 0, 1, 0, 7], ends=[1, 2, 5, 6]), Sequences(2, buffer=5)
    b = replay.init(KEY, ROW_SPEC, store)
    for i in range(4):
        b = replay.close(b, 10 * i, 3 + i)
        if i == 0:  # there was a free place
            assert places(b) == [(3, 3, False), (0, 2, False), (6, 1, False), (2, 1, False), (0, 3, True)]
    assert places(b) == [(10, 4, True), (20, 5, True), (30, 6, True), (2, 1, False), (0, 3, True)]
    assert int(b.slot) == 3
    for i in range(4, 7):
        b = replay.close(b, 10 * i, 3 + i)
    assert places(b) == [(60, 9, True), (20, 5, True), (30, 6, True), (40, 7, True), (50, 8, True)]


@pytest.mark.parametrize("capacity", [16, 7, 4])
def test_windows_of_the_buffer(capacity):
    """Episodes of the interaction at rows 0..4, 5, 6..9; what the ring has lost in part is not drawn at all."""
    store, replay = with_dataset([2, 3, 9, 0, 1, 0, 7], ends=[1, 2, 5, 6], capacity=capacity), Sequences(3, buffer=5)
    b = replay.init(KEY, ROW_SPEC, store)
    for first, n in ((0, 5), (5, 1), (6, 4)):
        b = replay.close(b, first, n)
    store = Store(store.offline, store.offline_mc, closed_ring(capacity, (5, 1, 4)), store.layout, store.size_offline)
    kept = {"offline": [(6, 1), (2, 1)], "online": [(f, n) for f, n in ((0, 5), (5, 1), (6, 4)) if f >= 10 - capacity]}
    expected = []
    for first, n, shift in [(*e, -0.5) for e in kept["offline"]] + [(*e, 0.0) for e in kept["online"]]:
        for j in range(n):
            window = [first + i + shift for i in range(j, min(j + 3, n))]
            expected.append(tuple(window + [-1.0] * (3 - len(window))))
    drawn = [tuple(w) for w in numbers_of(store, jax.jit(lambda k: replay.indices(b, store, k, 4096)[0])(KEY))]
    assert set(drawn) == set(expected)
    assert chisquare([drawn.count(w) for w in expected]).pvalue > ALPHA


@pytest.mark.parametrize(("capacity", "whole"), [(16, [(0, 5), (5, 1), (6, 4)]), (10, [(5, 1), (6, 4)]), (3, [])])
def test_the_buffer_begins_with_what_earlier_phases_saw(capacity, whole):
    """Closed episodes that the ring holds whole, in their order; an open one of two rows is not among them."""
    store, replay = with_dataset([2, 3, 9, 0, 1, 0, 7], ends=[1, 2, 5, 6]), Sequences(2, buffer=5)
    ring = closed_ring(capacity, (5, 1, 4))
    for i in range(2):
        ring = ring.add(jnp.asarray(row(1000 + i, step=i)))
    later = Store(store.offline, store.offline_mc, ring, store.layout, store.size_offline)
    expected = replay.init(KEY, ROW_SPEC, store)
    for first, n in whole:
        expected = replay.close(expected, first, n)
    assert places(replay.init(KEY, ROW_SPEC, later)) == places(expected)


# ------------------------------------------------------------------------------------------ episodes that are not known


@pytest.mark.parametrize("replay", [Sequences(4), Sequences(4, buffer=2), Best(0.5)], ids=["rows", "buffer", "best"])
@pytest.mark.parametrize(
    ("n", "ends", "horizon", "names"),
    [
        (20, range(20), 10, "100% of the dataset's have a single row"),
        (40, [i for i in range(40) if i != 7], None, "single row"),
        (20, [4, 19], 10, "from row 5 on has 15 rows"),
        (20, [19], None, "one recording of 20 rows"),
    ],
)
def test_episodes_that_are_not_known(replay, n, ends, horizon, names):
    store = with_returns(make_store(ROW_SPEC, dataset(np.ones(n), timeout=list(ends)), 1), Affine(), 1.0, 0)
    with pytest.raises(DataError, match=names) as caught:
        replay.init(KEY, ROW_SPEC._replace(horizon=horizon), store)
    assert "timeout" in str(caught.value)
    assert "--env" in str(caught.value)


@pytest.mark.parametrize(
    ("ends", "terminal", "horizon"),
    [(range(20), True, 1), ([9, 19], False, 10), ([19], True, None), ([*range(8), 19], True, None)],
)
def test_episodes_that_are_known(ends, terminal, horizon):
    flags = {"terminal" if terminal else "timeout": list(ends)}
    store = make_store(ROW_SPEC, dataset(np.ones(20), **flags), 1)
    Sequences(4).init(KEY, ROW_SPEC._replace(horizon=horizon), store)


@pytest.mark.parametrize("learner", [DT, ODT])
@pytest.mark.parametrize(
    ("field", "value"),
    [("context", 0), ("layers", 0), ("heads", 3), ("heads", 0), ("dropout", 1.0), ("return_scale", 0.0)],
)
def test_sizes_of_transformers_are_checked(learner, field, value):
    with pytest.raises(ConfigError, match=rf"{learner.__name__}\W.*{field}"):
        learner(**{field: value})


@pytest.mark.parametrize("make", [lambda: Sequences(0), lambda: Sequences(4, buffer=0)])
def test_sizes_of_windows_are_checked(make):
    with pytest.raises(ConfigError, match="at least 1"):
        make()


# ----------------------------------------------------------------------------------------------------------------- best


@pytest.mark.parametrize(
    ("fraction", "rows"),
    [(0.25, [2]), (0.01, [2]), (0.5, [2, 6]), (0.74, [2, 6]), (0.75, [0, 1, 2, 6]), (1.0, list(range(7)))],
)
def test_best_by_hand(fraction, rows):
    # returns 5, 9, 1, 7 of the episodes (0, 1), (2), (3, 4, 5), (6)
    store, replay = with_dataset([2, 3, 9, 0, 1, 0, 7], ends=[1, 2, 5, 6]), Best(fraction)
    rstate = replay.init(KEY, ROW_SPEC, store)
    np.testing.assert_array_equal(rstate, rows)
    indices, weight = replay.indices(rstate, store, KEY, 2048)
    assert set(np.asarray(indices).tolist()) == set(rows)
    assert len(rows) == 1 or chisquare(np.bincount(indices, minlength=7)[rows]).pvalue > ALPHA
    np.testing.assert_array_equal(weight, 1)


def test_best_goes_by_the_discounted_return():
    store = make_store(ROW_SPEC, dataset([4, 0, 0, 5], terminal=[1, 3]), 1)
    for discount, rows in ((1.0, [2, 3]), (0.5, [0, 1])):  # 4 and 5, or 4 and 2.5
        assert Best(0.5).init(KEY, ROW_SPEC, with_returns(store, Affine(), discount, 0)).tolist() == rows


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1])
def test_a_fraction_outside_is_named(fraction):
    with pytest.raises(ConfigError, match=r"\(0, 1\]"):
        Best(fraction)


def test_best_needs_a_dataset():
    with pytest.raises(DataError, match="has none"):
        Best().init(KEY, ROW_SPEC, make_store(ROW_SPEC, None, 4))


# ---------------------------------------------------------------------------------------------------------- relabelling


def test_returns_to_go_are_those_obtained_whatever_was_asked_for():
    """Rewards 1, 2, 3: tokens 6, 5, 3 (methods_b 15), over the scale, through the store."""
    replay = Sequences(4, buffer=2)
    store = make_store(ROW_SPEC, None, 8)
    rstate = replay.init(KEY, ROW_SPEC, store)
    ring = closed_ring(8, (3,), rewards=[1.0, 2.0, 3.0])
    rstate = replay.close(rstate, 0, 3)
    store = Store(store.offline, store.offline_mc, ring, store.layout, 0)
    indices, weight = replay.indices(rstate, store, KEY, 64)
    batch = store.at(indices, Affine(), weight)
    w = windows(batch, 1000.0)
    whole = np.asarray(batch.step[:, 0]) == 0
    whole &= np.asarray(batch.valid.sum(1)) == 3
    assert whole.any()
    np.testing.assert_allclose(w.return_to_go[whole][0], [0.006, 0.005, 0.003, 0.0], rtol=1e-6)
    last = np.asarray(batch.valid.sum(1)) == 1
    np.testing.assert_allclose(w.return_to_go[last][0], [0.003, 0.0, 0.0, 0.0], rtol=1e-6)
    assert DT.discount == ODT.discount == Standardise(odt).discount == 1.0


# --------------------------------------------------------------------------------------------------------------- losses

VALID = jnp.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])


def test_mean_of_valid_entries():
    x = jnp.array([[1.0, 2.0, 100.0], [6.0, 100.0, 100.0]])
    assert float(losses.mean_of_valid(x, VALID)) == 3.0
    assert float(losses.mean_of_valid(x, 0 * VALID)) == 0.0


def test_action_error_by_hand():
    a = jnp.zeros((2, 3, 2)).at[0, 0].set(jnp.array([1.0, 3.0])).at[1, 0, 0].set(2.0).at[0, 2].set(50.0)
    loss, info = losses.action_error(a, jnp.zeros_like(a), VALID)  # ((1 + 9) / 2 + 0 + 4 / 2) / 3
    assert float(loss) == float(info["actor/error"]) == pytest.approx(7 / 3)
    grad = jax.grad(lambda a: losses.action_error(a, jnp.zeros_like(a), VALID)[0])(a)
    assert not np.any(grad[VALID == 0])
    np.testing.assert_allclose(grad[0, 0], [1 / 3, 1.0])


def test_entropy_leaves_padding_out():
    log_prob = jnp.array([[-1.0, -3.0, 50.0], [-2.0, 50.0, 50.0]])
    own = jnp.array([[-0.5, -1.5, 70.0], [-1.0, 70.0, 70.0]])
    loss, info = losses.entropy_regularised(log_prob, own, jnp.array(0.1), VALID)
    assert float(info["actor/nll"]) == 2.0
    assert float(info["actor/entropy"]) == 1.0
    assert float(loss) == pytest.approx(2.0 - 0.1 * 1.0)
    to = lambda i: jax.grad(lambda *x: losses.entropy_regularised(*x, VALID)[0], i)(log_prob, own, jnp.array(0.1))
    np.testing.assert_allclose(to(0), -np.asarray(VALID) / 3, rtol=1e-6)
    np.testing.assert_allclose(to(1), 0.1 * np.asarray(VALID) / 3, rtol=1e-6)
    assert float(to(2)) == 0  # the multiplier learns by its own loss alone


@pytest.mark.parametrize("learner", [dt, odt], ids=["dt", "odt"])
def test_padded_rows_change_no_update(learner):
    learner, state, batch = replace(learner, dropout=0.0), learner.init(KEY, SPEC), batch_for(learner)
    padding = batch.valid == 0
    assert padding.any()
    fill = lambda x, y: jnp.where(padding.reshape(*padding.shape, *[1] * (x.ndim - 2)), y, x)
    other = batch._replace(
        **{c: fill(getattr(batch, c), 0.7) for c in ("obs", "action", "reward", "next_obs", "mc_return", "step")}
    )
    update = jax.jit(learner.update)
    close(update(state, batch, KEY), update(state, other, KEY), rtol=1e-6, atol=1e-7)


# ------------------------------------------------------------------------------------------------------------------ ODT


def test_log_std_of_the_sheet():
    """Raw -2, 0, 1: -4.874097, -1.5, 1.165580 (methods_b 15)."""
    pi = odt.init(KEY, SPEC).actor.net
    for raw, expected in ((-2.0, -4.874097), (0.0, -1.5), (1.0, 1.165580)):
        head = exchange(pi.log_std, weight=0 * pi.log_std.weight, bias=jnp.full(2, raw))
        std = exchange(pi, log_std=head)(some_windows()).std
        np.testing.assert_allclose(jnp.log(std), expected, rtol=2e-6)


def test_odt_gradients_are_those_of_its_two_losses():
    learner = replace(odt, dropout=0.0, clip=1e9)
    before, batch = learner.init(KEY, SPEC), batch_for(odt)
    after, info = jax.jit(learner.update)(before, batch, KEY)
    k_sample = jax.random.split(KEY)[1]
    valid, n = np.asarray(batch.valid), float(batch.valid.sum())

    def loss(pi):
        d = pi(windows(batch, 1.0))
        own = d.sample_and_log_prob(k_sample)[1]
        return -((d.log_prob(batch.action) - 0.1 * own) * valid).sum() / n

    close(after.actor.opt.mu, jax.tree.map(lambda g: 0.1 * g, jax.jit(jax.grad(loss))(before.actor.net)), 1e-4, 1e-2)
    # d/d(log lambda) of lambda (H - target), target -2
    slope = 0.1 * (float(info["actor/entropy"]) + 2.0)
    np.testing.assert_allclose(after.log_temperature.opt.mu, 0.1 * slope, rtol=1e-5)
    assert float(before.log_temperature.net) == pytest.approx(np.log(0.1))


def test_actions_at_the_box_are_finite():
    batch = batch_for(odt, action=np.ones((32, 2)))
    state, info = jax.jit(odt.update)(odt.init(KEY, SPEC), batch, KEY)
    assert np.isfinite(info["actor/nll"])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


# ----------------------------------------------------------------------------------------------------------- optimisers

P0, G = np.array([3.0, -4.0]), np.array([0.3, 0.4])  # norms 5 and 0.5


def linear_in(gradient):
    return lambda p: ((p * jnp.asarray(gradient)).sum(), {})


def one_step(**kwargs):
    state, _ = descend(0.1, trained(jnp.asarray(P0, jnp.float32)), linear_in(G), **kwargs)
    return np.asarray(state.net), state


def test_adamw_by_hand():
    """Adam's first step is the gradient's sign; the decay adds lr * decay * p."""
    p, _ = one_step(after=adamw(0.5))
    np.testing.assert_allclose(p, P0 - 0.1 * (np.sign(G) + 0.5 * P0), rtol=1e-6)
    np.testing.assert_allclose(one_step()[0], P0 - 0.1 * np.sign(G), rtol=1e-6)


def test_lamb_by_hand():
    """The step of AdamW, as long as lr times the leaf's own norm."""
    u = np.sign(G) + 0.5 * P0
    np.testing.assert_allclose(one_step(after=lamb(0.5))[0], P0 - 0.1 * 5.0 * u / np.linalg.norm(u), rtol=1e-6)
    zero, _ = descend(0.1, trained(jnp.zeros(2)), linear_in(G), after=lamb(0.5))  # without a norm of its own: Adam
    np.testing.assert_allclose(zero.net, -0.1 * np.sign(G), rtol=1e-5)


def test_two_steps_of_lamb_by_hand():
    state, p = trained(jnp.asarray(P0, jnp.float32)), P0
    m = v = np.zeros(2)
    for t, g in enumerate(([0.3, 0.4], [-0.2, 0.1]), 1):
        state, _ = descend(0.01, state, linear_in(g), after=lamb(0.1))
        m, v = 0.9 * m + 0.1 * np.array(g), 0.999 * v + 0.001 * np.array(g) ** 2
        u = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8) + 0.1 * p
        p = p - 0.01 * u * np.linalg.norm(p) / np.linalg.norm(u)
        np.testing.assert_allclose(state.net, p, rtol=1e-5)


@pytest.mark.parametrize(("limit", "factor"), [(0.25, 0.5), (0.5, 1.0), (10.0, 1.0)])
def test_clipping_by_the_norm_over_all_leaves(limit, factor):
    loss = lambda p: (0.3 * p["a"].sum() + 0.4 * p["b"].sum(), {})
    state, _ = descend(0.1, trained({"a": jnp.ones(1), "b": jnp.ones(1)}), loss, clip=limit)
    np.testing.assert_allclose([state.opt.mu["a"][0], state.opt.mu["b"][0]], [0.03 * factor, 0.04 * factor], rtol=1e-5)


def test_warmup_counts_the_optimiser_s_steps():
    state, rates = trained(jnp.asarray(P0, jnp.float32)), []
    for _ in range(6):
        rates.append(float(warmup(state, 4)))
        state, _ = descend(0.1, state, linear_in(G))
    np.testing.assert_allclose(rates, [0.25, 0.5, 0.75, 1, 1, 1])


@pytest.mark.parametrize(("moments", "rate"), [(True, 0.4), (False, 0.1)])
def test_a_carried_warmup_stays_warm(moments, rate):
    state = dt.init(KEY, SPEC)
    for _ in range(3):
        state, _ = jax.jit(dt.update)(state, batch_for(dt), KEY)
    state, _ = Carry(moments=moments)(dt, handover(state))
    assert float(warmup(state.actor, 10)) == pytest.approx(rate)


# ---------------------------------------------------------------------------------------------------------- Standardise


def rows_of(store, learner):
    return Rows(store, (), Uniform(), Affine(), SPEC)


@cache
def scaled_store(n=64):
    b = make_batch(n, seed=3)
    data = type("Data", (), {c: np.asarray(getattr(b, c)) for c in ("action", "reward", "terminal", "step")})
    data.obs = np.asarray(b.obs) * [1.0, 50.0, 0.0] + [3.0, -7.0, 2.0]  # the last column never changes
    data.next_obs, data.timeout = data.obs, np.zeros(n)
    return make_store(SPEC, data, 1), data.obs


def test_standardise_takes_the_dataset_s_numbers_once():
    learner, (store, obs) = Standardise(bc), scaled_store()
    first = learner.init(KEY, SPEC)
    np.testing.assert_array_equal(learner.seen(first, jnp.ones(3)), 1.0)
    refit = learner.refit(first, rows_of(store, learner), KEY, 0)
    assert refit.done
    assert "64 rows" in refit.notes["observations"]
    state = refit.state
    seen = np.asarray(learner.seen(state, jnp.asarray(obs, jnp.float32)))
    np.testing.assert_allclose(seen.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(seen[:, :2].std(0), 1, rtol=1e-4)
    assert np.isfinite(seen).all()
    other = Store(7 * store.offline + 1, store.offline_mc, store.ring, store.layout, store.size_offline)
    assert same(learner.refit(state, rows_of(other, learner), KEY, 0).state, state)
    carried, report = Carry()(learner, handover(state))
    assert same((carried.obs_mean, carried.obs_std), (state.obs_mean, state.obs_std))
    assert report["obs_mean"] == "carried"


@pytest.mark.parametrize("base", [bc, iql], ids=["bc", "iql"])
def test_standardise_is_its_base_on_standardised_observations(base):
    learner, (store, _) = Standardise(base), scaled_store()
    state = learner.refit(learner.init(KEY, SPEC), rows_of(store, learner), KEY, 0).state
    batch = batch_for(base)
    seen = batch._replace(obs=learner.seen(state, batch.obs), next_obs=learner.seen(state, batch.next_obs))
    after, info = jax.jit(learner.update)(state, batch, KEY)
    close((after.base, info), jax.jit(base.update)(state.base, seen, KEY))
    a, s = learner.policy(state, batch.obs[0], KEY, True), learner.seen(state, batch.obs[0])
    np.testing.assert_array_equal(a, base.policy(state.base, s, KEY, True))
    np.testing.assert_array_equal(learner.act(state, (), batch.obs[0], 0.0, KEY, True)[0], a)


def test_standardise_without_a_dataset_changes_nothing():
    learner = Standardise(bc)
    state = learner.init(KEY, SPEC)
    assert same(learner.refit(state, rows_of(make_store(SPEC, None, 4), learner), KEY, 0).state, state)


@pytest.mark.parametrize("base", [mopo, Hold(mopo)], ids=["mopo", "hold(mopo)"])
def test_standardise_refuses_learners_from_the_store_itself(base):
    with pytest.raises(ConfigError, match="MOPO learns from the store itself"):
        Standardise(base)


# ------------------------------------------------------------------------------------------------------ phases, recipes

TASK = get("point-wall")


def enter(phase):
    state, fixed = start(0, (phase,), TASK.spec, TASK.dataset)
    return next(run((phase,), TASK, state, fixed, Settings(eval_episodes=0)))


@pytest.mark.parametrize(
    ("learner", "replay", "names"),
    [(dt, Uniform(), "windows of rows.*Uniform"), (Standardise(odt), Uniform(), "windows of rows"),
     (iql, Sequences(4), "single rows.*Sequences")],
)  # fmt: skip
def test_windows_and_rows_are_not_mixed_up(learner, replay, names):
    with pytest.raises(ConfigError, match=names):
        enter(Phase("offline", learner, 10, replay=replay))


@pytest.mark.parametrize("method", ["dt", "odt", "bc10"])
def test_recipes_by_the_papers(method):
    hopper = get("hopper-medium-replay")
    phases = recipes.phases_of(method, hopper)
    assert [p.name for p in phases] == (["offline", "online"] if method == "odt" else ["offline"])
    if method == "bc10":
        assert phases[0].replay == Best(0.1)
        assert phases[0].learner == Standardise(BC())
        return
    inner = phases[0].learner.base
    assert (inner.target_return, inner.return_scale) == (3600.0, 1000.0)
    assert phases[0].replay == Sequences(20)
    assert phases[0].batch_size == {"dt": 64, "odt": 256}[method]
    if method == "odt":
        assert (inner.explore_return, inner.lr, inner.weight_decay) == (7200.0, 2e-3, 1e-4)
        assert phases[1].replay == Sequences(20, buffer=1000)
        assert phases[1].updates.n == 300
        assert phases[1].transition == Carry()


@pytest.mark.parametrize("method", ["dt", "bc10"])
def test_offline_methods_say_so(method):
    with pytest.raises(ConfigError, match="no online phase"):
        recipes.recipe(method)(TASK, online_steps=10)


def test_a_task_without_numbers_is_asked_for_its_best():
    class Mine:
        name, family, load_dataset = "mine", "custom", True
        dataset = type("Data", (), {"returns": np.array([-40.0, -5.0])})

    assert dt_presets.conditioning(Mine) == {"target_return": -5.0, "return_scale": 40.0}
    assert odt_presets.conditioning(Mine) == {"target_return": -5.0, "return_scale": 40.0, "explore_return": 0.0}
    assert recipes.dt(Mine)[0].learner.base.target_return == -5.0
    Mine.load_dataset = None
    assert dt_presets.conditioning(Mine) == odt_presets.conditioning(Mine) == {}


def test_a_run_of_both_phases_fills_the_buffer():
    learner = Standardise(replace(odt, dropout=0.0))
    settings = Settings(eval_episodes=0, log_every=100)
    spec = dict(batch_size=4)
    phases = (
        Phase("offline", learner, 20, replay=Sequences(4), **spec),
        Phase("online", learner, 320, online=True, transition=Carry(), replay=Sequences(4, buffer=102), **spec),
    )
    state, fixed = start(0, phases, TASK.spec, TASK.dataset)
    yielded = list(run(phases, TASK, state, fixed, settings))
    seen = [row for _, rows in yielded for row in rows]
    buffer, episodes = yielded[-1][0].parts.replay, yielded[-1][0].episodes
    assert len(episodes.start) >= 3
    online = np.flatnonzero(buffer.online)
    np.testing.assert_array_equal(online, sorted((100 + np.arange(len(episodes.start))) % 102))
    newest = (100 + len(episodes.start) - 1) % 102
    assert (int(buffer.start[newest]), int(buffer.length[newest])) == (episodes.start[-1], episodes.length[-1])
    report = next(r["report"] for r in seen if r["kind"] == "handover" and r["phase"] == "online")
    assert report["obs_mean"] == report["actor"] == report["actor optimiser"] == "carried"
    returns = [r["metrics"]["act/return_to_go"] for r in seen if r["kind"] == "train" and r["phase"] == "online"]
    assert not episodes.return_.any()
    np.testing.assert_allclose(returns, odt.explore_return)  # not target_return, and nothing was obtained


def greedy_scores(phases, data=None, every=400):
    """Of the evaluations of a run on the point mass."""
    state, fixed = start(0, phases, TASK.spec, data or TASK.dataset)
    found = []
    for _, rows in run(phases, TASK, state, fixed, Settings(eval_every=every, eval_episodes=10)):
        found += [r["score"] for r in rows if r["kind"] == "evaluation" and r["mode"] == "greedy"]
    return found


@pytest.mark.slow
def test_dt_clones_the_detours():
    learner = Standardise(DT(target_return=1.0, return_scale=1.0, embed=32, layers=2, dropout=0.0, lr=3e-3, warmup=50))
    assert greedy_scores((Phase("offline", learner, 400, replay=Sequences(20), batch_size=64),))[-1] >= 80


@pytest.mark.slow
def test_odt_clones_the_detours():
    """In its mode; its samples go astray here, where half of the data's actions lie at the box."""
    small = dict(embed=32, layers=2, dropout=0.0, lr=3e-3, warmup=50, context=20, temperature_lr=1e-2)
    learner = Standardise(ODT(target_return=1.0, explore_return=1.0, return_scale=1.0, **small))
    assert greedy_scores((Phase("offline", learner, 1000, replay=Sequences(20), batch_size=64),), every=1000)[-1] >= 80


def with_strays():
    """The 100 detours behind 900 unpaid episodes at the same places whose actions turn away (rows to clone alone)."""
    d = TASK.dataset
    stray = dict(obs=d.obs, action=-d.action, next_obs=d.next_obs, reward=0 * d.reward)
    stray |= dict(terminal=0 * d.terminal, timeout=np.maximum(d.terminal, d.timeout))
    return dataset_from_arrays({k: np.concatenate([*[v] * 9, getattr(d, k)]) for k, v in stray.items()}, "strays")


@pytest.mark.slow
def test_bc10_clones_the_tenth_that_arrives():
    """Where nine episodes in ten lead astray the whole of the data teaches the wrong way, the best tenth the way."""
    phase = Phase("offline", BC(lr=1e-3), 3000, replay=Best(0.1))
    assert greedy_scores((phase,), with_strays(), every=3000)[-1] >= 80
    assert greedy_scores((replace(phase, replay=Uniform()),), with_strays(), every=3000)[-1] <= 20
