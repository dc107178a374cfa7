"""Equations: numbers by hand, laws, and what must carry no gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue import losses, nets
from segue.errors import ConfigError
from segue.learners import CQL, SAC
from segue.types import Spec

KEY = jax.random.key(0)


def value(loss):
    return float(loss[0])


# ------------------------------------------------------------------------------------------------------------- td


def test_td_sums_members_and_averages_rows():
    q, y = jnp.array([[1.0, 2.0], [0.0, 4.0]]), jnp.array([0.0, 1.0])
    loss, info = losses.td(q, y)  # (1 + 1) / 2 + (0 + 9) / 2
    assert float(loss) == 5.5
    assert float(info["critic/td"]) == 2.75  # the mean over members, comparable between ensembles
    assert float(info["critic/q"]) == 1.75


def test_td_takes_a_target_per_member():
    q = jnp.array([[1.0, 2.0], [0.0, 4.0]])
    assert value(losses.td(q, jnp.array([[1.0, 2.0], [1.0, 2.0]]))) == 2.5  # 0 + (1 + 4) / 2


def test_td_of_its_own_target_is_zero():
    q = jnp.array([[1.0, -3.0], [0.5, 4.0]])
    assert value(losses.td(q, q)) == 0.0


def test_td_gradient():
    q, y = jnp.array([[1.0, 2.0], [0.0, 4.0]]), jnp.array([0.0, 1.0])
    np.testing.assert_allclose(jax.grad(lambda q: losses.td(q, y)[0])(q), [[1, 1], [0, 3]])  # 2 (q - y) / B
    np.testing.assert_array_equal(jax.grad(lambda y: losses.td(q, y)[0])(y), 0.0)


# ------------------------------------------------------------------------------------------------------ expectile, awr


def test_expectile_by_hand():
    u = jnp.array([2.0, -1.0, 0.0, 4.0])
    assert value(losses.expectile(u, 0.75)) == pytest.approx((0.75 * 4 + 0.25 * 1 + 0 + 0.75 * 16) / 4)
    np.testing.assert_allclose(jax.grad(lambda u: losses.expectile(u, 0.75)[0])(u), [0.75, -0.125, 0, 1.5])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=8))
def test_expectile_of_a_half_is_half_the_squared_error(u):
    u = np.array(u, np.float32)
    assert value(losses.expectile(jnp.asarray(u), 0.5)) == pytest.approx(
        0.5 * float(np.mean(u.astype(np.float64) ** 2)), rel=1e-5
    )


def test_expectile_minimiser_of_two_values():
    # of 0 and 1, half each: tau (1 - v) = (1 - tau) v, so v = tau
    with jax.enable_x64(True):
        slope = jax.grad(lambda v: losses.expectile(jnp.array([0.0, 1.0]) - v, 0.9)[0])
        assert float(slope(0.9)) == pytest.approx(0.0, abs=1e-12)
        assert float(slope(0.8)) < 0 < float(slope(0.95))


def test_awr_without_temperature_is_behaviour_cloning():
    log_prob, adv = jnp.array([-1.0, -2.5, 0.5]), jnp.array([3.0, -7.0, 0.0])
    assert value(losses.awr(log_prob, adv, 0.0)) == value(losses.bc(log_prob)) == 1.0


def test_awr_by_hand_and_clipped_weight():
    # exp(10 * 1) = 22026 is clipped to 100 (methods_a 10.5); exp(10 * 0.1) = e
    log_prob, adv = jnp.array([-1.0, -2.0]), jnp.array([1.0, 0.1])
    loss, info = losses.awr(log_prob, adv, 10.0)
    assert float(loss) == pytest.approx((100 * 1 + np.e * 2) / 2, rel=1e-6)
    assert float(info["actor/weight"]) == pytest.approx((100 + np.e) / 2, rel=1e-6)
    assert value(losses.awr(log_prob, adv, 10.0, limit=1.0)) == pytest.approx(1.5)


def test_awr_multiplies_by_beta():
    assert value(losses.awr(jnp.array([-1.0]), jnp.array([0.5]), 3.0)) == pytest.approx(np.exp(1.5), rel=1e-6)


def test_awr_stays_finite_where_the_exponential_overflows():
    loss, grad = jax.value_and_grad(lambda p: losses.awr(p, jnp.array([1e6, -1e6]), 10.0)[0])(jnp.array([-1.0, -1.0]))
    assert float(loss) == 50.0
    np.testing.assert_array_equal(grad, [-50.0, 0.0])


def test_awr_weight_carries_no_gradient():
    log_prob, adv = jnp.array([-1.0, -2.0]), jnp.array([0.3, 0.1])
    np.testing.assert_array_equal(jax.grad(lambda a: losses.awr(log_prob, a, 3.0)[0])(adv), 0.0)
    grad = jax.grad(lambda p: losses.awr(p, adv, 3.0)[0])(log_prob)
    np.testing.assert_allclose(grad, -np.exp(3 * np.array([0.3, 0.1])) / 2, rtol=1e-6)


# ------------------------------------------------------------------------------------------------ entropy-regularised


def test_soft_policy_by_hand():
    log_prob, q = jnp.array([-1.0, 2.0]), jnp.array([3.0, 1.0])
    loss, info = losses.soft_policy(log_prob, q, jnp.array(0.5))  # (-0.5 - 3 + 1 - 1) / 2
    assert float(loss) == -1.75
    assert float(info["actor/entropy"]) == -0.5


def test_soft_policy_has_no_gradient_to_alpha():
    log_prob, q = jnp.array([-1.0, 2.0]), jnp.array([3.0, 1.0])
    assert float(jax.grad(lambda a: losses.soft_policy(log_prob, q, a)[0])(jnp.array(0.5))) == 0.0
    np.testing.assert_allclose(jax.grad(lambda p: losses.soft_policy(p, q, jnp.array(0.5))[0])(log_prob), [0.25, 0.25])
    np.testing.assert_allclose(jax.grad(lambda q: losses.soft_policy(log_prob, q, jnp.array(0.5))[0])(q), [-0.5, -0.5])


def test_temperature_by_hand():
    # H = 1, target -2, alpha = e^0.5: e^0.5 (1 + 2)
    loss, info = losses.temperature(jnp.array(0.5), jnp.array([-1.5, -0.5]), -2.0)
    assert float(loss) == pytest.approx(3 * np.exp(0.5), rel=1e-6)
    assert float(info["actor/alpha"]) == pytest.approx(np.exp(0.5), rel=1e-6)


@pytest.mark.parametrize(("entropy", "sign"), [(-3.0, -1), (1.0, 1)])
def test_temperature_rises_where_entropy_is_below_its_target(entropy, sign):
    slope = jax.grad(lambda x: losses.temperature(x, jnp.array([-entropy]), -2.0)[0])(jnp.array(0.0))
    assert np.sign(float(slope)) == sign  # descent raises log alpha where the slope is negative


def test_temperature_has_no_gradient_to_the_policy():
    slope = jax.grad(lambda p: losses.temperature(jnp.array(0.3), p, -2.0)[0])(jnp.array([-1.5, -0.5]))
    np.testing.assert_array_equal(slope, 0.0)


def test_density_ratio_by_hand():
    # terms of w = 2 (methods_b 15): online log(4 / 3) = 0.287682, offline log(3 / 2) = 0.405465; of w = 1 none
    terms = lambda off, on: losses.density_ratio(jnp.array(off), jnp.array(on))
    assert value(terms([2.0, 1.0], [1.0])) == pytest.approx(0.405465 / 2, abs=1e-6)
    assert value(terms([1.0], [2.0, 1.0])) == pytest.approx(-0.287682 / 2, abs=1e-6)
    loss, info = terms([10.0], [10.0])
    assert float(loss) == pytest.approx(1.704748 - 0.597837, abs=1e-6)
    assert (float(info["replay/divergence"]), float(info["replay/ratio"])) == (-float(loss), 10.0)
    assert np.isfinite(value(terms([0.0], [0.0])))


def test_density_ratio_is_least_at_the_ratio_of_the_densities():
    # densities 0.2 and 0.8 offline, 0.6 and 0.4 online: w = 3 and 0.5
    def loss(w):
        return losses.density_ratio(w[jnp.array([0, 1, 1, 1, 1])], w[jnp.array([0, 0, 0, 1, 1])])[0]

    np.testing.assert_allclose(jax.grad(loss)(jnp.array([3.0, 0.5])), 0, atol=1e-7)
    assert float(loss(jnp.array([3.0, 0.5]))) < min(float(loss(jnp.array(w))) for w in ([2.5, 0.5], [3.0, 0.6]))


def test_tempered_ratio_by_hand():
    w = jnp.array([0.1, 1.0, 10.0])  # methods_b 15, T = 5
    np.testing.assert_allclose(losses.tempered_ratio(w, w, 5.0), [0.588607, 0.932879, 1.478514], rtol=1e-5)
    np.testing.assert_allclose(losses.tempered_ratio(jnp.array([0.0, 2.0]), jnp.array([1e-9]), 1.0), [1e-3, 1e3])


def test_bc_is_the_negative_log_likelihood():
    assert value(losses.bc(jnp.array([-1.0, -3.0]))) == 2.0


# ------------------------------------------------------------------------------------------------ conservative values


def test_soft_maximum_by_hand():
    q = jnp.log(jnp.array([[1.0, 2.0], [3.0, 6.0]]))  # two actions, two states
    none = jnp.zeros((2, 1))
    np.testing.assert_allclose(losses.soft_maximum(q, none), np.log([4, 8]), rtol=1e-6)
    np.testing.assert_allclose(losses.soft_maximum(q[None], jnp.log(0.5 + none))[0], np.log([8, 16]), rtol=1e-6)
    # T = 2: 2 log(e^(0 / 2) + e^(log 9 / 2)) = 2 log 4
    two = losses.soft_maximum(jnp.log(jnp.array([[1.0], [9.0]])), none, temperature=2.0)
    np.testing.assert_allclose(two, [2 * np.log(4)], rtol=1e-6)


def test_soft_maximum_of_a_constant_sums_inverse_densities():
    # ten uniform actions of two dimensions have density 1 / 4: log(10 * 4), whatever Q is (methods_a 10.5)
    density = jnp.full((10, 3), -2 * np.log(2.0))
    np.testing.assert_allclose(losses.soft_maximum(jnp.full((10, 3), 7.0), density), 7 + np.log(40), rtol=1e-6)


def test_soft_maximum_has_its_gradient_where_the_values_are_large_and_none_to_densities():
    q, density = jnp.log(jnp.array([[1.0], [3.0]])), jnp.zeros((2, 1))
    grad = jax.grad(lambda q, p: losses.soft_maximum(q, p).sum(), argnums=(0, 1))(q, density)
    np.testing.assert_allclose(grad[0], [[0.25], [0.75]], rtol=1e-6)
    np.testing.assert_array_equal(grad[1], 0.0)


def test_conservative_by_hand():
    soft, q = jnp.array([[3.0, 5.0], [2.0, 2.0]]), jnp.array([[1.0, 1.0], [2.0, 0.0]])
    loss, info = losses.conservative(soft, q, 2.0, 0.5)  # gaps 3 and 1: 2 (2.5 + 0.5)
    assert (float(loss), float(info["critic/gap"]), float(info["critic/penalty"])) == (6.0, 2.0, 3.0)
    assert float(info["critic/excess"]) == 1.5
    np.testing.assert_allclose(jax.grad(lambda s: losses.conservative(s, q, 2.0)[0])(soft), np.ones((2, 2)))
    np.testing.assert_allclose(jax.grad(lambda q: losses.conservative(soft, q, 2.0)[0])(q), -np.ones((2, 2)))
    assert float(jax.grad(lambda w: losses.conservative(soft, q, w)[0])(jnp.array(2.0))) == 0.0


def test_conservative_counts_rows_by_their_weight():
    """APL's W. Gaps of the members: 2 and 4, 0 and 2, less 0.5; the second row counts half, or not at all."""
    soft, q = jnp.array([[3.0, 5.0], [2.0, 2.0]]), jnp.array([[1.0, 1.0], [2.0, 0.0]])
    loss, info = losses.conservative(soft, q, 2.0, 0.5, jnp.array([1.0, 0.5]))  # 2 ((1.5 + 1.75) + (-0.5 + 0.75)) / 2
    assert (float(loss), float(info["critic/penalty"]), float(info["critic/excess"])) == (3.5, 1.75, 0.875)
    assert float(info["critic/gap"]) == 2.0  # of all rows, however they count
    to_q = jax.grad(lambda q, w: losses.conservative(soft, q, 2.0, 0.5, w)[0])
    np.testing.assert_allclose(to_q(q, jnp.array([1.0, 0.0])), [[-1, 0], [-1, 0]])
    np.testing.assert_array_equal(to_q(q, jnp.zeros(2)), 0.0)


