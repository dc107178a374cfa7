"""The store: rows, the ring, return-to-go."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segue.store import Affine, Layout, Store, close_episode, make_store, with_returns
from segue.types import Spec

SPEC = Spec(2, 1)
LAYOUT = Layout(2, 1)
PLAIN = Affine()


def row(i, reward=0.0, terminal=0, timeout=0, step=0):
    """A row whose every column tells its number `i`."""
    return LAYOUT.pack([i, i + 0.25], [i / 100], reward, [i + 0.5, i + 0.75], terminal, timeout, step)


def dataset(rewards, terminal=(), timeout=()):
    n = len(rewards)
    flags = lambda rows: np.isin(np.arange(n), rows).astype(np.float32)
    obs = np.arange(n)[:, None] + np.array([0.0, 0.25])
    return SimpleNamespace(
        obs=obs, action=np.arange(n)[:, None] / 100, reward=np.array(rewards), next_obs=obs + 0.5,
        terminal=flags(terminal), timeout=flags(timeout), step=np.arange(n),
    )  # fmt: skip


def filled(store, rows):
    ring = store.ring
    for r in rows:
        ring = ring.add(jnp.asarray(r))
    return Store(store.offline, store.offline_mc, ring, store.layout, store.size_offline)


def mc(ring):
    return np.asarray(ring.mc_return)


# --------------------------------------------------------------------------------------------------------------- rows


def test_pack_and_columns_are_inverse():
    rng = np.random.default_rng(0)
    values = {
        "obs": rng.normal(size=(5, 2)), "action": rng.normal(size=(5, 1)), "reward": rng.normal(size=5),
        "next_obs": rng.normal(size=(5, 2)), "terminal": np.arange(5) % 2, "timeout": np.arange(5) % 3,
        "step": np.arange(5),
    }  # fmt: skip
    rows = LAYOUT.pack(**values)
    assert rows.shape == (5, LAYOUT.width)
    assert rows.dtype == np.float32
    columns = LAYOUT.columns(rows)
    assert columns.keys() == values.keys()
    for name, column in values.items():
        np.testing.assert_array_equal(columns[name], column.astype(np.float32), err_msg=name)
    single = LAYOUT.pack(**{k: v[2] for k, v in values.items()})
    np.testing.assert_array_equal(single, rows[2])


def test_at_reads_offline_online_and_padding():
    store = filled(make_store(SPEC, dataset([1.0, 2.0, 3.0]), 4), [row(10, reward=5.0, terminal=1, step=7)])
    weight = jnp.array([0.5, 2.0, 1.0])
    b = store.at(jnp.array([1, 3, -1]), Affine(2.0, -1.0), weight)
    np.testing.assert_array_equal(b.obs, [[1, 1.25], [10, 10.25], [0, 0]])
    np.testing.assert_allclose(b.action, [[0.01], [0.1], [0]])
    np.testing.assert_array_equal(b.next_obs, [[1.5, 1.75], [10.5, 10.75], [0, 0]])
    np.testing.assert_array_equal(b.reward, [3.0, 9.0, 0.0])  # 2 r - 1, and nothing on padding
    np.testing.assert_array_equal(b.terminal, [0, 1, 0])
    np.testing.assert_array_equal(b.offline[:2], [1, 0])
    np.testing.assert_array_equal(b.step, [1, 7, 0])
    np.testing.assert_array_equal(b.valid, [1, 1, 0])
    np.testing.assert_array_equal(b.weight, weight)
    np.testing.assert_array_equal(b.mc_return, [0.0, -np.inf, 0.0])


def test_at_keeps_leading_axes():
    store = make_store(SPEC, dataset([1.0, 2.0, 3.0]), 1)
    b = store.at(jnp.array([[0, 1], [2, -1], [1, 1]]), PLAIN, jnp.ones((3, 2)))
    assert b.obs.shape == (3, 2, 2)
    np.testing.assert_array_equal(b.reward, [[1, 2], [3, 0], [2, 2]])


def test_a_time_limit_is_not_terminal():
    store = filled(make_store(SPEC, dataset([1.0, 1.0], terminal=[0], timeout=[1]), 2), [row(5, timeout=1)])
    np.testing.assert_array_equal(store.at(jnp.arange(3), PLAIN, jnp.ones(3)).terminal, [1, 0, 0])


def test_without_dataset_the_first_row_is_online():
    store = filled(make_store(SPEC, None, 4), [row(3)])
    assert (store.size_offline, int(store.size_online), int(store.size)) == (0, 1, 1)
    b = store.at(jnp.array([0]), PLAIN, jnp.ones(1))
    np.testing.assert_array_equal(b.obs, [[3, 3.25]])
    assert float(b.offline[0]) == 0


# --------------------------------------------------------------------------------------------------------------- ring


def test_ring_overwrites_the_oldest():
    store = make_store(SPEC, None, 3)
    sizes = []
    for i in range(5):
        store = filled(store, [row(i)])
        sizes.append(int(store.size_online))
    assert sizes == [1, 2, 3, 3, 3]
    np.testing.assert_array_equal(store.ring.rows[:, 0], [3, 4, 2])
    assert int(store.ring.written) == 5
    assert store.ring.capacity == 3


def test_a_new_row_belongs_to_an_open_episode():
    ring = filled(make_store(SPEC, None, 2), [row(0), row(1)]).ring
    ring = close_episode(ring, 2, PLAIN, 1.0).add(jnp.asarray(row(2)))
    np.testing.assert_array_equal(mc(ring), [-np.inf, 0.0])


# -------------------------------------------------------------------------------------------------------- return-to-go


def test_returns_of_the_dataset_by_hand():
    # episodes (1, 2, 3 terminal), (1, 1 time limit), (4): gamma 1/2 and scale 1
    store = make_store(SPEC, dataset([1, 2, 3, 1, 1, 4], terminal=[2], timeout=[4]), 1)
    store = with_returns(store, PLAIN, 0.5, 0)
    np.testing.assert_array_equal(store.offline_mc, [1 + 0.5 * 3.5, 2 + 0.5 * 3, 3, 1.5, 1, 4])


def test_returns_of_the_sheet():
    # rewards (1, 2, 3): (6, 5, 3), methods_b 15; (-5, -5, 5 terminal): methods_a 10.5
    store = with_returns(make_store(SPEC, dataset([1, 2, 3], terminal=[2]), 1), PLAIN, 1.0, 0)
    np.testing.assert_array_equal(store.offline_mc, [6, 5, 3])
    store = with_returns(make_store(SPEC, dataset([-5, -5, 5], terminal=[2]), 1), PLAIN, 0.99, 0)
    np.testing.assert_allclose(store.offline_mc, [-5 + 0.99 * (-5 + 0.99 * 5), -5 + 0.99 * 5, 5], rtol=1e-6, atol=1e-6)


def test_returns_follow_the_phase():
    data = dataset([1, 2, 3], terminal=[2])
    store = with_returns(make_store(SPEC, data, 1), PLAIN, 1.0, 0)
    store = with_returns(store, Affine(2.0, -1.0), 0.5, 0)  # rewards 1, 3, 5
    np.testing.assert_array_equal(store.offline_mc, [1 + 0.5 * 5.5, 3 + 2.5, 5])
    np.testing.assert_array_equal(store.at(jnp.arange(3), Affine(2.0, -1.0), jnp.ones(3)).reward, [1, 3, 5])
    np.testing.assert_array_equal(store.layout.columns(store.offline)["reward"], [1, 2, 3])  # the task's own


FAILING = Affine(10.0, -5.0, failure=0.0)


def test_an_episode_without_success_is_endless_failure():
    """methods_a 5.3: (0, 0 time limit) is -5 / (1 - 0.99) throughout; one with a success or a terminal is summed."""
    data = dataset([0, 0, 0, 1, 0, 0, 0, 0], terminal=[3, 7], timeout=[1, 5])
    store = with_returns(make_store(SPEC, data, 1), FAILING, 0.99, 0)
    summed = [-5 + 0.99 * 5, 5]
    expected = [-500, -500, *summed, -500, -500, -5 - 0.99 * 5, -5]
    np.testing.assert_allclose(store.offline_mc, expected, rtol=1e-4)
    plain = with_returns(make_store(SPEC, data, 1), Affine(10.0, -5.0), 0.99, 0)
    np.testing.assert_allclose(plain.offline_mc[:2], [-5 - 0.99 * 5, -5], rtol=1e-6)  # nothing behind the limit
    endless = with_returns(make_store(SPEC, data, 1), FAILING, 1.0, 0)
    np.testing.assert_array_equal(endless.offline_mc[:2], [-np.inf] * 2)  # no bound


@pytest.mark.parametrize(
    ("rewards", "terminal", "expected"),
    [([0, 0], 0, [-500, -500]), ([0, 1], 1, [-5 + 0.99 * 5, 5]), ([0, 0], 1, [-5 - 0.99 * 5, -5])],
)
def test_closing_an_episode_without_success(rewards, terminal, expected):
    rows = [row(i, r, terminal=terminal * i, timeout=(1 - terminal) * i) for i, r in enumerate(rewards)]
    store = filled(make_store(SPEC, None, 8), [row(0, 7.0), *rows])
    ring = close_episode(store.ring, 2, FAILING, 0.99)
    np.testing.assert_allclose(mc(ring)[1:3], expected, rtol=1e-4)
    again = with_returns(Store(store.offline, store.offline_mc, ring, LAYOUT, 0), FAILING, 0.99, closed=3)
    assert np.isfinite(mc(again.ring)[:3]).all()


def test_closing_an_episode_by_hand():
    store = filled(make_store(SPEC, None, 8), [row(i, reward=i + 1.0) for i in range(3)])
    ring = close_episode(store.ring, 3, PLAIN, 0.5)
    np.testing.assert_array_equal(mc(ring), [2.75, 3.5, 3, *[-np.inf] * 5])
    for i in range(2):
        ring = ring.add(jnp.asarray(row(i, reward=4.0)))
    np.testing.assert_array_equal(mc(ring)[3:], [-np.inf] * 5)  # open
    ring = close_episode(ring, 2, Affine(0.5, 1.0), 0.5)
    np.testing.assert_array_equal(mc(ring)[:5], [2.75, 3.5, 3, 4.5, 3])  # the earlier episode stays


def test_closing_an_episode_across_the_end_of_the_ring():
    store = filled(make_store(SPEC, None, 4), [row(0, reward=9.0)] * 2)
    ring = close_episode(store.ring, 2, PLAIN, 1.0)
    for r in (1.0, 2.0, 4.0):  # slots 2, 3, 0
        ring = ring.add(jnp.asarray(row(0, reward=r)))
    np.testing.assert_array_equal(mc(close_episode(ring, 3, PLAIN, 1.0)), [4, 9, 7, 6])


def test_closing_an_episode_longer_than_the_ring():
    rewards = np.arange(1.0, 22.0)  # 21 rows in a ring of 4: the last four remain, slots 1, 2, 3, 0
    store = filled(make_store(SPEC, None, 4), [row(0, reward=r) for r in rewards])
    np.testing.assert_array_equal(mc(close_episode(store.ring, 21, PLAIN, 1.0)), [21, 18 + 19 + 20 + 21, 60, 41])


def test_returns_of_the_ring_after_a_change_of_transform():
    store = make_store(SPEC, dataset([1, 2], terminal=[1]), 4)
    # closed: (1, 2 terminal), (3 time limit); open: (4, 5); the ring of four has lost the first row
    rows = [row(0, 1.0), row(1, 2.0, terminal=1), row(2, 3.0, timeout=1), row(3, 4.0), row(4, 5.0)]
    store = with_returns(filled(store, rows), Affine(10.0), 0.5, closed=3)
    np.testing.assert_array_equal(mc(store.ring), [-np.inf, 20, 30, -np.inf])
    np.testing.assert_array_equal(store.offline_mc, [20, 20])
    store = with_returns(store, Affine(1.0, 1.0), 1.0, closed=5)
    np.testing.assert_array_equal(mc(store.ring), [6, 3, 4, 5 + 6])
    assert int(store.ring.written) == 5


@pytest.mark.parametrize("discount", [0.9, 1.0])
def test_with_returns_agrees_with_closing_episode_by_episode(discount):
    rng = np.random.default_rng(0)
    ring, lengths = make_store(SPEC, None, 16).ring, [3, 5, 1, 7, 4]
    for n in lengths:
        for i, r in enumerate(rng.normal(size=n)):
            ring = ring.add(jnp.asarray(row(i, reward=r, timeout=i == n - 1)))
        ring = close_episode(ring, n, Affine(2.0, 0.1), discount)
    store = Store(jnp.zeros((1, LAYOUT.width)), jnp.zeros(1), ring, LAYOUT, 0)
    again = with_returns(store, Affine(2.0, 0.1), discount, closed=sum(lengths))
    np.testing.assert_allclose(mc(again.ring), mc(ring), rtol=1e-5, atol=1e-6)


def test_reading_compiles_once_for_any_rows():
    store = make_store(SPEC, dataset([1.0, 2.0, 3.0]), 4)
    read = jax.jit(lambda s, i: s.at(i, PLAIN, jnp.ones(i.shape)).reward)
    np.testing.assert_array_equal(read(store, jnp.array([2, 0])), [3, 1])
    np.testing.assert_array_equal(read(filled(store, [row(0, 7.0)]), jnp.array([3, 1])), [7, 2])
