"""Models of dynamics, imagined rollouts, MOPO's mixture and MOORe's fading replay."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import segue.tasks.point_wall
from segue import dynamics, losses, tasks
from segue.dynamics import Models
from segue.errors import ConfigError, Diverged
from segue.learners import MOPO, SAC
from segue.phases import Phase, Settings, run, start
from segue.recipes import phases_of
from segue.replays import Decaying, Uniform
from segue.store import Affine, Layout, Rows, make_store
from segue.tasks.dataset import dataset_from_arrays
from segue.tasks.point_wall import GOAL, RADII, REACH, X_RANGE, Y_RANGE, PointWall
from segue.types import Spec, core

KEY = jax.random.key(0)
A, B, NOISE = np.array([[0.9, 0.2], [-0.1, 0.8]]), np.array([[0.3], [-0.4]]), 0.05
MODELS = Models(members=4, elites=3, hidden=(32, 32), batch_size=64, patience=8, max_epochs=60)


def linear(n: int = 4000, seed: int = 0, ends: bool = False):
    """s' = A s + B a + N(0, 0.05^2), r = s_0 - s_1; states N(0, 1); episodes of 100 rows, or ending where s'_0 > 1."""
    rng = np.random.default_rng(seed)
    s, a = rng.normal(size=(n, 2)), rng.uniform(-1, 1, (n, 1))
    s_next = s @ A.T + a @ B.T + NOISE * rng.normal(size=(n, 2))
    terminal = s_next[:, 0] > 1 if ends else np.zeros(n, bool)
    columns = dict(obs=s, action=a, reward=s[:, 0] - s[:, 1], next_obs=s_next, terminal=terminal)
    return dataset_from_arrays(columns | {"timeout": (np.arange(n) % 100 == 99) & ~terminal}, "linear")


def above(threshold: float):
    """The rule of termination s'_0 > threshold."""
    return lambda obs, action, next_obs: next_obs[..., 0] > threshold  # noqa: ARG005


NEVER = above(1e9)


def rows_of(dataset, terminates=NEVER, replay=None, capacity: int = 1) -> Rows:
    spec = Spec(dataset.obs_dim, dataset.act_dim, 100, terminates)
    return Rows(make_store(spec, dataset, capacity), (), replay or Uniform(), Affine(), spec)


def train(rows: Rows, settings: Models = MODELS, key=KEY, models=None):
    models = dynamics.init(KEY, rows.spec, settings) if models is None else models
    models, done, seen = dynamics.begin_fit(models, rows, key), False, []
    while not done:
        models, done, metrics, _ = dynamics.fit_piece(models, rows, key, settings)
        seen += [metrics["model/holdout"]] if metrics else []
    return dynamics.fitted(models, settings), seen


@pytest.fixture(scope="module")
def fitted():
    rows = rows_of(linear())
    return rows, *train(rows)


# ------------------------------------------------------------------------------------------------------------ equations


def test_gaussian_nll_by_hand():
    mean, log_var = jnp.array([[[1.0, 2.0]], [[0.0, 0.0]]]), jnp.log(jnp.array([[[4.0, 1.0]], [[1.0, 1.0]]]))
    target = jnp.array([[[3.0, 1.0]], [[2.0, 0.0]]])
    loss, info = losses.gaussian_nll(mean, log_var, target, jnp.ones((2, 1)))
    first, second = (4 / 4 + np.log(4) + 1 / 1 + 0) / 2, (4 + 0) / 2
    np.testing.assert_allclose(loss, first + second, rtol=1e-6)
    np.testing.assert_allclose(info["model/nll"], (first + second) / 2, rtol=1e-6)


def test_rows_without_weight_do_not_count():
    mean = jnp.zeros((1, 3, 2))
    target = jnp.array([[[1.0, 1.0], [9.0, 9.0], [3.0, 1.0]]])
    weighted, _ = losses.gaussian_nll(mean, mean, target, jnp.array([[1.0, 0.0, 1.0]]))
    np.testing.assert_allclose(weighted, (1 + 5) / 2)
    label, logit = jnp.array([1.0, 0.0, 1.0]), jnp.array([0.0, 50.0, jnp.log(3.0)])
    loss = losses.binary(logit, label, jnp.array([1.0, 0.0, 1.0]))
    np.testing.assert_allclose(loss, (np.log(2) - np.log(0.75)) / 2, rtol=1e-6)