def test_gap_constraint_by_hand():
    slope = jax.value_and_grad(lambda x, gap: losses.gap_constraint(x, gap - 0.8, 5.0)[0], argnums=(0, 1))
    loss, (to_dual, to_gap) = slope(jnp.log(2.0), jnp.array(1.8))  # -2 * 5 * (1.8 - 0.8)
    assert (float(loss), float(to_dual)) == (pytest.approx(-10, rel=1e-6), pytest.approx(-10, rel=1e-6))
    assert float(to_gap) == 0.0
    assert float(slope(jnp.log(2.0), jnp.array(0.3))[1][0]) > 0  # narrow: descent lowers the dual variable
    assert float(losses.dual(jnp.array(50.0))) == 1e6


def test_log_temperature_by_hand():
    slope = jax.value_and_grad(lambda x: losses.log_temperature(x, jnp.array([-1.5, -0.5]), -2.0)[0])
    loss, to_log_alpha = slope(jnp.array(0.5))  # H = 1: 0.5 (1 + 2)
    assert (float(loss), float(to_log_alpha)) == (1.5, 3.0)


def test_best_sample_takes_the_value_and_its_own_log_probability():
    q, log_prob = jnp.array([[1.0, 7.0], [3.0, 5.0]]), jnp.array([[-1.0, -2.0], [-3.0, -4.0]])
    best = losses.best_sample(q, log_prob)
    np.testing.assert_array_equal(best, [[3, 7], [-3, -2]])
    members = losses.best_sample(jnp.stack([q, -q]), log_prob)  # each member its own
    np.testing.assert_array_equal(members[0], [[3, 7], [-1, -5]])
    np.testing.assert_array_equal(members[1], [[-3, -2], [-1, -4]])


