"""Networks: the fast gradient form against plain autodiff, dropout, distributions."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm
from zoo import HIDDEN, SPEC, close

from segue import nets
from segue.errors import ConfigError
from segue.nets import Deterministic, Normal, TanhNormal, gradients, log_det_tanh, mlp

# ------------------------------------------------------------------------------------------------- fast gradient form

SHAPES = {  # members, hidden, layer norm, width of the head, inputs
    "one layer": (None, (16,), False, 1, (3,)),
    "two layers": (None, HIDDEN, False, 6, (3,)),
    "three layers": (None, (16, 12, 8), False, 12, (3,)),
    "ensemble": (2, HIDDEN, False, 1, (3, 2)),
    "ensemble, one layer": (4, (16,), False, 1, (3, 2)),
    "ensemble, three layers, wide head": (2, (16, 12, 8), False, 6, (3, 2)),
    "norm": (None, HIDDEN, True, 6, (3,)),
    "norm, three layers, wide head": (None, (16, 12, 8), True, 12, (3, 2)),
    "norm, ensemble": (4, HIDDEN, True, 1, (3, 2)),
    "norm, ensemble, one layer": (2, (16,), True, 1, (3, 2)),
    "linear": (None, (), False, 2, (3, 2)),
}


def random_net(rng, sizes, members=None, layer_norm=False, seeds=None):
    """A network of random arrays: biases, scales and shifts too."""
    lead = tuple(n for n in (seeds, members) if n is not None)
    draw = lambda *shape: jnp.asarray(rng.normal(size=(*lead, *shape)), jnp.result_type(float))
    layers = tuple(nets.Layer(draw(a, b) / np.sqrt(a), 0.3 * draw(b)) for a, b in itertools.pairwise(sizes))
    norms = tuple(nets.Norm(1 + 0.3 * draw(n), 0.3 * draw(n)) for n in sizes[1:-1]) if layer_norm else ()
    return nets.Mlp(layers, norms)


def both_forms(shape, seeds=None):
    """(value, parameter gradients, input gradients) by the fast and by the plain form."""
    members, hidden, layer_norm, out, widths = shape
    rng, lead = np.random.default_rng(0), () if seeds is None else (seeds,)
    draw = lambda *shape: jnp.asarray(rng.normal(size=(*lead, *shape)), jnp.result_type(float))
    net = random_net(rng, (sum(widths), *hidden, out), members, layer_norm, seeds)
    x, g = tuple(draw(5, w) for w in widths), draw(*(() if members is None else (members,)), 5, out)

    def answer(net, x, g):
        y, pull = jax.vjp(lambda net, x: net(*x), net, x)
        return y, pull(g)

    run = answer if seeds is None else jax.vmap(answer)
    results = []
    for form in ("fast", "plain"):
        with gradients(form):
            results.append(jax.jit(lambda *a: run(*a))(net, x, g))
    return results


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_fast_gradients_are_autodiff(shape):
    fast, plain = both_forms(shape)
    assert sum(float(jnp.abs(x).sum()) for x in jax.tree.leaves(plain)) > 1
    close(fast, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["norm, ensemble", "ensemble, three layers, wide head"])
def test_fast_gradients_are_autodiff_in_double_precision(name):
    with jax.enable_x64(True):
        fast, plain = both_forms(SHAPES[name])
        assert fast[0].dtype == jnp.float64
        close(fast, plain, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ["ensemble", pytest.param("norm, ensemble", marks=pytest.mark.slow)])
def test_fast_gradients_are_autodiff_over_seeds(name):
    close(*both_forms(SHAPES[name], seeds=3), rtol=1e-5, atol=1e-5)


def test_fast_form_is_in_use():
    net = mlp(jax.random.key(0), (3, 16, 1))
    trace = lambda: str(jax.make_jaxpr(lambda x: net(x))(jnp.ones((4, 3))))
    with gradients("fast"):
        assert "custom_vjp" in trace()
    with gradients("plain"):
        assert "custom_vjp" not in trace()


@pytest.mark.parametrize("form", ["fast", "plain"])
@pytest.mark.parametrize("shift", [1e2, 1e4])
def test_layer_norm_of_a_large_mean_is_finite(form, shift):
    """Before the ReLU a layer's units may have a mean far larger than their spread."""
    net = random_net(np.random.default_rng(0), (3, 16, 16, 1), 2, layer_norm=True)
    net = eqx.tree_at(lambda n: n.layers[0].bias, net, net.layers[0].bias + shift)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(64, 3)), jnp.float32)
    with gradients(form):
        value, grads = jax.jit(jax.value_and_grad(lambda n: (n(x) ** 2).sum()))(net)
    assert np.isfinite(float(value))
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_layer_norm_by_hand():
    # layer of identity weights: z = (1, 3) -> (-1, 1) -> scale 2, shift 1: (-1, 3) -> ReLU (0, 3) -> sum 3
    net = mlp(jax.random.key(0), (2, 2, 1), layer_norm=True)
    net = eqx.tree_at(
        lambda n: (n.layers[0].weight, n.layers[1].weight, n.norms[0].scale, n.norms[0].shift),
        net,
        (jnp.eye(2), jnp.ones((2, 1)), 2 * jnp.ones(2), jnp.ones(2)),
    )
    for form in ("fast", "plain"):
        with gradients(form):
            np.testing.assert_allclose(net(jnp.array([[1.0, 3.0], [1.0, 3.0]])), [[3.0], [3.0]], rtol=1e-5)


