"""The tree of priorities, the density ratio, and balanced replay in the loop."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare
from test_phases import dataset, follow, online
from test_store import SPEC, filled, row
from test_store import dataset as rows_of
from zoo import close, same

from segue.errors import ConfigError
from segue.phases import Block, PerStep, Phase
from segue.replays import Balanced, sumtree
from segue.store import Affine, Layout, Store, make_store

KEY = jax.random.key(0)
ALPHA = 1e-4  # a false alarm in 10,000 seeds; the seed is fixed
MILLION = 1_000_000
small = Balanced(first=4, batch_size=8, hidden=(8,))
drawn = jax.jit(sumtree.draw, static_argnames="n")
update = jax.jit(lambda *args: small.update(*args))

# --------------------------------------------------------------------------------------------------- tree of priorities


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_a_tree_holds_its_leaves_and_their_sums(n):
    p = jnp.arange(1.0, n + 1)
    tree = sumtree.build(p)
    np.testing.assert_array_equal(sumtree.leaves(tree)[:n], p)
    np.testing.assert_array_equal(sumtree.leaves(tree)[n:], 0)
    assert float(tree[1]) == p.sum()
    assert set(np.asarray(drawn(tree, KEY, 256)).tolist()) == set(range(n))


def test_a_written_tree_is_the_tree_of_its_leaves():
    """Whatever was written before, bit for bit; of a row that is named twice the largest counts."""
    rng = np.random.default_rng(0)
    p = rng.lognormal(0, 4, 300).astype(np.float32)
    tree = sumtree.build(jnp.asarray(p))
    for _ in range(20):
        rows = rng.integers(0, 300, 64)
        values = rng.lognormal(0, 4, 64).astype(np.float32)
        tree = jax.jit(sumtree.write)(tree, jnp.asarray(rows), jnp.asarray(values))
        p[rows] = 0
        np.maximum.at(p, rows, values)
        assert same(tree, jax.jit(sumtree.build)(jnp.asarray(p)))


@pytest.mark.parametrize("n", [1, 64])
def test_a_write_copies_no_tree(n):
    """A copy within the loop over the levels costs milliseconds at every step of the interaction."""
    tree, rows = jnp.zeros(1 << 16), jnp.zeros(n, jnp.int32)
    compiled = jax.jit(sumtree.write, donate_argnums=0).lower(tree, rows, jnp.ones(n)).compile().as_text()
    assert "f32[65536]" in compiled
    assert not [line for line in compiled.splitlines() if "f32[65536]" in line and " copy(" in line]


def test_rows_are_drawn_in_proportion_and_never_where_the_priority_is_0():
    p = np.array([3.0, 0.0, 1.0, 0.5, 0.0, 0.0, 2.5, 1.0, 0.0, 4.0], np.float32)
    n = 200_000
    counts = np.bincount(drawn(sumtree.build(jnp.asarray(p)), KEY, n), minlength=len(p))
    assert (counts[p == 0] == 0).all()
    assert chisquare(counts[p > 0], n * p[p > 0] / p.sum()).pvalue > ALPHA


def test_a_million_equal_rows_are_drawn_alike():
    counts = np.bincount(drawn(sumtree.build(jnp.ones(MILLION)), KEY, MILLION), minlength=MILLION)
    assert len(counts) == MILLION
    assert counts.var() / counts.mean() == pytest.approx(1, abs=0.007)  # Poisson


@pytest.mark.parametrize("small_ones_first", [True, False])
def test_small_priorities_keep_their_mass_among_a_million_rows(small_ones_first):
    """999,000 rows of 1e-3 behind or before 1000 of 1e3: float32 running sums near 1e6 are 0.06 apart."""
    p = np.full(MILLION, 1e-3, np.float32)
    p[-1000:] = 1e3
    tree = sumtree.build(jnp.asarray(p if small_ones_first else p[::-1]))
    n = MILLION
    rows = np.asarray(drawn(tree, KEY, n))
    light = rows[rows < 999_000] if small_ones_first else rows[rows >= 1000] - 1000
    expected = n * 999 / (999 + 1e6)
    assert abs(len(light) - expected) < 4 * expected**0.5
    assert chisquare(np.histogram(light, 10, (0, 999_000))[0]).pvalue > ALPHA


def test_a_rare_row_keeps_its_mass_among_a_million_small_ones():
    p = np.full(MILLION, 1e-3, np.float32)
    p[123_456] = 1e3
    tree = sumtree.build(jnp.asarray(p))
    assert float(tree[1]) == pytest.approx(p.astype(np.float64).sum(), rel=1e-6)
    rows = np.asarray(drawn(tree, KEY, 100_000))
    assert abs((rows == 123_456).mean() - 0.5) < 4 * 0.5 / 100_000**0.5
    assert (np.bincount(np.delete(rows, np.flatnonzero(rows == 123_456)), minlength=MILLION) <= 3).all()


@pytest.mark.parametrize("u", [0.0, 1 - 2.0**-24])
def test_a_row_a_billion_times_smaller_than_its_neighbour_is_not_lost_and_an_empty_one_never_found(u, monkeypatch):
    """At both ends of the uniform numbers."""
    monkeypatch.setattr(jax.random, "uniform", lambda _, shape: jnp.full(shape, u, jnp.float32))
    found = lambda *p: int(sumtree.draw(sumtree.build(jnp.array(p)), KEY, 1)[0])
    rare = int(u == 0)  # whether the smaller side is taken
    assert (found(1e3, 1e-6), found(1e-6, 1e3)) == (rare, 1 - rare)
    assert (found(1e3, 0.0), found(0.0, 1e-6)) == (0, 1)


# -------------------------------------------------------------------------------------------------------- density ratio


def gaussians(n):
    """A store of x ~ N(0, 1) offline and x ~ N(1, 1) online, actions alike; the true w is exp(x - 1/2)."""
    rng, layout = np.random.default_rng(1), Layout(2, 1)
    zeros = np.zeros(n)

    def packed(mean):
        obs = np.stack([rng.normal(mean, 1, n), rng.normal(size=n)], -1)
        return jnp.asarray(layout.pack(obs, rng.uniform(-1, 1, (n, 1)), zeros, obs, zeros, zeros, zeros))

    store = make_store(SPEC, rows_of(zeros), n)
    ring = replace(store.ring, rows=packed(1.0), written=jnp.int32(n))
    return Store(packed(0.0), store.offline_mc, ring, layout, n)


@partial(jax.jit, static_argnames=("replay", "n"))
def learnt(replay, rstate, store, n):
    """The replay's state after `n` updates, and the last one's metrics, and the mean metrics."""

    def body(rstate, key):
        k_i, k_u = jax.random.split(key)
        indices, weight = replay.indices(rstate, store, k_i, 256)
        return replay.update(rstate, store, indices, store.at(indices, Affine(), weight), k_u)

    return jax.lax.scan(body, rstate, jax.random.split(KEY, n))


def test_the_density_ratio_is_found_on_two_known_gaussians():
    n = 5000
    store, replay = gaussians(n), Balanced(hidden=(32, 32), lr=2e-3, first=1)
    start = replay.init(KEY, SPEC, store)
    x = jnp.stack([jnp.linspace(-1.5, 2.5, 41), jnp.zeros(41)], -1)
    np.testing.assert_allclose(start.ratio(x, jnp.zeros((41, 1))), 1, atol=0.1)
    assert float(start.tree[1] - n) == pytest.approx(n, rel=1e-3)  # half the mass is online

    rstate, info = learnt(replay, start, store, 1500)
    w = rstate.ratio(x, jnp.zeros((41, 1)))
    error = np.abs(np.log(w) - (x[:, 0] - 0.5))
    assert error.mean() < 0.12
    assert error.max() < 0.4
    # twice the Jensen-Shannon divergence of N(0, 1) and N(1, 1) is 0.2225
    assert float(info["replay/divergence"][-500:].mean()) == pytest.approx(0.2225, abs=0.02)

    # every row drawn about 38 times: priorities are w^(1/5), normalised to 1 over the dataset
    p = np.asarray(sumtree.leaves(rstate.tree))
    assert p[:n].mean() == pytest.approx(1, abs=0.05)
    x = np.concatenate([store.offline[:, 0], store.ring.rows[:, 0]])
    expected = np.exp((x - 0.5) / 5)
    expected /= expected[:n].mean()
    assert np.abs(p[: 2 * n] - expected).mean() < 0.1


def test_only_the_drawn_rows_change_and_by_the_net_before_its_step():
    store = filled(make_store(SPEC, rows_of(np.zeros(6)), 8), [row(i) for i in range(3)])
    before = small.init(KEY, SPEC, store)
    indices = jnp.array([1, 4, 7])
    batch = store.at(indices, Affine(), jnp.ones(3))
    after, info = update(before, store, indices, batch, KEY)
    p, q = sumtree.leaves(before.tree), sumtree.leaves(after.tree)
    others = [i for i in range(16) if i not in (1, 4, 7)]
    assert same(p[jnp.array(others)], q[jnp.array(others)])
    offline = store.at(jax.random.randint(jax.random.split(KEY)[0], (8,), 0, 6), Affine(), jnp.ones(8))
    scale = (before.ratio(offline.obs, offline.action) ** 0.2).mean()
    close(q[indices], before.ratio(batch.obs, batch.action) ** 0.2 / scale)
    assert float(info["replay/priority"]) == pytest.approx(float(q[indices].mean()))
    assert not same(before.ratio, after.ratio)


# ---------------------------------------------------------------------------------------------------------- entry, ring


def test_the_entry_priority_gives_the_first_rows_their_share():
    """M rho / ((1 - rho) m): 3000 for a million rows, 0.75 and a thousand (methods_b 15)."""
    entry = lambda replay, rows: float(replay.init(KEY, SPEC, make_store(SPEC, rows_of(np.zeros(rows)), 4)).entry)
    assert 5 * entry(Balanced(0.75, hidden=(8,)), 200_000) == pytest.approx(3000)
    assert entry(Balanced(0.5, first=50, hidden=(8,)), 100) == 2
    replay = replace(small, online=0.75)
    store = make_store(SPEC, rows_of(np.zeros(6)), 8)
    rstate = replay.init(KEY, SPEC, store)
    for i in range(4):
        store = filled(store, [row(i)])
        rstate = replay.add(rstate, store)
    assert float(sumtree.leaves(rstate.tree)[6:].sum() / rstate.tree[1]) == pytest.approx(0.75)
    indices, weight = replay.indices(rstate, store, KEY, 20_000)
    assert chisquare(np.bincount(indices, minlength=10), 20_000 * np.array([1 / 24] * 6 + [3 / 16] * 4)).pvalue > ALPHA
    np.testing.assert_array_equal(weight, 1)


def test_rows_of_earlier_phases_count_towards_the_share():
    """Four rows are in the ring and four more come before the first update: together they have the share rho."""
    store = filled(make_store(SPEC, rows_of(np.zeros(30)), 16), [row(i) for i in range(4)])
    replay = Balanced(online=0.75, first=4, batch_size=8, hidden=(8,))
    rstate = replay.init(KEY, SPEC, store)
    for i in range(4, 8):
        store = filled(store, [row(i)])
        rstate = replay.add(rstate, store)
    p = np.asarray(sumtree.leaves(rstate.tree))
    assert p[30:46].sum() / p.sum() == pytest.approx(0.75)


def test_later_rows_enter_with_the_largest_priority_so_far():
    store = filled(make_store(SPEC, rows_of(np.zeros(6)), 8), [row(0)])
    rstate = replace(small, first=599).init(KEY, SPEC, store)
    assert float(rstate.entry) == pytest.approx(0.01)
    indices = jnp.array([0, 6])
    rstate, _ = update(rstate, store, indices, store.at(indices, Affine(), jnp.ones(2)), KEY)
    largest = float(sumtree.leaves(rstate.tree)[indices].max())
    assert float(rstate.entry) == largest > 0.5
    store = filled(store, [row(1)])
    assert float(sumtree.leaves(small.add(rstate, store).tree)[7]) == largest


def test_an_overwritten_row_loses_its_priority():
    store = make_store(SPEC, rows_of(np.zeros(6)), 4)
    rstate = small.init(KEY, SPEC, store)
    entry = float(rstate.entry)
    for i in range(4):
        store = filled(store, [row(i)])
        rstate = small.add(rstate, store)
    rstate = replace(rstate, tree=sumtree.write(rstate.tree, jnp.array([6, 7]), jnp.array([50.0, 60.0])))
    store = filled(store, [row(4)])  # into the slot of row 0
    rstate = small.add(rstate, store)
    np.testing.assert_allclose(sumtree.leaves(rstate.tree)[6:10], [entry, 60, entry, entry], rtol=1e-6)
    assert same(rstate.tree, sumtree.build(sumtree.leaves(rstate.tree)))


def test_without_online_rows_nothing_is_learnt():
    store = make_store(SPEC, rows_of(np.zeros(6)), 4)
    before = small.init(KEY, SPEC, store)
    indices, weight = small.indices(before, store, KEY, 64)
    assert indices.max() < 6
    after, info = update(before, store, indices, store.at(indices, Affine(), weight), KEY)
    assert same(after.tree, before.tree)
    assert same(after.ratio, before.ratio)
    assert all(np.isfinite(x) for x in info.values())


def test_without_a_dataset_it_is_refused():
    with pytest.raises(ConfigError, match="no dataset; name a task with data"):
        small.init(KEY, SPEC, make_store(SPEC, None, 4))


@pytest.mark.parametrize(
    ("field", "value"), [("online", 1.0), ("online", 0.0), ("first", 0), ("temperature", 0.0), ("hidden", (0,))]
)
def test_a_value_out_of_range_is_refused_by_name(field, value):
    with pytest.raises(ConfigError, match=rf"Balanced\.{field} lies in"):
        Balanced(**{field: value})


# ---------------------------------------------------------------------------------------------------------- in the loop


SLOW = [pytest.param(updates, marks=pytest.mark.slow) for updates in (PerStep(), PerStep(3))]


@pytest.mark.parametrize("updates", [*SLOW, Block(10, 45, opening=2)], ids=str)
def test_in_the_loop(updates):
    """Every program learns it: a single update, several of a step, long blocks."""
    first = Phase("offline", online().learner, 20, batch_size=8)
    phase = replace(online(updates=updates), replay=small)
    state, rows, _, states = follow(first, phase, data=dataset())
    assert state.parts.replay.ratio.opt.count == max(s.calls for s in states)
    p = np.asarray(sumtree.leaves(state.parts.replay.tree))
    assert (p[:70] > 0).all()
    assert (p[70:] == 0).all()
    assert same(state.parts.replay.tree, jax.jit(sumtree.build)(jnp.asarray(p)))
    train = [r["metrics"] for r in rows if r["kind"] == "train" and r["phase"] == "online"]
    assert {"replay/ratio", "replay/divergence", "replay/priority", "replay/offline"} <= train[-1].keys()
    assert 0 < train[-1]["replay/offline"] < 1


def test_a_dataset_may_be_learnt_from_alone():
    _, rows, *_ = follow(Phase("offline", online().learner, 20, batch_size=8, replay=small), data=dataset())
    assert rows[-1]["metrics"]["replay/offline"] == 1


def test_a_later_phase_goes_on_with_its_priorities():
    phase = replace(online(), replay=small)
    again = replace(phase, name="again", steps=10)
    state, *_ = follow(phase, again, data=dataset())
    assert state.parts.replay.ratio.opt.count == 40
    p = sumtree.leaves(state.parts.replay.tree)
    assert (np.asarray(p[:80]) > 0).all()
