"""Transitions: what each hand-over keeps, resets and refuses."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import HIDDEN, SPEC, ZOO, batch_for, bc, handover, iql, sac, same, td3

from segue.errors import ConfigError, HandoverError
from segue.learners import BC, IQL, PEX, SAC, Expand, Hold
from segue.transitions import Carry, CarryPolicy, Fresh, Reset
from segue.types import Trained, core, replace, with_core

OBS = np.random.default_rng(3).normal(size=(8, 3)).astype(np.float32)
squashed = IQL(hidden=HIDDEN, head="squashed")
BASES = {"bc": bc, "iql": iql, "sac": sac, "td3": td3}


def bump(tree, by=1.0):
    """`tree` as if it had been trained: every array moved, so that carried and fresh differ."""
    return jax.tree.map(lambda x: x + jnp.asarray(by, x.dtype), tree)


@cache
def source(learner, seed=0):
    """A last state of a phase: weights of their own, moments that are not zero, counters that have counted."""
    state = learner.init(jax.random.key(100 + seed), SPEC)
    inner = core(state)
    for name, part in vars(inner).items():
        if isinstance(part, Trained):
            inner = replace(inner, **{name: Trained(bump(part.net, 0.01), bump(part.opt))})
        else:
            inner = replace(inner, **{name: bump(part, 3 if name == "step" else 0.02)})
    return with_core(state, inner)


def greedy(learner, state):
    return np.stack([learner.policy(state, o, jax.random.key(0), True) for o in OBS])


def q(state):
    return np.asarray(core(state).critic(OBS, OBS[:, :2]))


def fields(state):
    """Field names of the innermost state and of its wrappers."""
    names = []
    while hasattr(state, "base"):
        names += [n for n in state.__dataclass_fields__ if n != "base"]
        state = state.base
    return [*names, *state.__dataclass_fields__]


# ------------------------------------------------------------------------------------------------------ Fresh and Carry


@pytest.mark.parametrize("name", BASES)
def test_carry_leaves_the_greedy_action_and_everything_else(name):
    learner, old = BASES[name], source(BASES[name])
    state, report = Carry()(learner, handover(old))
    np.testing.assert_array_equal(greedy(learner, state), greedy(learner, old))
    for field in state.__dataclass_fields__:
        if field != "step":
            assert same(getattr(state, field), getattr(old, field)), field
            assert report[field] == "carried"


def test_carry_through_other_methods_keeps_what_they_share():
    old = source(squashed)
    state, report = Carry()(sac, handover(old))
    np.testing.assert_array_equal(greedy(sac, state), greedy(squashed, old))
    np.testing.assert_array_equal(q(state), q(old))
    assert same(state.target_critic, old.target_critic)
    assert report == {
        "actor": "carried", "actor optimiser": "carried", "critic": "carried", "critic optimiser": "carried",
        "target_critic": "carried", "log_alpha": "fresh", "log_alpha optimiser": "reset",
    }  # fmt: skip
    assert float(state.log_alpha.net) == 0


def test_the_phase_counter_starts_at_zero():
    assert int(source(iql).step) == 3
    state, report = Carry()(iql, handover(source(iql)))
    assert int(state.step) == 0
    assert report["step"] == "reset"


@pytest.mark.parametrize("moments", [True, False])
def test_moments_are_carried_or_reset(moments):
    old = source(sac)
    state, report = Carry(moments=moments)(sac, handover(old))
    assert same(state.critic.net, old.critic.net)
    assert same(state.critic.opt, old.critic.opt) is moments
    assert report["critic optimiser"] == ("carried" if moments else "reset")
    if not moments:
        assert all(not np.any(x) for x in jax.tree.leaves((state.critic.opt, state.log_alpha.opt)))


@pytest.mark.parametrize("name", ZOO)
def test_reports_name_every_field(name):
    learner = ZOO[name]
    h = handover(None)
    state, report = Fresh()(learner, h)
    assert set(fields(state)) <= report.keys()
    assert set(report.values()) == {"fresh"}
    state, report = Carry()(learner, handover(state))
    trained = {f"{n} optimiser" for n, part in vars(core(state)).items() if isinstance(part, Trained)}
    assert report.keys() == {*fields(state), *trained}


def test_fresh_ignores_the_source_and_follows_the_key():
    a, _ = Fresh()(sac, handover(None, seed=1))
    b, _ = Fresh()(sac, handover(source(sac), seed=1))
    c, _ = Fresh()(sac, handover(None, seed=2))
    assert same(a, b)
    assert not same(a.actor.net, c.actor.net)


@pytest.mark.parametrize("transition", [Carry(), CarryPolicy(), Reset(), Expand()], ids=lambda t: type(t).__name__)
def test_without_a_source(transition):
    learner = PEX(iql) if isinstance(transition, Expand) else iql
    with pytest.raises(HandoverError, match=r"source|Fresh"):
        transition(learner, handover(None))


@pytest.mark.parametrize(
    ("transition", "learner", "old"),
    [
        (Fresh(), sac, None),
        (Carry(), sac, sac),
        (CarryPolicy(), td3, td3),
        (Reset(Carry(), ("critic",)), sac, sac),
        (Expand(), PEX(iql), iql),
        (Fresh(), PEX(iql), None),
    ],
    ids=lambda x: type(x).__name__,
)
def test_no_two_arrays_share_a_buffer(transition, learner, old):
    """Nor with the source: a phase donates its state, and a later phase may still name that source."""
    before = None if old is None else source(old)
    state, _ = transition(learner, handover(before))
    leaves = jax.tree.leaves(state)
    pointers = [x.unsafe_buffer_pointer() for x in leaves if x.size]
    assert len(set(pointers)) == len(pointers)
    assert not set(pointers) & {x.unsafe_buffer_pointer() for x in jax.tree.leaves(before)}


# ---------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("new", "old", "net"),
    [
        (IQL(hidden=(16, 8)), iql, "actor"),  # sizes
        (sac, iql, "actor"),  # heads
        (td3, squashed, "actor"),
        (SAC(hidden=HIDDEN, n_critics=4), sac, "critic"),  # members
        (SAC(hidden=HIDDEN, layer_norm=True), sac, "critic"),  # trees
    ],
)
@pytest.mark.parametrize("transition", [Carry(), Carry(moments=False)], ids=["moments", "nets"])
def test_unequal_nets_are_refused_by_name(transition, new, old, net):
    with pytest.raises(HandoverError, match=rf"'{net}' cannot be carried.*Reset\(Carry\(\), nets=\('{net}',\)\)"):
        transition(new, handover(source(old)))


@pytest.mark.parametrize(
    ("new", "old", "net"),
    [
        (sac, iql, "actor"),
        (SAC(hidden=HIDDEN, n_critics=4), sac, "critic"),
        (PEX(SAC(hidden=HIDDEN, n_critics=4)), iql, "critic"),
    ],
)
def test_the_way_out_that_the_refusal_names(new, old, net):
    base = Expand() if isinstance(new, PEX) else Carry()
    with pytest.raises(HandoverError, match="cannot be carried"):
        base(new, handover(source(old)))
    state, report = Reset(base, (net,))(new, handover(source(old)))
    assert report[net] == report[f"{net} optimiser"] == "reset"
    assert jax.tree.structure(core(state)) == jax.tree.structure(core(new.init(jax.random.key(0), SPEC)))
    other = "critic" if net == "actor" else "actor"
    assert same(getattr(core(state), other).net, getattr(source(old), other).net) or isinstance(new, PEX)


# ------------------------------------------------------------------------------------------------- CarryPolicy, Reset


def test_carry_policy():
    old = source(squashed)
    state, report = CarryPolicy()(sac, handover(old))
    np.testing.assert_array_equal(greedy(sac, state), greedy(squashed, old))
    assert not np.allclose(q(state), q(old))
    assert same(state.target_critic, state.critic.net)
    assert all(not np.any(x) for x in jax.tree.leaves(state.actor.opt))
    assert (report["actor"], report["actor optimiser"], report["critic"]) == ("carried", "reset", "reset")
    state, report = CarryPolicy(moments=True)(sac, handover(old))
    assert same(state.actor.opt, old.actor.opt)


def test_carry_policy_starts_a_missing_target_at_the_actor():
    deterministic = BC(hidden=HIDDEN, head="deterministic")
    state, report = CarryPolicy()(td3, handover(source(deterministic)))
    assert same(state.target_actor, state.actor.net)
    assert same(state.actor.net, source(deterministic).actor.net)
    assert report["target_actor"] == "copied from actor"


def test_carry_policy_keeps_a_target_that_there_is():
    old = source(td3)
    state, report = CarryPolicy()(td3, handover(old))
    assert same(state.target_actor, old.target_actor)
    assert not same(state.target_actor, state.actor.net)
    assert report["target_actor"] == "carried"


def test_reset_draws_the_named_nets_with_targets_and_moments():
    old = source(iql)
    state, report = Reset(Carry(), ("critic",))(iql, handover(old))
    assert same(state.actor, old.actor)
    assert same(state.value, old.value)
    assert not np.allclose(q(state), q(old))
    assert same(state.target_critic, state.critic.net)
    assert all(not np.any(x) for x in jax.tree.leaves(state.critic.opt))
    assert [report[n] for n in ("critic", "target_critic", "critic optimiser")] == ["reset"] * 3
    assert [report[n] for n in ("actor", "value", "actor optimiser")] == ["carried"] * 3


def test_a_reset_net_is_not_the_one_the_source_began_with():
    state, _ = Reset(Carry(), ("critic",))(iql, handover(source(iql), seed=7))
    assert not same(state.critic.net, iql.init(jax.random.key(7), SPEC).critic.net)


@pytest.mark.parametrize("name", ["critics", "target_critic"])
def test_reset_of_an_unknown_net(name):
    with pytest.raises(ConfigError, match=f"IQL has no net '{name}'; did you mean 'critic'"):
        Reset(Carry(), (name,))(iql, handover(source(iql)))


def test_hold_of_an_unknown_net():
    with pytest.raises(ConfigError, match="Hold: SAC has no net 'aktor'; did you mean 'actor'"):
        Carry()(Hold(sac, ("aktor",)), handover(source(sac)))


def test_hold_is_transparent():
    old = source(sac)
    state, _ = Carry()(Hold(sac, ("actor",)), handover(old))
    assert same(core(state), old)
    back, _ = Carry()(sac, handover(state))
    assert same(back, old)


# -------------------------------------------------------------------------------------------------------------- Expand


@pytest.mark.parametrize(("learner", "old"), [(PEX(iql), iql), (PEX(sac), iql), (PEX(td3), td3)])
def test_expand_keeps_q_and_freezes_the_policy(learner, old):
    before = source(old)
    state, report = Expand()(learner, handover(before))
    np.testing.assert_array_equal(q(state), q(before))
    assert same(core(state).target_critic, before.target_critic)
    assert len(state.members) == 1
    assert same(state.members[0], before.actor.net)
    assert all(not np.any(x) for x in jax.tree.leaves(core(state).critic.opt))
    assert report["critic"] == "carried"
    assert report["members[0]"] == "frozen"
    assert report["actor"] in ("fresh", "reset")
    fresh = learner.init(jax.random.key(7), SPEC)
    assert same(core(state).actor.net, core(fresh).actor.net)


def test_expand_with_moments():
    state, report = Expand(moments=True)(PEX(iql), handover(source(iql)))
    assert same(core(state).critic.opt, source(iql).critic.opt)
    assert report["critic optimiser"] == "carried"


@pytest.mark.parametrize("held", [False, True], ids=["", "held"])
def test_the_set_grows(held):
    two, _ = Expand()(PEX(iql), handover(source(iql)))
    middle = two
    if held:  # a phase of Hold(PEX(...)) between the two
        middle, _ = Carry()(Hold(PEX(iql), ("actor",)), handover(two))
    three, report = Expand()(PEX(iql), handover(middle, seed=8))
    assert len(three.members) == 2
    assert same(three.members[0], source(iql).actor.net)
    assert same(three.members[1], core(two).actor.net)
    assert [report[f"members[{i}]"] for i in range(2)] == ["frozen"] * 2
    np.testing.assert_array_equal(q(three), q(two))
    after, _ = jax.jit(PEX(iql).update)(three, batch_for(iql), jax.random.key(0))
    assert jax.tree.structure(after) == jax.tree.structure(three)
    assert same(after.members, three.members)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (PEX(iql), PEX(iql)),
        (PEX(iql), Hold(PEX(iql), ("actor",))),
        (Hold(PEX(iql), ("actor",)), PEX(iql)),
        (PEX(Hold(iql, ("value",))), PEX(iql)),
        (PEX(iql), PEX(Hold(iql, ("value",)))),
    ],
    ids=["same", "held next", "held before", "inner hold before", "inner hold next"],
)
def test_carry_keeps_the_set(first, second):
    two, _ = Expand()(PEX(iql), handover(source(iql)))
    state, _ = Carry()(first, handover(two))
    state, report = Carry()(second, handover(state, seed=9))
    assert report["members"] == "carried"
    np.testing.assert_array_equal(greedy(second, state), greedy(PEX(iql), two))


def test_expand_makes_sets_only():
    with pytest.raises(HandoverError, match="not of IQL"):
        Expand()(iql, handover(source(iql)))


def test_expand_refuses_a_learner_without_critic_by_name():
    with pytest.raises(HandoverError, match="BC has none"):
        Expand()(PEX(bc), handover(source(bc)))


def test_expand_refuses_other_critics():
    with pytest.raises(HandoverError, match="'critic' cannot be carried"):
        Expand()(PEX(SAC(hidden=HIDDEN, n_critics=4)), handover(source(iql)))


def test_a_carried_net_takes_the_new_phases_dropout():
    old = source(BC(hidden=HIDDEN, dropout=0.5))
    state, report = Carry()(bc, handover(old))
    assert report["actor"] == "carried"
    assert state.actor.net.net.dropout == 0.0
    np.testing.assert_array_equal(greedy(bc, state), greedy(bc, old))