# -------------------------------------------------------------------------------------------------- perceptrons, shapes


def test_dropout_acts_only_with_a_key():
    net = mlp(jax.random.key(0), (3, 64, 1), dropout=0.5)
    x, plain = jnp.ones((8, 3)), mlp(jax.random.key(0), (3, 64, 1))
    np.testing.assert_array_equal(net(x), plain(x))
    dropped = net(x, key=jax.random.key(1))
    assert not np.allclose(dropped, plain(x))
    np.testing.assert_array_equal(dropped, net(x, key=jax.random.key(1)))
    assert not np.allclose(dropped, net(x, key=jax.random.key(2)))


def test_dropout_keeps_the_mean_of_a_hidden_layer():
    net = mlp(jax.random.key(0), (1, 64, 1), dropout=0.25)
    ones = eqx.tree_at(
        lambda n: (n.layers[0].weight, n.layers[1].weight), net, (jnp.ones((1, 64)), jnp.ones((64, 1)) / 64)
    )
    out = np.asarray(ones(jnp.ones((400, 1)), key=jax.random.key(3)))  # mean of 64 x 400 draws of b / 0.75
    assert out.mean() == pytest.approx(1.0, abs=4 * np.sqrt(1 / 3 / (64 * 400)))
    assert out.std() > 0.01


@pytest.mark.parametrize("lead", [(), (1,), (4,), (4, 3)], ids=str)
def test_leading_axes(lead):
    critic = nets.critic(jax.random.key(0), SPEC, HIDDEN, members=4)
    value = nets.value(jax.random.key(0), SPEC, HIDDEN)
    obs, action = jnp.ones((*lead, 3)), jnp.ones((*lead, 2))
    assert critic(obs, action).shape == (4, *lead)
    assert value(obs).shape == lead
    for head in ("gaussian", "squashed", "deterministic"):
        pi = nets.actor(jax.random.key(0), SPEC, HIDDEN, head)(obs)
        assert pi.mode().shape == pi.sample(jax.random.key(1)).shape == (*lead, 2)


def test_windows_are_rows():
    critic = nets.critic(jax.random.key(0), SPEC, HIDDEN)
    obs = jax.random.normal(jax.random.key(1), (4, 3, 3))
    action = jax.random.normal(jax.random.key(2), (4, 3, 2))
    q = critic(obs, action)
    for b in range(4):
        for k in range(3):
            np.testing.assert_allclose(q[:, b, k], critic(obs[b, k], action[b, k]), rtol=2e-5, atol=1e-6)


def test_members_differ():
    q = nets.critic(jax.random.key(0), SPEC, HIDDEN, members=3)(jnp.ones(3), jnp.ones(2))
    assert len({float(x) for x in q}) == 3


def test_orthogonal_weights_and_gains():
    net = mlp(jax.random.key(0), (16, 16, 16, 1), head_gain=0.01)
    for layer in net.layers[:-1]:
        np.testing.assert_allclose(layer.weight.T @ layer.weight, 2 * np.eye(16), atol=1e-5)
        np.testing.assert_array_equal(layer.bias, 0)
    assert float(jnp.linalg.norm(net.layers[-1].weight)) == pytest.approx(0.01, rel=1e-5)


def test_first_actions_lie_near_the_middle():
    obs = jax.random.normal(jax.random.key(1), (256, 3))
    for head in ("gaussian", "squashed", "deterministic"):
        mode = nets.actor(jax.random.key(0), SPEC, HIDDEN, head)(obs).mode()
        assert 0 < float(jnp.abs(mode).max()) < 0.1


def test_unknown_head_is_named():
    with pytest.raises(ConfigError, match="'gausian'"):
        nets.actor(jax.random.key(0), SPEC, HIDDEN, "gausian")


# ------------------------------------------------------------------------------------------------------ distributions

FIXTURES = [  # methods_b 15: action, mean before tanh, std, log-density
    (0.0, 0.0, 1.0, -0.918939),
    (0.5, 0.0, 1.0, -0.782125),
    (0.5, 0.3, 0.2, 0.201262),
    (1.0, 0.0, 1.0, -14.109217),
    (1.0, 0.0, 0.1, -2616.758),
    (-0.9, -1.0, 0.5, 0.988957),
]


def one(cls, mean, std):
    return cls(jnp.array([mean]), jnp.array([std]))


@pytest.mark.parametrize(("action", "mean", "std", "expected"), FIXTURES)
def test_squashed_log_density(action, mean, std, expected):
    with jax.enable_x64(True):
        log_prob = float(one(TanhNormal, mean, std).log_prob(jnp.array([action])))
        assert log_prob == pytest.approx(expected, abs=5.1e-7 * max(1, 10 ** (len(str(int(abs(expected)))) - 1)))
    rtol = 5e-3 if action == 1.0 else 1e-5
    assert float(one(TanhNormal, mean, std).log_prob(jnp.array([action]))) == pytest.approx(
        expected, rel=rtol, abs=1e-5
    )


