"""Replays: the rows that they draw."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare
from test_store import SPEC, dataset, filled, row
from zoo import redq

from segue.errors import ConfigError
from segue.phases import Work, draw_rows
from segue.replays import Symmetric, Uniform
from segue.store import Affine, make_store

KEYS = jax.random.split(jax.random.key(0), 64)
ALPHA = 1e-4  # a false alarm in 10,000 seeds; the seed is fixed


def store_of(offline, online, capacity=8):
    data = dataset(np.zeros(offline)) if offline else None
    return filled(make_store(SPEC, data, capacity), [row(i) for i in range(online)])


def draw(replay, store, n):
    """Indices ``[64, n]`` of 64 draws."""
    indices, weight = jax.jit(jax.vmap(lambda k: replay.indices((), store, k, n)))(KEYS)
    np.testing.assert_array_equal(weight, 1)
    return np.asarray(indices)


@pytest.mark.parametrize(
    ("replay", "offline", "online"),
    [
        (Uniform(), 6, 0),
        (Uniform(), 6, 3),
        (Uniform(), 6, 11),
        (Uniform(), 0, 3),
        (Symmetric(0.5), 6, 0),
        (Symmetric(0.5), 6, 3),
        (Symmetric(0.5), 6, 11),
        (Symmetric(0.5), 0, 3),
        (Symmetric(0.0), 6, 3),
        (Symmetric(1.0), 6, 3),
    ],
    ids=str,
)
def test_every_index_is_a_written_row(replay, offline, online):
    indices = draw(replay, store_of(offline, online), 32)
    assert indices.shape == (64, 32)
    assert indices.min() >= 0
    assert indices.max() < offline + min(online, 8)


def test_uniform_frequencies_over_the_union():
    indices = draw(Uniform(), store_of(6, 11), 64)  # 6 rows of the dataset, 8 of the full ring
    assert chisquare(np.bincount(indices.ravel(), minlength=14)).pvalue > ALPHA


def test_symmetric_frequencies_within_each_side():
    indices = draw(Symmetric(0.25), store_of(6, 3), 64)
    counts = np.bincount(indices.ravel(), minlength=9)
    assert counts[:6].sum() == 64 * 16
    assert chisquare(counts[:6]).pvalue > ALPHA
    assert chisquare(counts[6:]).pvalue > ALPHA


def test_draws_differ_by_key():
    indices = draw(Uniform(), store_of(6, 3), 32)
    assert len({tuple(i) for i in indices}) == 64


@pytest.mark.parametrize(
    ("share", "n", "expected"), [(0.5, 32, 16), (0.25, 32, 8), (0.9, 10, 9), (1.0, 8, 8), (0.0, 8, 0)]
)
def test_symmetric_share_is_exact(share, n, expected):
    np.testing.assert_array_equal((draw(Symmetric(share), store_of(6, 3), n) < 6).sum(1), expected)


def test_symmetric_share_is_exact_in_every_slice():
    """An update of several slices draws each by itself: no slice of dataset rows only (methods_a 6.3)."""
    work = Work(redq, Symmetric(0.5), None, Affine(), 16)
    indices, weight = jax.vmap(lambda k: draw_rows(work, (), store_of(6, 3), k))(KEYS)
    assert indices.shape == weight.shape == (64, 3 * 16)
    np.testing.assert_array_equal((np.asarray(indices).reshape(64, 3, 16) < 6).sum(-1), 8)
    assert not np.array_equal(indices[:, :16], indices[:, 16:32])


@pytest.mark.parametrize(("offline", "online"), [(6, 0), (0, 3)])
def test_the_other_side_fills_the_batch(offline, online):
    store = store_of(offline, online)
    indices = draw(Symmetric(0.5), store, 32)
    batch = store.at(jnp.asarray(indices), Affine(), jnp.ones(indices.shape))
    np.testing.assert_array_equal(batch.offline, 1.0 if offline else 0.0)


def test_symmetric_of_nothing_is_online_only():
    assert draw(Symmetric(0.0), store_of(6, 3), 32).min() >= 6


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_share_outside_is_named(share):
    with pytest.raises(ConfigError, match=r"Symmetric.offline"):
        Symmetric(share)