def test_bounds():
    g, none = jnp.array([2.0, -jnp.inf]), [-np.inf, -np.inf]
    np.testing.assert_array_equal(losses.Unbounded()(g), [none] * 3)
    np.testing.assert_array_equal(losses.ReturnBound()(g), [none, g, g])
    np.testing.assert_array_equal(losses.ReturnBound(uniform=True)(g), [g] * 3)


# ------------------------------------------------------------------------------------------------------- aggregations

Q = jnp.array([[1.0, 7.0], [2.0, 5.0], [4.0, 6.0], [3.0, 9.0]])


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        (losses.Min(), [1.0, 5.0]),
        (losses.Mean(), [2.5, 6.75]),
        (losses.First(), [1.0, 7.0]),
        (losses.OwnPairMin(), [[1.0, 5.0], [1.0, 5.0], [3.0, 6.0], [3.0, 6.0]]),
        (losses.MeanOfPairMin(), [2.0, 5.5]),
        (losses.MeanOfPairMinMinusStd(0.0), [2.0, 5.5]),
        (losses.MeanOfPairMinMinusStd(0.5), [1.5, 5.25]),  # minima 1 and 3, 5 and 6: deviations 1 and 0.5
        (losses.RandomMin(4), [1.0, 5.0]),
    ],
    ids=lambda x: type(x).__name__,
)
def test_aggregation(aggregation, expected):
    np.testing.assert_allclose(aggregation(Q, KEY), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(aggregation)(Q, KEY), expected, rtol=1e-6)