def test_squashed_density_integrates_to_one():
    with jax.enable_x64(True):
        density = jax.jit(lambda a: jnp.exp(one(TanhNormal, 0.4, 0.6).log_prob(a[None])))
        assert quad(lambda a: float(density(a)), -1, 1, points=[0.0, 0.8])[0] == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("cls", [Normal, TanhNormal])
def test_sample_and_log_prob_agree_with_log_prob(cls):
    with jax.enable_x64(True):
        pi = cls(jnp.array([[0.3, -0.5], [0.0, 1.0]]), jnp.array([[0.2, 0.7], [1.0, 0.1]]))
        a, log_prob = pi.sample_and_log_prob(jax.random.key(0))
        assert log_prob.shape == (2,)
        np.testing.assert_allclose(log_prob, pi.log_prob(a), rtol=1e-9)
        np.testing.assert_array_equal(a, pi.sample(jax.random.key(0)))


def test_log_prob_sums_over_actions():
    with jax.enable_x64(True):
        mean, std, x = np.array([0.3, -0.5]), np.array([0.2, 0.7]), np.array([0.1, 0.4])
        expected = norm.logpdf(x, mean, std).sum()
        assert float(Normal(jnp.array(mean), jnp.array(std)).log_prob(jnp.array(x))) == pytest.approx(
            expected, rel=1e-12
        )
        jacobian = np.log(1 - np.tanh(x) ** 2).sum()
        squashed = float(TanhNormal(jnp.array(mean), jnp.array(std)).log_prob(jnp.tanh(jnp.array(x))))
        assert squashed == pytest.approx(expected - jacobian, rel=1e-12)


def test_squashed_density_at_the_box_has_finite_gradients():
    grad = jax.grad(lambda p: TanhNormal(p[:1], jnp.exp(p[1:])).log_prob(jnp.array([[1.0], [-1.0]])).sum())
    assert np.isfinite(grad(jnp.array([0.3, -1.0]))).all()


def test_log_det_tanh():
    u = np.array([-30.0, -2.0, -0.5, 0.0, 0.5, 2.0, 30.0])
    with jax.enable_x64(True):
        exact = np.log1p(-(np.tanh(u[1:-1]) ** 2))
        np.testing.assert_allclose(log_det_tanh(jnp.asarray(u))[1:-1], exact, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(np.asarray(log_det_tanh(jnp.asarray(u)))[[0, -1]], 2 * np.log(2) - 60, rtol=1e-12)
        slope = jax.vmap(jax.grad(log_det_tanh))(jnp.asarray(u))
        step = 1e-6
        numeric = (log_det_tanh(jnp.asarray(u + step)) - log_det_tanh(jnp.asarray(u - step))) / (2 * step)
        np.testing.assert_allclose(slope, -2 * np.tanh(u), rtol=1e-12)
        np.testing.assert_allclose(slope, numeric, atol=1e-7)
        curve = jax.vmap(jax.grad(jax.grad(log_det_tanh)))(jnp.asarray(u[1:-1]))
        np.testing.assert_allclose(curve, -2 * (1 - np.tanh(u[1:-1]) ** 2), rtol=1e-9)


def test_modes():
    assert float(one(TanhNormal, 0.5, 2.0).mode()[0]) == pytest.approx(np.tanh(0.5), rel=1e-6)
    assert float(one(Normal, 0.5, 2.0).mode()[0]) == 0.5


def test_a_point_mass_has_no_density():
    pi = Deterministic(jnp.zeros((2, 1)))
    with pytest.raises(TypeError, match="no log-probability"):
        pi.log_prob(jnp.zeros((2, 1)))
    with pytest.raises(TypeError, match="no log-probability"):
        pi.sample_and_log_prob(jax.random.key(0))


def test_gaussian_actor_bounds_its_mean_and_std():
    pi = nets.actor(jax.random.key(0), SPEC, HIDDEN, "gaussian")
    pi = eqx.tree_at(
        lambda p: (p.log_std, p.net.layers[-1].bias), pi, (jnp.array([9.0, -9.0]), jnp.array([50.0, -50.0]))
    )
    out = pi(jnp.ones((4, 3)))
    np.testing.assert_allclose(out.std[0], np.exp([2.0, -5.0]), rtol=1e-6)  # [-5, 2]: methods_a 1.3
    np.testing.assert_allclose(out.mean[0], [1.0, -1.0], atol=1e-6)


def test_squashed_actor_bounds_its_std():
    pi = nets.actor(jax.random.key(0), SPEC, HIDDEN, "squashed")
    pi = eqx.tree_at(lambda p: p.net.layers[-1].bias, pi, jnp.array([0.0, 0.0, 9.0, -99.0]))
    np.testing.assert_allclose(pi(jnp.ones((4, 3))).std[0], np.exp([2.0, -20.0]), rtol=1e-6)  # [-20, 2]: methods_a 3.1
