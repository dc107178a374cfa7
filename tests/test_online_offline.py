"""APL's buffer: which rows a batch is of, when, how often, and what its weight does to a learner."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare
from test_phases import dataset as phase_data
from test_phases import follow
from test_store import SPEC, dataset, filled, row
from zoo import ROWS, batch_for, calql, close, cql, gcql, redq, same
from zoo import SPEC as ZOO_SPEC

from segue.errors import ConfigError
from segue.losses import Mean, RandomMin
from segue.optim import CHUNKS, chunks, descend, trained
from segue.phases import Block, Phase, Settings, Work, draw_rows
from segue.recipes import phases_of
from segue.replays import OnlineOffline
from segue.store import Affine, make_store
from segue.types import Learner, Trained

KEY = jax.random.key(0)
KEYS = jax.random.split(KEY, 400)
OFFLINE, CAPACITY = 6, 8
buffer = OnlineOffline(p=0.5, recent=4, after=2)


def store_of(offline, online):
    data = dataset(np.zeros(offline)) if offline else None
    return filled(make_store(SPEC, data, CAPACITY), [row(i) for i in range(online)])


def draw(replay, store, n=16):
    """Indices and weights ``[400, n]`` of 400 draws."""
    indices, weight = jax.jit(jax.vmap(lambda k: replay.indices((), store, k, n)))(KEYS)
    return np.asarray(indices), np.asarray(weight)


def newest(online):
    """Rows of the four newest in a ring of eight."""
    return {OFFLINE + i % CAPACITY for i in range(online - 4, online)}


@pytest.mark.parametrize("online", [5, 8, 11, 18])
def test_a_batch_is_of_the_newest_rows_alone_or_of_the_union(online):
    indices, weight = draw(buffer, store_of(OFFLINE, online))
    greedy = weight[:, 0] == 0
    np.testing.assert_array_equal(weight, np.where(greedy, 0.0, 1.0)[:, None] * np.ones(16))  # one W a batch
    assert set(indices[greedy].ravel().tolist()) == newest(online)
    union = indices[~greedy].ravel()
    assert set(union.tolist()) == set(range(OFFLINE + min(online, CAPACITY)))
    assert chisquare(np.bincount(union)).pvalue > 1e-4
    assert chisquare(np.bincount(indices[greedy].ravel())[sorted(newest(online))]).pvalue > 1e-4


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 1.0])
def test_batches_are_greedy_with_probability_p(p):
    """400 draws: 4 standard deviations."""
    greedy = (draw(replace(buffer, p=p), store_of(OFFLINE, 8))[1][:, 0] == 0).sum()
    assert abs(greedy - 400 * p) <= 4 * np.sqrt(400 * p * (1 - p))


def test_the_switch_of_a_batch_is_its_key_s():
    a, b = (draw(replace(buffer, p=p), store_of(OFFLINE, 8)) for p in (0.5, 1.0))
    greedy = a[1][:, 0] == 0
    np.testing.assert_array_equal(a[0][greedy], b[0][greedy])


@pytest.mark.parametrize(("online", "drawn"), [(0, False), (1, False), (2, False), (3, True)])
def test_newest_rows_are_drawn_once_there_are_more_than_enough(online, drawn):
    _, weight = draw(replace(buffer, p=1.0), store_of(OFFLINE, online))
    np.testing.assert_array_equal(weight, 0.0 if drawn else 1.0)


def test_a_buffer_too_small_to_be_drawn_from_never_is():
    _, weight = draw(OnlineOffline(1.0, recent=4, after=4), store_of(OFFLINE, 8))
    np.testing.assert_array_equal(weight, 1.0)


def test_without_a_dataset_both_sides_are_online():
    indices, weight = draw(buffer, store_of(0, 11))
    assert set(weight.ravel().tolist()) == {0.0, 1.0}
    assert indices.min() == 0
    assert indices.max() == CAPACITY - 1


def test_every_slice_has_a_switch_of_its_own():
    """The switch is per mini-batch (methods_b 7.2), and a critic step takes a slice."""
    work = Work(redq, buffer, None, Affine(), 16)
    _, weight = jax.vmap(lambda k: draw_rows(work, (), store_of(OFFLINE, 8), k))(KEYS)
    slices = np.asarray(weight).reshape(400, 3, 16)
    np.testing.assert_array_equal(slices, slices[:, :, :1] * np.ones(16))
    assert len({tuple(s) for s in slices[:, :, 0].tolist()}) == 8  # every combination


def test_the_weight_reaches_the_batch():
    store = store_of(OFFLINE, 8)
    for p, w in ((0.0, 1.0), (1.0, 0.0)):
        indices, weight = replace(buffer, p=p).indices((), store, KEY, 8)
        np.testing.assert_array_equal(store.at(indices, Affine(), weight).weight, w)


@dataclass(frozen=True)
class Weigher(Learner):
    """Learns nothing; its metric is the mean weight of its rows."""

    def init(self, key, spec):
        return Trained(jnp.zeros(1), ())

    def update(self, state, batch, key):
        return state, {"weight": batch.weight.mean()}

    def policy(self, state, obs, key, greedy=False):
        return jnp.zeros(1)


@pytest.mark.parametrize(("p", "weight"), [(0.0, 1.0), (1.0, 0.0)])
def test_the_weight_goes_through_the_loop(p, weight):
    """From the third row on all batches are of the newest rows where p is 1; offline never."""
    replay = OnlineOffline(p, recent=4, after=2)
    phases = (
        Phase("offline", Weigher(), 4, replay=replay, batch_size=8),
        Phase("online", Weigher(), 12, online=True, replay=replay, batch_size=8, updates=Block(4, 4)),
    )
    rows = follow(*phases, data=phase_data(), settings=Settings(eval_episodes=0, log_every=4))[1]
    seen = {(r["phase"], r["step"]): r["metrics"]["weight"] for r in rows if r["kind"] == "train"}
    assert seen["offline", 4] == 1.0
    assert seen["online", 12] == weight


@pytest.mark.parametrize(("field", "value"), [("p", -0.1), ("p", 1.5), ("recent", 0), ("after", -1)])
def test_a_value_out_of_range_is_named(field, value):
    with pytest.raises(ConfigError, match=rf"OnlineOffline\.{field} lies in"):
        OnlineOffline(**{field: value})


# ------------------------------------------------------------------------------------------------ what a learner does


def updated(learner, weight):
    state = learner.init(KEY, ZOO_SPEC)
    return jax.jit(learner.update)(state, batch_for(learner, weight=weight), KEY)


@pytest.mark.parametrize("learner", [cql, gcql], ids=["cql", "gcql"])
def test_rows_of_weight_0_are_learnt_from_without_pessimism(learner):
    """W = 0 everywhere: the critics' step is that of the squared error alone, the policy's is the same as ever."""
    (greedy, info), (plain, _) = updated(learner, np.zeros(ROWS)), updated(replace(learner, weight=0.0), np.ones(ROWS))
    assert same(greedy, plain)
    assert float(info["critic/penalty"]) == 0.0
    pessimistic, _ = updated(learner, np.ones(ROWS))
    assert same(pessimistic.actor, greedy.actor)
    assert not same(pessimistic.critic, greedy.critic)


def test_half_the_rows_count_half():
    """The gradient is linear in W."""
    half = np.arange(ROWS) < ROWS // 2
    a, b, both, none = (updated(cql, w)[0].critic.opt.mu for w in (half, ~half, np.ones(ROWS), np.zeros(ROWS)))
    close(jax.tree.map(lambda a, b, n: a + b - n, a, b, none), both, rtol=2e-5, atol=2e-6)


def test_without_pessimism_the_dual_variable_stands_still():
    state, info = updated(calql, np.zeros(ROWS))
    assert float(state.log_dual.net) == 1.0
    assert float(info["critic/excess"]) == 0.0
    assert float(info["critic/gap"]) > 0  # still measured


def test_gcql_has_the_authors_numbers():
    """methods_b 7.2 and 7.3."""
    task = SimpleNamespace(family="locomotion", name="x", load_dataset=object())
    offline, online = phases_of("gcql", task)
    assert (offline.steps, online.steps) == (100_000, 100_000)
    learner = online.learner
    assert learner == offline.learner
    assert (learner.n_critics, learner.backup, learner.improve) == (5, RandomMin(2), Mean())
    assert (learner.weight, learner.gap, learner.samples, learner.backup_entropy) == (5.0, None, 10, False)
    assert learner.hidden == learner.critic_hidden == (256, 256, 256)
    assert (learner.lr, learner.actor_lr, learner.discount, learner.entropy_per_action) == (3e-4, 1e-4, 0.99, -1.0)
    assert online.replay == OnlineOffline(p=0.5, recent=20_000, after=10_000)
    assert online.updates == Block(1000, 10_000)
    assert phases_of("gcql", task, 10, 1_000_000)[1].updates == Block(1000, 10_000)
    short = phases_of("gcql", task, 10, 300)[1]  # the same shape
    assert (short.replay, short.updates) == (OnlineOffline(0.5, 60, 30), Block(3, 30))


def test_gcql_takes_cql_s_numbers_where_the_paper_has_none():
    (a, on), (b, _) = (
        phases_of(m, SimpleNamespace(family="antmaze", name="x", load_dataset=object()), 10, 10)
        for m in ("gcql", "cql")
    )
    assert replace(a.learner, n_critics=2, backup=b.learner.backup, improve=b.learner.improve) == b.learner
    assert a.reward == b.reward == on.reward


# ---------------------------------------------------------------------------------------------- gradients part by part


def loss(net, x, y):
    error = (x @ net - y) ** 2  # y [2, B]: its batch axis is the last
    return error.mean(), {"a/error": error.mean()}


@pytest.mark.parametrize(("rows", "parts"), [(32, 8), (12, 4), (7, 1)])
def test_a_gradient_in_parts_is_that_of_the_whole(rows, parts, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert chunks(rows) == parts
    x, y = np.random.default_rng(0).normal(size=(rows, 3)), np.random.default_rng(1).normal(size=(2, rows))
    with jax.enable_x64(True):
        state = trained(jnp.arange(3.0))
        step = jax.jit(lambda *rows: descend(0.1, state, loss, *rows, axes=(0, -1)))
        whole = descend(0.1, state, lambda net: loss(net, jnp.asarray(x), jnp.asarray(y)))
        close(step(x, y), whole, rtol=1e-12, atol=1e-14)


def test_gradients_are_computed_in_parts_on_a_cpu_only(monkeypatch):
    assert chunks(256) == (CHUNKS if jax.default_backend() == "cpu" else 1)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert chunks(256) == 1