def test_mean_minus_std_divides_by_the_number_of_members():
    # mean 2.333333, std 1.247219 (methods_b 15)
    q = jnp.array([[1.0], [2.0], [4.0]])
    assert float(losses.MeanMinusStd(1.0)(q, KEY)[0]) == pytest.approx(2.333333 - 1.247219, abs=2e-6)
    assert float(losses.MeanMinusStd(-2.0)(q, KEY)[0]) == pytest.approx(2.333333 + 2 * 1.247219, abs=4e-6)


def test_random_min_takes_the_minimum_of_different_members_for_the_whole_batch():
    q = np.array([[0.0, 30.0], [1.0, 20.0], [2.0, 10.0]])  # each pair of members has its own pair of minima
    allowed = {(0, 1): (0.0, 20.0), (0, 2): (0.0, 10.0), (1, 2): (1.0, 10.0)}
    draws = jax.vmap(lambda k: losses.RandomMin(2)(jnp.asarray(q), k))(jax.random.split(KEY, 600))
    counts = {pair: int((np.asarray(draws) == np.array(m)).all(1).sum()) for pair, m in allowed.items()}
    assert sum(counts.values()) == 600  # never one member twice, never a mixture of rows
    assert all(150 < n < 250 for n in counts.values()), counts  # 200 +- 4 standard deviations


