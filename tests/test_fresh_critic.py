"""Which critic the interaction begins with: the pre-trained, a random one, one learnt anew first, another run's."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest
import zoo
from test_phases import SPEC, Task, dataset

import segue
import segue.runs.run as runs
from segue.errors import ConfigError, HandoverError
from segue.learners import Hold
from segue.phases import PerStep, Phase, Settings, run, start
from segue.recipes import phases_of
from segue.replays import Symmetric
from segue.runs.files import pack_state
from segue.tasks import get
from segue.transitions import Carry, Reset
from segue.types import core

REDQ = replace(zoo.redq_authors, critic_updates=1)  # one step an update: compiled sooner
KEPT = ("actor", "log_alpha")
NEW_CRITIC = Reset(Carry(), ("critic",))
OFFLINE = Phase("offline", REDQ, 12, batch_size=8)
ONLINE = Phase("online", REDQ, 6, online=True, transition=Carry(), batch_size=8, updates=PerStep(1))
BURN_IN = replace(ONLINE, name="burn-in", learner=Hold(REDQ, KEPT), transition=NEW_CRITIC, replay=Symmetric(0.0))


def ends(*phases: Phase) -> tuple[dict, dict]:
    """The learner's state at each phase's beginning and at its end, copied to the host."""
    first, fixed = start(0, phases, SPEC, dataset())
    begins, finals, entered = {}, {}, False
    for state, _ in run(phases, Task(), first, fixed, Settings(eval_episodes=0)):
        if state.phase < len(phases) and state.entered and not entered:
            begins[phases[state.phase].name] = jax.tree.map(np.array, core(state.learner))
        if entered and not state.entered:
            finals[phases[state.phase - 1].name] = jax.tree.map(np.array, core(state.learner))
        entered = state.entered
    return begins, finals


def test_the_pretrained_critic():
    begins, finals = ends(OFFLINE, ONLINE)
    for net in ("critic", "target_critic", *KEPT):
        assert zoo.same(getattr(begins["online"], net), getattr(finals["offline"], net))


def test_a_random_critic():
    begins, finals = ends(OFFLINE, replace(ONLINE, transition=NEW_CRITIC))
    new, old = begins["online"], finals["offline"]
    assert all(zoo.same(getattr(new, net), getattr(old, net)) for net in KEPT)
    assert not zoo.same(new.critic.net, old.critic.net)
    assert zoo.same(new.target_critic, new.critic.net)
    assert not any(np.any(x) for x in jax.tree.leaves(new.critic.opt))
    assert not zoo.same(finals["online"].actor, new.actor)  # which then learns by it


def test_a_critic_learnt_anew_in_the_environment_before_the_policy_moves():
    begins, finals = ends(OFFLINE, BURN_IN, ONLINE)
    new, learnt, old = begins["burn-in"], finals["burn-in"], finals["offline"]
    assert not zoo.same(new.critic.net, old.critic.net)
    assert not zoo.same(learnt.critic.net, new.critic.net)
    assert not zoo.same(learnt.target_critic, new.target_critic)
    assert all(zoo.same(getattr(learnt, net), getattr(old, net)) for net in KEPT)
    for net in ("critic", "target_critic", *KEPT):
        assert zoo.same(getattr(begins["online"], net), getattr(learnt, net))


def test_the_critic_of_another_run(tmp_path):
    """`--from`: the second run begins behind the first one's pre-training, by a boundary and phases of its own."""
    task, settings = get("point-wall"), Settings(eval_episodes=0)
    tiny = lambda p: replace(p, learner=REDQ, batch_size=8, updates=PerStep(1))
    offline, online = (tiny(p) for p in phases_of("redq-offline", task, 20, 6))
    config = lambda phases: runs.make_config("m", task, phases, 3, settings, [])
    quiet = {"say": lambda _: None}
    runs.create(tmp_path / "one", config((offline, online)))
    assert runs.execute(tmp_path / "one", **quiet)[1]
    burn_in = replace(BURN_IN, transition=Carry())
    runs.create(tmp_path / "two", config((offline, burn_in, online)), source=tmp_path / "one")
    state, finished = runs.execute(tmp_path / "two", **quiet)
    assert finished
    learner = lambda folder, i, name: runs.read_finished(runs.phase_file(tmp_path / folder, i, name)).parts.learner
    before, after = learner("one", 0, "offline"), core(learner("two", 1, "burn-in"))
    assert pack_state(before) == pack_state(learner("two", 0, "offline"))
    assert all(zoo.same(getattr(before, net), getattr(after, net)) for net in KEPT)
    assert not zoo.same(before.critic, after.critic)
    assert not zoo.same(state.learner.actor, before.actor)