def test_the_penalty_is_the_largest_norm_of_all_members():
    std = jnp.array([[[3.0, 4.0], [0.0, 1.0]], [[1.0, 0.0], [0.6, 0.8]], [[0.0, 0.0], [2.0, 0.0]]])
    mean = jnp.array(
        [[[0.0, 0.0], [3.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 3.0]]]
    )  # centre: 0; (1, 1)
    np.testing.assert_allclose(dynamics.penalty(mean, std, "learnt"), [5.0, 2.0])
    np.testing.assert_allclose(dynamics.penalty(mean, std), [5.0, 3.0])  # row 2: 1 + 5, 1 + 2, 4 + 5 under the root


def test_log_variances_stay_within_their_bounds():
    models = dynamics.init(KEY, Spec(2, 1), MODELS)
    _, log_var = models.ensemble.net(1e3 * jax.random.normal(KEY, (4, 50, 3)))
    low, high = models.ensemble.net.low[:, None], models.ensemble.net.high[:, None]
    assert (log_var >= low).all()
    assert (log_var <= high + np.log1p(np.exp(low - high)) + 1e-5).all()


# ------------------------------------------------------------------------------------------------------------- hold-out


@pytest.mark.parametrize(("size", "expected"), [(100, 20), (1000, 200), (20_000, 1000), (500_000, 1000)])
def test_about_a_thousand_rows_and_at_most_a_fifth_are_held_out(size, expected):
    held = int(dynamics.held_out(jnp.arange(size), size).sum())
    assert abs(held - expected) < 3 + 0.1 * expected


def test_a_row_once_learnt_from_is_never_held_out_later():
    rows = jnp.arange(5000)
    before = dynamics.held_out(rows, 5000)
    for size in (6000, 20_000, 1_000_000):
        after = dynamics.held_out(rows, size)
        assert not (after & ~before).any()
        before = after


@pytest.mark.parametrize("terminates", [NEVER, None], ids=["rule", "learnt ends"])
def test_held_out_rows_teach_nothing(terminates):
    """Rows held out may hold anything: the models and the rule of ends come out the same."""
    data = linear(600, ends=True)
    rows = rows_of(data, terminates)
    held = np.asarray(dynamics.held_out(jnp.arange(600), 600))
    offline = jnp.where(jnp.asarray(held)[:, None], 7.0, rows.store.offline)
    spoilt = dataclasses.replace(rows, store=dataclasses.replace(rows.store, offline=offline))
    once = dataclasses.replace(MODELS, max_epochs=1, batch_size=32)
    models = dynamics.begin_fit(dynamics.init(KEY, rows.spec, once), rows, KEY)

    def learn(r):
        new = dynamics._learn(once, models, r, KEY, np.int32(0), np.int32(5))[0]
        return new.ensemble.net, new.ending.net

    assert zoo.same(learn(rows), learn(spoilt))
    assert not zoo.same(learn(rows)[0], models.ensemble.net)
    assert zoo.same(learn(rows)[1], models.ending.net) == (terminates is NEVER)


# ------------------------------------------------------------------------------------------------------------- learning


def test_the_ensemble_recovers_a_linear_gaussian_system(fitted):
    _, models, errors = fitted
    rng = np.random.default_rng(1)
    s, a = rng.normal(size=(500, 2)), rng.uniform(-1, 1, (500, 1))
    mean, std = dynamics.predict(models, jnp.asarray(s, jnp.float32), jnp.asarray(a, jnp.float32))
    truth = np.concatenate([(s[:, :1] - s[:, 1:]), s @ A.T + a @ B.T - s], 1)
    elite = np.asarray(mean)[np.asarray(models.elites)].mean(0)
    assert np.sqrt(((elite - truth) ** 2).mean(0)).max() < 0.03, np.sqrt(((elite - truth) ** 2).mean(0))
    noise = np.asarray(std)[np.asarray(models.elites)].mean((0, 1))
    np.testing.assert_allclose(noise[1:], NOISE, rtol=0.3)  # that of s' - s
    assert noise[0] < 0.6 * NOISE  # the reward is without noise
    assert errors[-1] < 0.1 * errors[0] or errors[-1] < 1.2 * NOISE**2