@pytest.mark.parametrize("aggregation", [losses.RandomMin(2), losses.Min(), losses.Mean()], ids=str)
def test_members_that_are_not_drawn_need_not_be_evaluated(aggregation):
    spec, rng = Spec(3, 2), np.random.default_rng(0)
    critic, s, a = (
        nets.critic(KEY, spec, (8,), 5),
        jnp.asarray(rng.normal(size=(7, 3))),
        jnp.asarray(rng.normal(size=(7, 2))),
    )
    for key in jax.random.split(KEY, 8):
        found = nets.aggregated(aggregation, critic, key, s, a)
        np.testing.assert_allclose(found, aggregation(critic(s, a), key), rtol=1e-5, atol=1e-6)
    with pytest.raises(ConfigError, match=r"RandomMin\(m=6\) of 5 critics"):
        nets.aggregated(losses.RandomMin(6), critic, KEY, s, a)


def test_random_min_of_one_is_one_member():
    draws = np.asarray(jax.vmap(lambda k: losses.RandomMin(1)(Q, k))(jax.random.split(KEY, 64)))
    assert {tuple(d) for d in draws} == {tuple(map(float, row)) for row in Q}


def test_random_min_names_the_members_there_are():
    with pytest.raises(ConfigError, match=r"RandomMin\(m=5\) of 4 critics"):
        losses.RandomMin(5)(Q, KEY)
    with pytest.raises(ConfigError, match=r"RandomMin\.m lies in \[1, inf\), not 0"):
        losses.RandomMin(0)
    with pytest.raises(ConfigError, match=r"MeanMinusStd\.beta lies in"):
        losses.MeanMinusStd(float("nan"))
    with pytest.raises(ConfigError, match=r"MeanOfPairMinMinusStd\.beta lies in"):
        losses.MeanOfPairMinMinusStd(float("inf"))


@pytest.mark.parametrize(
    "aggregation",
    [losses.OwnPairMin(), losses.MeanOfPairMin(), losses.MeanOfPairMinMinusStd()],
    ids=lambda x: type(x).__name__,
)
def test_pairs_need_an_even_number(aggregation):
    with pytest.raises(ConfigError, match="even number of critics, not 3"):
        aggregation(Q[:3], KEY)


def test_gradient_of_the_minimum_reaches_the_smallest_member_only():
    grad = jax.grad(lambda q: losses.Min()(q, KEY).sum())(Q)
    np.testing.assert_array_equal(grad, [[1, 0], [0, 1], [0, 0], [0, 0]])


def test_gradient_of_the_deviation_where_members_agree():
    q = jnp.array([[1.0, 0.0], [1.0, 2.0]])  # the first column agrees, the second has deviation 1
    grad = jax.grad(lambda q: losses.MeanMinusStd(1.0)(q, KEY).sum())(q)
    np.testing.assert_allclose(grad, [[0.5, 1.0], [0.5, 0.0]])  # 1/2 -+ 1/2 where they differ
    assert np.isfinite(jax.grad(lambda q: losses.MeanOfPairMinMinusStd(0.5)(q, KEY).sum())(q)).all()  # one pair


@pytest.mark.parametrize("make", [SAC, CQL])
def test_aggregations_that_do_not_serve_the_critics_are_refused_when_the_learner_is_made(make):
    name = make.__name__
    with pytest.raises(ConfigError, match=rf"{name}\.backup: RandomMin\(m=3\) of 2 critics"):
        make(backup=losses.RandomMin(3))
    with pytest.raises(ConfigError, match=rf"{name}\.improve: pairs need an even number"):
        make(n_critics=3, improve=losses.MeanOfPairMin())
    with pytest.raises(ConfigError, match=rf"{name}\.improve makes one value of all critics.*use Mean\(\)"):
        make(improve=losses.OwnPairMin())
