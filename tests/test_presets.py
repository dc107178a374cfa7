"""Numbers that presets take from papers, where a recipe asks for more than a block."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from segue.errors import ConfigError
from segue.learners import CQL
from segue.losses import Mean, MeanOfPairMinMinusStd, OwnPairMin, RandomMin
from segue.phases import Block, PerEpisode, PerStep
from segue.presets import cql, preset, rlpd
from segue.recipes import phases_of
from segue.replays import Balanced, Symmetric, Uniform
from segue.store import Affine


def task(family, name="x"):
    return SimpleNamespace(family=family, name=name, load_dataset=object())


@pytest.mark.parametrize(
    ("family", "name", "paid"),
    [
        ("antmaze", "antmaze-umaze", (0, 1)),
        ("maze2d", "maze2d-umaze", (0, 1)),
        ("point-wall", "point-wall", (0, 1)),
        ("ogbench", "cube-single-play", (-1, 0)),
        ("adroit", "pen-binary", (-1, 0)),
        ("adroit", "pen-binary-continuing", (-1, 0)),
    ],
)
def test_sparse_rewards_become_minus_five_and_five(family, name, paid):
    """methods_a 5.7; and endless failure is worth -5 / (1 - 0.99)."""
    reward = cql.reward(task(family, name))
    assert [reward(r) for r in paid] == [-5, 5]
    assert reward.failure == paid[0]
    assert float(reward.endless(0.99)) == pytest.approx(-500, rel=1e-4)


@pytest.mark.parametrize(
    ("family", "name"), [("locomotion", "x"), ("adroit", "pen"), ("kitchen", "x"), ("custom", "x")]
)
def test_other_rewards_stay(family, name):
    assert cql.reward(task(family, name)) == Affine()


def test_conservative_recipes_differ_in_bound_and_schedule_only():
    of = lambda name: phases_of(name, task("antmaze"), 10, 10)
    (off, on), (cal_off, cal_on) = of("cql"), of("calql")
    assert (on.replay.offline, on.updates, on.reward) == (0.5, PerStep(), off.reward)
    assert (cal_off.learner.bound.uniform, of("calql-uniform")[1].learner.bound.uniform) == (False, True)
    assert of("calql-episodic")[1].updates == PerEpisode(per_step=1)
    assert cal_on.learner.gap == off.learner.gap == 0.8
    assert phases_of("calql", task("kitchen"), 10, 10)[1].replay.offline == 0.25


def test_redq_is_the_authors():
    """methods_b 4: 10 critics, 2 backed up, all improved, 20 updates a step, target entropy by environment."""
    (phase,) = phases_of("redq", task("locomotion", "halfcheetah"), online_steps=100_000)
    learner = phase.learner
    assert (learner.n_critics, learner.backup, learner.improve, learner.slices) == (10, RandomMin(2), Mean(), 20)
    assert (learner.lagged_critic, learner.entropy_by_log, learner.layer_norm) == (True, True, False)
    assert (phase.updates, phase.replay, phase.warmup.steps) == (PerStep(20), Symmetric(0.0), 5000)
    assert phases_of("redq", task("antmaze"))[0].reward == phases_of("redq-offline", task("antmaze"))[0].reward
    assert -6 * learner.entropy_per_action == 3
    assert preset("redq", task("locomotion", "hopper-medium"))["entropy_per_action"] * 3 == pytest.approx(-1)
    offline, online = phases_of("redq-offline", task("locomotion"), 200, 100)
    assert offline.learner == online.learner == learner
    assert online.replay == Uniform()


@pytest.mark.parametrize(
    ("family", "members", "entropy", "depth", "paid"),
    [
        ("locomotion", 2, True, 2, 1),
        ("antmaze", 1, False, 3, 0),
        ("point-wall", 1, False, 3, 0),
        ("adroit", 2, False, 3, 1),
        ("ogbench", 1, False, 3, 1),
        ("custom", 2, True, 2, 1),
    ],
)
def test_rlpd_by_family(family, members, entropy, depth, paid):
    """methods_a 6.1; `paid` is what a reward of 1 becomes."""
    (phase,) = phases_of("rlpd", task(family), online_steps=100_000)
    learner = phase.learner
    assert (learner.backup, learner.backup_entropy, len(learner.hidden)) == (RandomMin(members), entropy, depth)
    assert (learner.n_critics, learner.layer_norm, learner.improve, learner.slices) == (10, True, Mean(), 20)
    assert (learner.entropy_per_action, learner.lagged_critic) == (-0.5, False)
    assert (phase.replay, phase.updates, phase.batch_size) == (Symmetric(0.5), PerStep(20), 256)
    assert (phase.warmup.steps, phase.warmup.actions) == (5000, "uniform")
    assert rlpd.reward(task(family))(1.0) == paid


@pytest.mark.parametrize("method", ["rlpd", "sac-data", "redq"])
def test_from_scratch_there_is_no_offline_phase(method):
    with pytest.raises(ConfigError, match=f"{method} has no offline phase.*Use (redq-offline|cql or calql)"):
        phases_of(method, task("locomotion"), offline_steps=20)


def test_half_of_a_batch_from_no_dataset_is_refused():
    bare = SimpleNamespace(family="locomotion", name="hopper", load_dataset=None)
    for method in ("rlpd", "sac-data"):
        with pytest.raises(ConfigError, match="learns from data, and the task 'hopper' has none"):
            phases_of(method, bare)
    assert phases_of("redq", bare)


def test_sac_with_data_is_cql_without_its_regulariser_and_pretraining():
    (phase,) = phases_of("sac-data", task("antmaze"))
    online = phases_of("cql", task("antmaze"))[1]
    assert (phase.replay, phase.reward) == (online.replay, online.reward)
    assert phase.learner.entropy_by_log  # L_α of CQL's page
    same = ("n_critics", "backup", "improve", "backup_entropy", "entropy_per_action", "hidden", "critic_hidden", "lr")
    assert all(getattr(phase.learner, f) == getattr(online.learner, f) for f in same)
    assert phases_of("sac-data", task("kitchen"))[0].replay == Symmetric(0.25)


def test_o3f_begins_with_cql():
    cql_offline, cql_online = phases_of("cql", task("antmaze"), 10, 10)
    offline, online = phases_of("o3f", task("antmaze"), 10, 10)
    assert online.learner.base == offline.learner  # the same objective in both
    assert (offline.learner.n_critics, offline.learner.layer_norm) == (5, True)
    assert (online.learner.candidates, online.learner.noise, online.learner.score) == (100, 0.2, Mean())
    assert (offline.learner.gap, online.replay) == (cql_offline.learner.gap, cql_online.replay)


def test_upq_is_off2onrl_with_another_target():
    """methods_b 6: one target for all, the mean less beta deviations."""
    (offline, online), (same, other) = (phases_of(name, task("antmaze"), 10, 10) for name in ("upq", "off2on"))
    assert offline == same
    assert (online.learner.backup, other.learner.backup) == (MeanOfPairMinMinusStd(0.001), OwnPairMin())
    assert replace(online, learner=replace(online.learner, backup=OwnPairMin())) == other


def test_off2onrl():
    """methods_b 5.2 to 5.5: five agents, ten critics, blocks of 1000, ten times as many updates in the first."""
    offline, online = phases_of("off2on", task("locomotion"), 1000, 100_000)
    assert (offline.learner.n, offline.learner.base, offline.steps) == (5, CQL(weight=5.0), 1000)
    assert (online.learner.n_actors, online.learner.n_critics, online.learner.lr) == (5, 10, 3e-4)
    assert online.replay == Balanced(online=0.75, first=1000, temperature=5.0)
    assert online.updates == Block(1000, 1000, opening=10)
    assert online.learner.entropy_by_log  # as in the pre-training
    short = phases_of("off2on", task("locomotion"), 1000, 300)[1]
    assert (short.replay.first, short.updates) == (30, Block(30, 30, opening=10))


@pytest.mark.parametrize("family", ["locomotion", "antmaze", "adroit", "kitchen"])
def test_a_single_agent_is_pre_trained_as_cql_is(family):
    (offline, _), (same, online) = (phases_of(name, task(family), 10, 10) for name in ("cql", "cql-br"))
    assert same == offline
    assert (online.learner.hidden, online.learner.critic_hidden) == (
        offline.learner.hidden,
        offline.learner.critic_hidden,
    )
    assert online.reward == offline.reward
    assert online.learner.entropy_by_log