def test_the_penalty_grows_with_the_distance_from_the_data(fitted):
    """The learnt deviations alone need not: here they do not, which is why the penalty counts disagreement too."""
    _, models, _ = fitted
    directions = jax.random.normal(jax.random.key(5), (200, 2))
    directions /= jnp.linalg.norm(directions, axis=-1, keepdims=True)
    at = lambda d: dynamics.predict(models, d * directions, jnp.zeros((200, 1)))
    means, learnt = (
        [float(dynamics.penalty(*at(d), kind).mean()) for d in (0.5, 6.0, 12.0, 24.0)] for kind in ("total", "learnt")
    )
    assert means == sorted(means), means
    assert means[-1] > 3 * means[0], means
    np.testing.assert_allclose(means[0], learnt[0], rtol=0.02)
    assert learnt[-1] < 1.2 * learnt[0]


def test_elites_have_the_smallest_errors_and_every_member_its_best(fitted):
    rows, models, _ = fitted
    error = np.asarray(models.fit.error)
    assert set(np.asarray(models.elites).tolist()) == set(np.argsort(error)[: MODELS.elites].tolist())
    held = dynamics._held_rows(rows, jax.random.fold_in(KEY, 2))
    again = dynamics._errors(models.ensemble.net, models.scale, rows, held)
    np.testing.assert_allclose(again, error, rtol=1e-5)


def test_a_training_compiles_once():
    """Pieces and epochs, a first training and a second one: all the same program."""
    settings = dataclasses.replace(MODELS, hidden=(9,), max_epochs=2, batch_size=16)  # of no other test
    rows, before = rows_of(linear(2000)), dynamics._learn._cache_size()
    models, _ = train(rows, settings)
    train(rows, settings, jax.random.key(1), models)
    assert dynamics._learn._cache_size() == before + 1


def test_training_stops_when_no_member_improves():
    rows = rows_of(linear(300))
    _, errors = train(rows, dataclasses.replace(MODELS, patience=2, max_epochs=None, lr=1e-9))
    assert len(errors) == 3  # the first epoch improves on nothing, the next two do not improve


def test_a_trained_model_is_only_replaced_by_a_better_one(fitted):
    rows, models, _ = fitted
    again, _ = train(rows, dataclasses.replace(MODELS, lr=1e-9, max_epochs=2), models=models)
    assert zoo.same(again.ensemble.net, models.ensemble.net)
    assert zoo.same(again.scale, models.scale)


def test_a_diverging_model_is_named():
    with pytest.raises(Diverged, match=r"hold-out error of member \d is .* after epoch 1, .*lower models\.lr"):
        train(rows_of(linear(300)), dataclasses.replace(MODELS, lr=1e6, max_epochs=5))


@pytest.mark.parametrize("kwargs", [{"elites": 0}, {"elites": 9}, {"patience": 0}, {"max_epochs": 0}])
def test_senseless_settings_are_refused(kwargs):
    with pytest.raises(ConfigError, match="models: "):
        dataclasses.replace(MODELS, **kwargs)


def test_targets_far_from_zero_are_no_divergence():
    data = linear(600)
    far = dataset_from_arrays(
        dict(obs=data.obs, action=data.action, reward=0.01 * data.obs[:, 0] - 100, next_obs=data.next_obs,
             terminal=data.terminal, timeout=data.timeout), "far"
    )  # fmt: skip
    _, errors = train(rows_of(far), dataclasses.replace(MODELS, max_epochs=2))
    assert errors[1] < errors[0]