def test_the_critic_of_another_task():
    """Lent to a first phase, which takes its critic alone; the lent arrays stay whole."""
    lent, spec = REDQ.init(jax.random.key(9), SPEC), Task.spec
    first = replace(ONLINE, source="elsewhere", transition=Reset(Carry(), KEPT))
    begin, fixed = start(0, (first,), spec, dataset(), {"elsewhere": lent})
    before, seen = jax.tree.map(np.array, lent), []
    for state, _ in run((first,), Task(), begin, fixed, Settings(eval_episodes=0)):
        seen += [jax.tree.map(np.array, state.learner)] if state.entered else []
    assert zoo.same(seen[0].critic, before.critic)
    assert zoo.same(seen[0].target_critic, before.target_critic)
    assert not zoo.same(seen[0].actor.net, before.actor.net)
    assert not zoo.same(seen[-1].critic, before.critic)
    assert zoo.same(lent, before)
    with pytest.raises(HandoverError, match="'critic' cannot be carried"):
        start(0, (first,), spec._replace(obs_dim=4), None, {"elsewhere": lent})
    with pytest.raises(ConfigError, match="is no earlier phase; earlier: "):
        start(0, (first,), spec, dataset())
    with pytest.raises(ConfigError, match="need different names"):
        start(0, (first,), spec, dataset(), {"online": lent})
    with pytest.raises(ConfigError, match="leave `out` out"):
        segue.train((first,), task="point-wall", lend={"elsewhere": lent}, out="never")
    with pytest.raises(ConfigError, match=r"\['nobody'\] are the source of no phase"):
        start(0, (first,), spec, dataset(), {"elsewhere": lent, "nobody": lent})
    with pytest.raises(ConfigError, match=r"no states of learners; give the result's `state`"):
        start(0, (first,), spec, dataset(), {"elsewhere": object()})


METHODS = ("cql", "calql", "calql-uniform", "calql-episodic", "gcql", "o3f", "cql-br", "off2on", "upq")
METHODS += ("iql", "pex", "redq-offline")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_may_go_online_with_a_new_critic_and_after_a_burn_in(method):
    task = get("point-wall")
    offline, online = phases_of(method, task, 20, 20)
    anew = replace(online, transition=Reset(online.transition, ("critic",)))
    start(0, (offline, anew), task.spec, task.dataset)
    learner = online.learner
    held = Hold(learner.base if method == "pex" else learner, KEPT[:1] if method in ("iql", "pex") else KEPT)
    burn_in = replace(anew, name="burn-in", learner=replace(learner, base=held) if method == "pex" else held)
    start(0, (offline, burn_in, replace(online, transition=Carry())), task.spec, task.dataset)


def test_a_critic_that_does_not_fit_is_refused_before_the_first_phase():
    larger = replace(REDQ, n_critics=6)
    with pytest.raises(HandoverError, match=r"'critic' cannot be carried.*Reset\(Carry\(\), nets=\('critic',\)\)"):
        start(0, (OFFLINE, replace(ONLINE, learner=larger)), SPEC, dataset())
    start(0, (OFFLINE, replace(ONLINE, learner=larger, transition=NEW_CRITIC)), SPEC, dataset())
