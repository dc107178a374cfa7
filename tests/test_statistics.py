"""Interquartile mean and bootstrap intervals against SciPy, hand numbers and the truth of synthetic data."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import trim_mean

from segue.errors import DataError
from segue.runs.statistics import bootstrap_band, interquartile_mean, stratified_bootstrap


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_interquartile_mean_is_scipys_trim_mean(values: list[float]) -> None:
    assert float(interquartile_mean(values)) == pytest.approx(float(trim_mean(values, 0.25)), rel=1e-12, abs=1e-9)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([7.0], 7.0), ([1.0, 2.0, 6.0], 3.0), ([0.0, 1.0, 3.0, 100.0], 2.0), ([5, 4, 3, 2, 1], 3.0), (range(8), 3.5)],
)
def test_interquartile_mean_by_hand(values: list[float], expected: float) -> None:
    assert float(interquartile_mean(list(values))) == expected


def test_interquartile_mean_along_an_axis() -> None:
    x = np.array([[0.0, 10.0], [1.0, 20.0], [3.0, 30.0], [100.0, -99.0]])  # [S, T]
    np.testing.assert_array_equal(interquartile_mean(x, axis=0), [2.0, 15.0])
    np.testing.assert_array_equal(interquartile_mean(x.T, axis=1), [2.0, 15.0])


def test_interquartile_mean_never_trims_a_nan_away() -> None:
    assert np.isnan(interquartile_mean([1.0, 2.0, 3.0, np.nan]))
    np.testing.assert_array_equal(interquartile_mean([[np.nan, 1.0], [1.0, 1.0]], axis=1), [np.nan, 1.0])


def test_interquartile_mean_trims_an_infinity_like_a_number() -> None:
    assert float(interquartile_mean([1.0, 2.0, 4.0, np.inf])) == 3.0
    assert float(interquartile_mean([1.0, 2.0, np.inf, np.inf])) == np.inf


def test_interquartile_mean_of_nothing_is_an_error() -> None:
    with pytest.raises(DataError, match="no values"):
        interquartile_mean([])


@pytest.mark.parametrize(("seeds", "least", "most"), [(10, 0.86, 0.96), (30, 0.90, 0.98)])
def test_bootstrap_covers_the_mean_of_normal_scores(seeds: int, least: float, most: float) -> None:
    """Nominal 95 %; the percentile interval of ten normal scores covers about 90 %. 600 repetitions: +- 2.4 points."""
    scores = np.random.default_rng(1).normal(50.0, 10.0, size=(600, seeds))
    intervals = np.array([stratified_bootstrap(row, np.mean, n=500, seed=i) for i, row in enumerate(scores)])
    covered = np.mean((intervals[:, 0] <= 50.0) & (intervals[:, 1] >= 50.0))
    assert least <= covered <= most


def test_bootstrap_draws_within_each_task() -> None:
    """Two tasks without spread: drawing across them would give an interval, drawing within them gives none."""
    assert stratified_bootstrap({"easy": [90.0] * 5, "hard": [10.0] * 5}, np.mean) == (50.0, 50.0)
    low, high = stratified_bootstrap([90.0] * 5 + [10.0] * 5, np.mean)
    assert low < 40.0 < 60.0 < high


def test_bootstrap_takes_columns_as_tasks() -> None:
    scores = np.random.default_rng(0).normal(size=(5, 3))
    assert stratified_bootstrap(scores) == stratified_bootstrap({str(t): scores[:, t] for t in range(3)})


def test_bootstrap_repeats_itself() -> None:
    scores = [1.0, 2.0, 3.0, 4.0, 5.0]
    assert stratified_bootstrap(scores, seed=3) == stratified_bootstrap(scores, seed=3)
    low, high = stratified_bootstrap(scores)
    assert 1.0 <= low < 3.0 < high <= 5.0


@pytest.mark.parametrize("scores", [[4.0], {"a": [1.0, 2.0], "b": [3.0]}, [1.0, np.nan, 2.0], np.ones((1, 3))])
def test_bootstrap_says_nothing_where_the_spread_is_unknown(scores: object) -> None:
    assert np.isnan(stratified_bootstrap(scores)).all()


def test_bootstrap_keeps_infinities() -> None:
    assert stratified_bootstrap([np.inf, np.inf, np.inf]) == (np.inf, np.inf)
    low, high = stratified_bootstrap([1.0, 2.0, 3.0, np.inf])
    assert low < 3.0
    assert high == np.inf


@pytest.mark.parametrize("scores", [[], {}, {"a": []}, {"a": [[1.0]]}, 3.0, np.ones((2, 2, 2))])
def test_bootstrap_refuses_what_is_not_scores(scores: object) -> None:
    with pytest.raises(DataError, match="bootstrap of"):
        stratified_bootstrap(scores)


def test_bootstrap_needs_a_draw() -> None:
    with pytest.raises(DataError, match="n=0"):
        stratified_bootstrap([1.0, 2.0], n=0)


def test_band_is_the_pointwise_bootstrap_of_whole_curves() -> None:
    curves = np.array([[0.0, 5.0, 1.0], [2.0, 5.0, 3.0], [4.0, 5.0, 8.0]])  # [S, T]
    low, high = bootstrap_band(curves, n=200)
    assert low.shape == high.shape == (3,)
    assert low[1] == high[1] == 5.0
    assert (low[0], high[0]) == stratified_bootstrap(curves[:, 0], n=200)


def test_band_does_not_depend_on_how_it_is_cut_into_blocks() -> None:
    curves = np.random.default_rng(0).normal(size=(20, 150))  # 100 points a block
    low, high = bootstrap_band(curves, n=2000)
    ends = bootstrap_band(curves[:, 120:], n=2000)
    np.testing.assert_array_equal(np.stack([low, high])[:, 120:], np.stack(ends))


def test_band_of_one_seed_and_of_no_curve() -> None:
    assert np.isnan(bootstrap_band([[1.0, 2.0]])).all()
    assert bootstrap_band(np.ones((3, 0)))[0].shape == (0,)
    with pytest.raises(DataError, match="give \\[S, T\\]"):
        bootstrap_band([1.0, 2.0])


def test_statistics_and_report_start_without_jax_and_matplotlib() -> None:
    code = "import sys, segue.runs.report; print(sorted({'jax', 'matplotlib', 'equinox'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