def test_models_want_rows():
    spec = Spec(2, 1, 100, NEVER)
    empty = Rows(make_store(spec, None, 50), (), Uniform(), Affine(), spec)
    with pytest.raises(ConfigError, match="there are none: begin with a phase on a dataset"):
        refit(SMALL, SMALL.init(KEY, spec), empty)


def test_the_range_is_that_of_all_rows_and_the_scale_that_of_the_learnt_ones():
    rows = rows_of(linear(500))
    scale = dynamics._measure(rows, KEY)
    c = rows.store.layout.columns(rows.store.offline)
    both = np.concatenate([c["obs"], c["next_obs"]])
    np.testing.assert_array_equal(scale.low, both.min(0))
    np.testing.assert_array_equal(scale.high, both.max(0))
    held = np.asarray(dynamics.held_out(jnp.arange(500), 500))
    offline = jnp.where(jnp.asarray(held)[:, None], 7.0, rows.store.offline)
    spoilt = dataclasses.replace(rows, store=dataclasses.replace(rows.store, offline=offline))
    assert zoo.same(dynamics._measure(spoilt, KEY).mean, scale.mean)


def test_a_retraining_knows_what_was_seen_since_and_scales_inputs_as_before(fitted):
    rows, models, _ = fitted
    ring = make_store(rows.spec, None, 8).ring.add(rows.store.offline[0].at[0].set(50.0))  # s_0 = 50
    more = dataclasses.replace(rows, store=dataclasses.replace(rows.store, ring=ring))
    again = dynamics.begin_fit(models, more, KEY)
    assert float(again.scale.high[0]) == 50
    assert float(again.scale.low[0]) == float(models.scale.low[0])
    assert zoo.same((again.scale.mean, again.scale.std), (models.scale.mean, models.scale.std))


# ------------------------------------------------------------------------------------------------------------- rollouts


def imagine(models, rows, starts=40, horizon=3, coefficient=0.0, seed=1):
    learner = zoo.sac
    state = learner.init(KEY, rows.spec)
    return dynamics.imagine(models, learner, state, rows, jax.random.key(seed), starts, horizon, coefficient)


def columns(imagined, rows, horizon):
    c = Layout(rows.spec.obs_dim, rows.spec.act_dim).columns(imagined.rows)
    shaped = lambda x: np.asarray(x).reshape(horizon, -1, *x.shape[1:])
    return {k: shaped(v) for k, v in c.items()} | {"keep": shaped(imagined.keep)}


def test_rollouts_start_at_rows_and_go_on_where_they_are(fitted):
    rows, models, _ = fitted
    c = columns(imagine(models, rows), rows, 3)
    assert c["keep"].all()
    starts = np.asarray(rows.store.layout.columns(rows.store.offline)["obs"])
    assert all((starts == s).all(1).any() for s in c["obs"][0])
    np.testing.assert_array_equal(c["obs"][1:], c["next_obs"][:-1])
    assert (c["step"] == np.arange(3)[:, None]).all()
    predicted = c["obs"] @ A.T + c["action"] @ B.T
    assert abs((c["next_obs"] - predicted).std() - NOISE) < 0.03


def test_rewards_are_penalised_by_the_coefficient(fitted):
    rows, models, _ = fitted
    free, paid = (columns(imagine(models, rows, horizon=1, coefficient=x), rows, 1) for x in (0.0, 2.0))
    u = dynamics.penalty(*dynamics.predict(models, jnp.asarray(free["obs"][0]), jnp.asarray(free["action"][0])))
    np.testing.assert_allclose(free["reward"][0] - paid["reward"][0], 2 * u, rtol=1e-4, atol=1e-5)


def test_rollouts_stop_at_a_terminal_and_other_rows_go_on(fitted):
    rows, models, _ = fitted
    rows = rows_of(linear(), terminates=above(0.5))
    c = columns(imagine(models, rows, starts=200, horizon=4), rows, 4)
    ended = c["terminal"] == 1
    np.testing.assert_array_equal(ended[c["keep"]], (c["next_obs"][..., 0] > 0.5)[c["keep"]])
    for t in range(3):
        np.testing.assert_array_equal(c["keep"][t + 1], c["keep"][t] & ~ended[t])
    assert 0 < c["keep"][-1].sum() < 200


