"""Numbers that presets take from papers, where a recipe asks for more than a block."""

from types import SimpleNamespace

import pytest

from segue.phases import PerEpisode, PerStep
from segue.presets import cql
from segue.recipes import phases_of
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