def test_where_the_task_gives_no_rule_it_is_learnt():
    rows = rows_of(linear(ends=True), terminates=None)
    models, _ = train(rows, dataclasses.replace(MODELS, max_epochs=12, patience=12))
    c = columns(imagine(models, rows, starts=400, horizon=1), rows, 1)
    truth = c["next_obs"][0, :, 0] > 1
    assert (c["terminal"][0] == truth).mean() > 0.96
    assert c["terminal"][0].sum() > 20


def test_rows_outside_the_range_of_the_data_are_counted(fitted):
    rows, models, _ = fitted
    narrow = dataclasses.replace(models, scale=dataclasses.replace(models.scale, high=jnp.array([0.0, 1e9])))
    imagined = imagine(narrow, rows, starts=300, horizon=2)
    c = columns(imagined, rows, 2)
    expected = ((c["next_obs"][..., 0] > 0) | (c["next_obs"] < np.asarray(models.scale.low)).any(-1)).mean()
    np.testing.assert_allclose(imagined.metrics["model/outside"], expected, rtol=1e-5)


@pytest.mark.parametrize("starts", [1, 2500, 2501, 3000])
def test_exactly_as_many_rollouts_as_asked_for(fitted, starts):
    rows, models, _ = fitted
    assert int(imagine(models, rows, starts=starts, horizon=1).keep.sum()) == starts


def test_predictions_that_are_no_numbers_are_counted_and_not_kept(fitted):
    rows, models, _ = fitted
    broken = dataclasses.replace(models, scale=dataclasses.replace(models.scale, std=jnp.zeros(3)))
    imagined = imagine(broken, rows, starts=50, horizon=2)
    assert not imagined.keep.any()
    assert imagined.metrics["model/broken"] == 50
    assert np.isfinite(imagined.rows).all()


def test_a_pool_takes_the_rows_to_keep():
    rows = jnp.arange(10.0, 15.0)[:, None]
    imagined = dynamics.Imagined(rows, jnp.array([True, False, True, True, False]), {})
    pool = dynamics.Pool(jnp.zeros((5, 1)), jnp.array(3)).add(imagined)
    np.testing.assert_array_equal(pool.rows[:, 0], [13, 0, 0, 10, 12])
    assert int(pool.written) == 6
    assert int(pool.size) == 5


# ----------------------------------------------------------------------------------------------------------------- MOPO


def refit(learner, state, rows, key=KEY):
    piece, metrics = 0, {}
    while True:
        found = learner.refit(state, rows, key, piece)
        metrics |= found.metrics
        if found.done:
            return found._replace(metrics=metrics)
        state, piece = found.state, piece + 1


SMALL = MOPO(zoo.sac, starts=30, horizon=2, retain=3, models=dataclasses.replace(MODELS, max_epochs=2, hidden=(8,)))


def test_real_rows_alone_are_the_base():
    learner = dataclasses.replace(zoo.mopo, real_share=1.0)
    state = learner.init(KEY, zoo.SPEC)
    batch, key = zoo.make_batch(32), jax.random.key(3)
    mine, _ = learner.update(state, batch, key)
    theirs, _ = learner.base.update(state.base, batch, jax.random.split(key)[1])
    zoo.close(mine.base, theirs, 1e-6, 1e-6)


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_the_mixture_holds_its_share(share):
    """Imagined rewards are 7, real ones 0; the critic's target sees the mixture: its mean reward is known."""
    learner = dataclasses.replace(zoo.mopo, real_share=share)
    state = learner.init(KEY, zoo.SPEC)
    layout = Layout(zoo.SPEC.obs_dim, zoo.SPEC.act_dim)
    row = np.zeros(layout.width, np.float32)
    row[-4] = 7.0
    new = dynamics.Imagined(jnp.tile(row, (4, 1)), jnp.ones(4, bool), {})
    state = dataclasses.replace(state, imagined=state.imagined.add(new))
    seen = []

    class Spy(type(zoo.sac)):
        def update(self, state, batch, key):
            seen.append(batch)
            return super().update(state, batch, key)

    spied = dataclasses.replace(learner, base=Spy(hidden=zoo.HIDDEN))
    spied.update(state, zoo.make_batch(32, reward=np.zeros(32)), KEY)
    np.testing.assert_allclose(seen[0].reward.mean(), 7 * (1 - share))
    assert seen[0].reward.shape == (32,)


def test_models_are_trained_again_only_after_enough_new_rows():
    rows = rows_of(linear(400), capacity=100)
    learner = dataclasses.replace(SMALL, retrain_every=50)
    first = refit(learner, learner.init(KEY, rows.spec), rows)
    assert "models" in first.notes
    second = refit(learner, first.state, rows, jax.random.key(1))
    assert "models" not in second.notes
    assert zoo.same(second.state.dynamics, first.state.dynamics)
    assert int(second.state.imagined.written) == 2 * int(first.state.imagined.written) == 2 * 30 * 2

    ring = rows.store.ring
    for row in rows.store.offline[:50]:
        ring = ring.add(row)
    more = dataclasses.replace(rows, store=dataclasses.replace(rows.store, ring=ring))
    third = refit(learner, second.state, more, jax.random.key(2))
    assert "models" in third.notes
    assert "model/newest" not in second.metrics
    batch = more.at(jnp.arange(400, 450))
    mean, _ = dynamics.predict(second.state.dynamics, batch.obs, batch.action)
    target = jnp.concatenate([batch.reward[:, None], batch.next_obs - batch.obs], -1)
    error = ((mean[second.state.dynamics.elites] - target) ** 2).mean()
    np.testing.assert_allclose(third.metrics["model/newest"], error, rtol=1e-4)


def test_a_refit_says_how_models_came_out():
    rows = rows_of(linear(400), terminates=None)
    notes = refit(SMALL, SMALL.init(KEY, rows.spec), rows).notes
    assert notes["ends"] == "learnt, as the task gives no rule: no end among the held-out rows"
    assert notes["models"].startswith("trained for 2 epochs")
    assert len(notes["elites"].split(", ")) == MODELS.elites


@pytest.mark.parametrize("base", [zoo.iql, zoo.bc, zoo.mopo], ids=["iql", "bc", "mopo"])
def test_bases_that_cannot_learn_in_models_are_refused(base):
    with pytest.raises(ConfigError, match="use SAC or TD3"):
        MOPO(base)


def test_moore_carries_models_on_and_forgets_what_it_imagined():
    """The recipe's own phases on the point mass, small: what is carried, what is drawn from, when models learn."""
    task = tasks.get("point-wall")
    offline, online = phases_of("moore", task, 40, 60)
    small = dict(starts=20, horizon=2, models=dataclasses.replace(MODELS, max_epochs=1, hidden=(8,)), base=zoo.sac)
    assert online.replay == Decaying()
    assert online.learner.real_share == 0
    assert offline.learner == dataclasses.replace(online.learner, real_share=0.05)
    offline = dataclasses.replace(offline, learner=dataclasses.replace(offline.learner, **small), batch_size=8)
    learner = dataclasses.replace(online.learner, **small, retrain_every=30)
    online = dataclasses.replace(online, learner=learner, batch_size=8, refit_every=30)
    phases = (offline, online)
    state, fixed = start(0, phases, task.spec, task.dataset)
    found = [row for _, rows in run(phases, task, state, fixed, Settings(eval_episodes=0)) for row in rows]
    report = next(row["report"] for row in found if row["kind"] == "handover" and row["phase"] == "online")
    assert report["dynamics"] == "carried"
    assert report["imagined"] == "reset"
    assert report["critic"] == report["actor"] == "carried"
    trained = [(r["phase"], r["step"]) for r in found if r["kind"] == "refit" and "models" in r["report"]]
    assert trained == [("offline", 0), ("online", 30)]
    rolled = [(r["phase"], r["step"]) for r in found if r["kind"] == "refit" and "imagined" in r["report"]]
    assert rolled == [("offline", 0), ("online", 0), ("online", 30)]


def test_the_update_leaves_models_and_imagined_rows_alone():
    state = zoo.mopo.init(KEY, zoo.SPEC)
    after, _ = zoo.mopo.update(state, zoo.batch_for(zoo.mopo), KEY)
    assert zoo.same(after.dynamics, state.dynamics)
    assert zoo.same(after.imagined, state.imagined)
    assert not zoo.same(core(after).actor, core(state).actor)


# ------------------------------------------------------------------------------------------------------ fading replay


@pytest.mark.parametrize(
    ("alpha", "written", "share"),
    [(1.0, 0, 1.0), (1.0, 500, 900 / 1400), (1.0, 1000, 450 / 1450), (0.5, 1000, 900 / 1900), (2.0, 2500, 150 / 2650)],
)
def test_the_dataset_fades_by_one_over_alpha_t(alpha, written, share):
    """900 dataset rows, epochs of 1000 online rows: t = 1 + written // 1000, mass 900 / (alpha t)."""
    data = linear(900)
    store = make_store(Spec(2, 1), data, 5000)
    store = dataclasses.replace(store, ring=dataclasses.replace(store.ring, written=jnp.array(written)))
    replay = Decaying(alpha, 1000)
    np.testing.assert_allclose(replay.share(store), share, rtol=1e-6)
    indices, weight = replay.indices((), store, KEY, 20_000)
    assert abs(float((indices < 900).mean()) - share) < 0.02
    assert int(indices.max()) < 900 + written
    assert (weight == 1).all()


def test_a_decay_that_never_ends_or_never_starts_is_refused():
    for kwargs in ({"alpha": 0.0}, {"epoch": 0}):
        with pytest.raises(ConfigError, match="Decaying"):
            Decaying(**kwargs)


# ------------------------------------------------------------------------------------------------------------- learning


class Open(PointWall):
    """The point mass without its wall, paid by the distance to the goal."""

    def step(self, action):
        step = super().step(action)
        return step._replace(reward=-math.hypot(*(step.obs - GOAL)))


def moves(n: int = 4000):
    """Uniform actions at uniform places."""
    rng, (low, high) = np.random.default_rng(0), zip(X_RANGE, Y_RANGE, strict=True)
    obs, action = rng.uniform(low, high, (n, 2)), rng.uniform(-1, 1, (n, 2))
    next_obs = np.clip(obs + REACH * action, low, high)
    distance = np.hypot(*(next_obs - GOAL).T)
    near = distance < RADII["point-wall"]
    columns = dict(obs=obs, action=action, reward=-distance, next_obs=next_obs, terminal=near, timeout=~near)
    return dataset_from_arrays(columns, "open")


@pytest.mark.slow
def test_mopo_finds_the_goal_by_imagined_rows_alone(monkeypatch):
    """At most 1 of 10 greedy episodes misses it. The straight way takes 29 steps, the data's policy none there."""
    monkeypatch.setattr(segue.tasks.point_wall, "crosses_wall", lambda *_: False)
    task = dataclasses.replace(tasks.get("point-wall"), make_env=Open, load_dataset=moves)
    sac = SAC(hidden=(64, 64), lr=1e-3, discount=0.9, target_rate=0.02, entropy_per_action=-2.0)
    models = Models(members=3, elites=2, hidden=(64, 64), max_epochs=120)
    learner = MOPO(sac, starts=1000, real_share=0.0, models=models)
    phases = (Phase("offline", learner, 5000, refit_every=250),)
    state, fixed = start(0, phases, task.spec, task.dataset)
    found = [row for _, rows in run(phases, task, state, fixed, Settings(eval_every=1000)) for row in rows]
    last = [row for row in found if row["kind"] == "evaluation" and row["mode"] == "greedy"][-1]
    assert last["extras"]["success"] >= 0.9
    assert last["length"] < 70
