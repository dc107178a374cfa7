"""Laws that every learner keeps, and the sharper ones of each."""

from dataclasses import fields, replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import (
    HIDDEN,
    PLAIN,
    ROWS,
    SPEC,
    WRAPPED,
    ZOO,
    batch_for,
    bc,
    calql,
    close,
    cql,
    handover,
    iql,
    make_batch,
    pairs,
    redq,
    redq_authors,
    sac,
    same,
    td3,
    upq,
)

from segue import losses
from segue import types as segue_types
from segue.dynamics import Pool
from segue.errors import ConfigError, HandoverError
from segue.learners import BC, CQL, IQL, O3F, PEX, SAC, TD3, Expand, Hold, Standardise
from segue.types import Module, Trained, core, split, with_core

KEY = jax.random.key(5)
OBS = jnp.asarray(np.random.default_rng(3).normal(size=(8, 3)), jnp.float32)
slow = pytest.mark.slow

SOME = [*PLAIN, *(pytest.param(name, marks=slow) for name in WRAPPED)]  # all of them only in the slow set


@cache
def step_of(learner):
    return jax.jit(learner.update)


@cache
def state_of(learner, seed=0):
    """An initial state whose targets differ from their nets, so that mixing them up shows."""
    state = learner.init(jax.random.key(seed), SPEC)
    if hasattr(state, "imagined"):  # rows of zeros have no variance, and norms of them are rounding
        pool = state.imagined
        rows = jax.random.normal(jax.random.key(seed + 1), pool.rows.shape)
        state = segue_types.replace(state, imagined=Pool(rows, jnp.asarray(len(rows), pool.written.dtype)))
    inner = core(state)
    targets = {n: jax.tree.map(lambda x: 0.9 * x + 0.01, t) for n, t in vars(inner).items() if n.startswith("target_")}
    return with_core(state, segue_types.replace(inner, **targets)) if targets else state


@cache
def updated(learner):
    """State and metrics after one update."""
    return step_of(learner)(state_of(learner), batch_for(learner), KEY)


def nets_of(state):
    return {n: part.net if isinstance(part, Trained) else part for n, part in vars(core(state)).items()}


# ---------------------------------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", ZOO)
def test_update_keeps_tree_shapes_and_types(name):
    learner = ZOO[name]
    before = jax.eval_shape(partial(learner.init, spec=SPEC), KEY)
    after, info = jax.eval_shape(learner.update, before, batch_for(learner), KEY)
    assert jax.tree.structure(after) == jax.tree.structure(before)
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True):
        assert (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, b.weak_type)
        assert not a.weak_type  # else the first program is compiled once more for the states that it makes
    assert info
    for key, metric in info.items():
        assert metric.shape == (), key
        assert "/" in key


@pytest.mark.parametrize("name", ZOO)
def test_update_is_finite_and_repeatable(name):
    learner = ZOO[name]
    state, info = updated(learner)
    again = step_of(learner)(state_of(learner), batch_for(learner), KEY)
    assert same((state, info), again)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((state, info)))


@pytest.mark.parametrize("name", ["sac", "redq", "td3", "cql", "pex(iql)", "pex(sac)"])
def test_the_key_matters(name):
    other, _ = step_of(ZOO[name])(state_of(ZOO[name]), batch_for(ZOO[name]), jax.random.key(6))
    assert not same(other, updated(ZOO[name])[0])


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in ("bc", "td3") else slow) for n in ZOO])
def test_without_jit(name):
    learner = ZOO[name]
    with jax.disable_jit():
        state, info = learner.update(state_of(learner), batch_for(learner), KEY)
    close((state, info), updated(learner))


@pytest.mark.parametrize("name", SOME)
def test_seeds_at_once_are_seeds_one_by_one(name):
    learner = ZOO[name]
    states = [state_of(learner, 0), state_of(learner, 1)]
    batches = [batch_for(learner), batch_for(learner, seed=1)]
    keys = jax.random.split(jax.random.key(9), 2)
    stack = lambda trees: jax.tree.map(lambda *x: jnp.stack(x), *trees)
    together = jax.jit(jax.vmap(learner.update))(stack(states), stack(batches), keys)
    for i in range(2):
        one = step_of(learner)(states[i], batches[i], keys[i])
        close(jax.tree.map(lambda x, i=i: x[i], together), one)


HELD = {
    "cql": {"log_dual"},
    "o3f(cql)": {"log_dual"},
    "gcql": {"log_dual"},
    "many(cql)": {"log_dual"},
    "hold(sac, actor)": {"actor"},
    "hold(iql, critic)": {"critic", "target_critic"},
    "pex(hold(iql, value))": {"value"},
}


@pytest.mark.parametrize("name", ZOO)
def test_only_the_nets_named_move(name):
    before, (after, _) = core(state_of(ZOO[name])), updated(ZOO[name])
    after, held = core(after), HELD.get(name, set())
    for field in before.__dataclass_fields__:
        if field in held:
            assert same(getattr(after, field), getattr(before, field)), field
        else:
            assert not same(getattr(after, field), getattr(before, field)), field


@pytest.mark.parametrize("name", ["hold(sac, actor)", "hold(iql, critic)"])
def test_hold_changes_nothing_else(name):
    learner = ZOO[name]
    held, free = core(updated(learner)[0]), updated(learner.base)[0]
    for field in set(free.__dataclass_fields__) - HELD[name]:
        close(getattr(held, field), getattr(free, field))


@pytest.mark.parametrize("name", WRAPPED)
def test_core_of_a_wrapper_is_its_base(name):
    learner = inner = WRAPPED[name]
    while hasattr(inner, "base"):
        inner = inner.base
    wrapped = jax.eval_shape(partial(learner.init, spec=SPEC), KEY)
    assert jax.tree.structure(core(wrapped)) == jax.tree.structure(jax.eval_shape(partial(inner.init, spec=SPEC), KEY))
    assert (learner.discount, learner.stride) == (inner.discount, inner.stride)


@pytest.mark.parametrize("name", ZOO)
def test_finite_on_extreme_batches(name):
    learner = ZOO[name]
    n = ROWS * learner.slices
    big = 1e3 * np.random.default_rng(0).normal(size=(n, 3))
    edge = np.sign(np.random.default_rng(1).normal(size=(n, 2)))
    batch = batch_for(
        learner, obs=big, next_obs=-big, action=edge, reward=np.full(n, 1e6), mc_return=np.full(n, -np.inf)
    )
    state = state_of(learner)
    for i in range(5):
        state, info = step_of(learner)(state, batch, jax.random.key(i))
        for key, metric in info.items():
            assert np.isfinite(metric), (i, key)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


@pytest.mark.parametrize("name", SOME)
def test_policy(name):
    learner, state = ZOO[name], updated(ZOO[name])[0]
    act = jax.jit(learner.policy, static_argnames="greedy")
    keys = jax.random.split(KEY, len(OBS))
    a = act(state, OBS[0], keys[0])
    assert a.shape == (SPEC.act_dim,)
    assert same(a, act(state, OBS[0], keys[0]))
    assert name == "dt" or any(not same(a, act(state, OBS[0], k)) for k in keys[1:])  # DT has no randomness
    greedy = [act(state, OBS[0], k, greedy=True) for k in keys]
    assert all(same(greedy[0], g) for g in greedy)
    assert float(jnp.abs(greedy[0]).max()) <= 1
    many = jax.vmap(lambda o, k: learner.policy(state, o, k, True))(OBS, keys)
    assert many.shape == (8, SPEC.act_dim)
    np.testing.assert_allclose(many[0], greedy[0], rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------------------------------ target networks


@pytest.mark.parametrize("name", ["iql", "sac", "pairs", "td3", "cql", "pex(iql)"])
def test_targets_move_by_exactly_the_rate(name):
    """Once per update: TD3's cycle moves all its targets once, after its last critic step."""
    before, after = nets_of(state_of(ZOO[name])), nets_of(updated(ZOO[name])[0])
    targets = [n for n in before if n.startswith("target_")]
    assert len(targets) == (2 if name == "td3" else 1)
    for n in targets:
        expected = jax.tree.map(lambda p, t: 0.005 * p + 0.995 * t, after[n.removeprefix("target_")], before[n])
        close(after[n], expected, rtol=1e-6, atol=1e-7)


still = replace(redq, lr=1e-60)  # 0 in float32


def test_targets_move_with_every_critic_step():
    """RLPD: rate 0.005 at every critic update (methods_a 6.1); three steps on critics that stand still."""
    before, after = nets_of(state_of(still)), nets_of(updated(still)[0])
    assert same(after["critic"], before["critic"])
    keep = 0.995**3
    expected = jax.tree.map(lambda p, t: (1 - keep) * p + keep * t, before["critic"], before["target_critic"])
    close(after["target_critic"], expected, rtol=1e-6, atol=1e-7)


def test_the_policy_learns_from_the_last_slice():
    """RLPD: one actor update on the last slice (methods_a 6.1); the critics stand still."""

    def gradient(first, last):
        draw = [make_batch(ROWS, seed) for seed in (first, first + 1, last)]
        state, _ = step_of(still)(state_of(still), jax.tree.map(lambda *x: jnp.concatenate(x), *draw), KEY)
        return state.actor.opt.mu

    assert same(gradient(0, 5), gradient(2, 5))
    assert not same(gradient(0, 5), gradient(0, 6))


# ---------------------------------------------------------------------------------------------- whose gradient is whose


def test_sac_actor_follows_its_own_loss_only():
    """The gradient that Adam saw is that of (7) at the critics after their step, and of nothing else."""
    before, (after, _), s = state_of(sac), updated(sac), batch_for(sac).obs

    def loss(pi):
        a, log_prob = pi(s).sample_and_log_prob(split(KEY, 3)[1])
        return (1.0 * log_prob - after.critic.net(s, a).min(0)).mean()  # alpha = 1

    close(after.actor.opt.mu, jax.tree.map(lambda g: 0.1 * g, jax.jit(jax.grad(loss))(before.actor.net)), atol=1e-6)


def test_td3_actor_follows_the_first_critic_on_the_last_slice():
    before, (after, _) = state_of(td3), updated(td3)
    s = batch_for(td3).obs[ROWS:]
    grad = jax.jit(jax.grad(lambda pi: -after.critic.net(s, pi(s).mode())[0].mean()))(before.actor.net)
    close(after.actor.opt.mu, jax.tree.map(lambda g: 0.1 * g, grad), atol=1e-6)


def test_iql_losses_follow_the_paper():
    """methods_a 1.1 in the authors' order: V, policy with the new V, Q with the new V."""
    before, (after, _) = state_of(iql), updated(iql)
    s, a, r, s_next, terminal = batch_for(iql).transition
    q, v = np.asarray(before.target_critic(s, a)).min(0), np.asarray(after.value(s))
    y = np.asarray(r + 0.99 * (1 - terminal) * after.value(s_next))
    weight = np.minimum(np.exp(3.0 * (q - v)), 100)
    value_loss = lambda V: (jnp.where(q > V(s), 0.7, 0.3) * (q - V(s)) ** 2).mean()
    actor_loss = lambda pi: -(weight * pi(s).log_prob(a)).mean()
    critic_loss = lambda Q: ((Q(s, a)[0] - y) ** 2).mean() + ((Q(s, a)[1] - y) ** 2).mean()
    for part, loss in (("value", value_loss), ("actor", actor_loss), ("critic", critic_loss)):
        grad = jax.jit(jax.grad(loss))(getattr(before, part).net)
        close(getattr(after, part).opt.mu, jax.tree.map(lambda g: 0.1 * g, grad), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(("name", "untouched"), [("iql", {"value", "actor"}), ("bc", {"actor"})])
def test_rewards_reach_critics_only(name, untouched):
    learner = ZOO[name]
    other = core(step_of(learner)(state_of(learner), batch_for(learner, reward=np.arange(ROWS)), KEY)[0])
    for field, part in vars(core(updated(learner)[0])).items():
        if field in untouched:
            assert same(getattr(other, field), part), field
        elif isinstance(part, Trained):
            assert not same(getattr(other, field), part), field


def test_terminal_rows_do_not_look_ahead():
    end = np.ones(ROWS)
    a, _ = step_of(iql)(state_of(iql), batch_for(iql, terminal=end), KEY)
    b, _ = step_of(iql)(state_of(iql), batch_for(iql, terminal=end, next_obs=np.full((ROWS, 3), 7.0)), KEY)
    assert same(a.critic, b.critic)


# ------------------------------------------------------------------------------------------------------ of single pages


def test_iql_actor_stands_still_when_its_rate_has_fallen():
    learner = replace(iql, actor_decay=10)
    end = segue_types.replace(state_of(iql), step=jnp.array(10, jnp.int32))
    state, _ = step_of(learner)(end, batch_for(iql), KEY)
    assert same(state.actor.net, end.actor.net)
    assert not same(state.critic.net, end.critic.net)
    moving, _ = step_of(learner)(segue_types.replace(end, step=jnp.array(5, jnp.int32)), batch_for(iql), KEY)
    moved = jax.tree.map(jnp.subtract, moving.actor.net, end.actor.net)
    full = jax.tree.map(jnp.subtract, updated(iql)[0].actor.net, end.actor.net)
    close(moved, jax.tree.map(lambda x: 0.5 * x, full), rtol=1e-3, atol=2e-8)  # half way: half the rate


def test_bc_of_a_squashed_head_takes_actions_at_the_box():
    learner = BC(hidden=HIDDEN, head="squashed")
    state, info = step_of(learner)(state_of(learner), batch_for(learner, action=np.ones((ROWS, 2))), KEY)
    assert np.isfinite(info["actor/nll"])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


# ------------------------------------------------------------------------------------------------------------------ PEX


@cache
def expanded(learner, members=1):
    """A set of `members` frozen policies that differ, and the learning one."""
    policies = [core(learner.base.init(jax.random.key(20 + i), SPEC)).actor.net for i in range(members)]
    frozen = tuple(jax.tree.map(lambda x, i=i: x + 0.1 * (i + 1), pi) for i, pi in enumerate(policies))
    return segue_types.replace(learner.init(KEY, SPEC), members=frozen)


MANY = jnp.asarray(np.random.default_rng(4).normal(size=(3000, 3)), jnp.float32)


@pytest.mark.parametrize("members", [1, 2])
def test_pex_without_temperature_chooses_uniformly(members):
    learner = PEX(iql, inv_temperature=0.0)
    _, i, logits = learner.propose(expanded(learner, members), MANY, KEY, False)
    k = members + 1
    assert logits.shape == (k, 3000)
    counts = np.bincount(i, minlength=k)
    assert (np.abs(counts - 3000 / k) < 4 * np.sqrt(3000 / k * (1 - 1 / k))).all(), counts


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("greedy", [False, True])
def test_pex_with_a_large_inverse_temperature_takes_the_best(members, greedy):
    learner = PEX(iql, inv_temperature=1e7)
    state = expanded(learner, members)
    a, i, logits = learner.propose(state, MANY, KEY, greedy)
    q = np.asarray(logits) / 1e7
    chosen = np.take_along_axis(q, np.asarray(i)[None], 0)[0]
    np.testing.assert_allclose(chosen, q.max(0), rtol=0, atol=1e-5)  # saturated proposals tie up to rounding
    clear = np.sort(q, 0)[-1] - np.sort(q, 0)[-2] > 1e-5
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(np.asarray(i)[clear], q.argmax(0)[clear])
    assert len(set(np.asarray(i).tolist())) == members + 1
    # the chosen action is worth what its column said: actions and owners belong together
    np.testing.assert_allclose(state.base.critic(MANY, a).min(0), q.max(0), rtol=1e-4, atol=1e-5)


def test_pex_weights_are_those_of_the_paper():
    """w proportional to exp(Q / alpha), Q the smaller of the two online critics (methods_a 2.2)."""
    learner = PEX(iql, inv_temperature=10.0)
    state = expanded(learner)
    modes = jnp.stack([state.members[0](OBS).mode(), core(state).actor(OBS).mode()])
    _, _, logits = learner.propose(state, OBS, KEY, True)
    q = np.stack([np.asarray(state.base.critic(OBS, a)).min(0) for a in modes])
    np.testing.assert_allclose(logits, 10 * q, rtol=1e-4, atol=1e-5)
    _, _, info = learner.act(state, (), OBS[0], jnp.zeros(()), KEY, True)
    w = np.exp(10 * q[:, 0]) / np.exp(10 * q[:, 0]).sum()
    assert float(info["act/choice_entropy"]) == pytest.approx(-(w * np.log(w)).sum(), rel=1e-3)


def test_frozen_members_propose_their_mode():
    learner = PEX(iql, inv_temperature=0.0)
    state = expanded(learner)
    a, i, _ = learner.propose(state, OBS, KEY, False)
    assert 0 < int(i.sum()) < 8
    mode = state.members[0](OBS).mode()
    np.testing.assert_allclose(a[i == 0], mode[i == 0], rtol=1e-5)
    b, j, _ = replace(learner, sample_frozen=True).propose(state, OBS, KEY, False)
    assert not np.allclose(b[j == 0], mode[j == 0], atol=1e-2)


def test_frozen_members_stay_for_a_hundred_updates():
    learner = PEX(iql)
    first = state = Expand()(learner, handover(updated(iql)[0]))[0]
    for i in range(100):
        state, _ = step_of(learner)(state, batch_for(learner), jax.random.key(i))
    assert same(state.members, first.members)
    assert same(state.members[0], updated(iql)[0].actor.net)
    assert not same(core(state).actor.net, core(first).actor.net)


@pytest.mark.parametrize("hold", [False, pytest.param(True, marks=slow)], ids=["", "held"])
@pytest.mark.parametrize("imitate", ["composite", "data"])
def test_pex_distils_its_own_proposals(imitate, hold):
    """methods_a 2.3: the data's actions are ignored. With beta = 0 no weight carries them either."""
    base = IQL(hidden=HIDDEN, beta=0.0)
    learner = PEX(Hold(base, ("value",)) if hold else base, imitate=imitate)
    state = state_of(learner)
    a, info = step_of(learner)(state, batch_for(learner), KEY)
    b, _ = step_of(learner)(state, batch_for(learner, action=np.full((ROWS, 2), 0.3)), KEY)
    assert same(core(a).actor, core(b).actor) is (imitate == "composite")
    assert ("actor/own_proposals" in info) is (imitate == "composite")


def test_pex_refuses_a_learner_without_critic_by_name():
    with pytest.raises(HandoverError, match="BC has none"):
        PEX(bc).init(KEY, SPEC)


# ------------------------------------------------------------------------------------------------------- CQL and Cal-QL


@pytest.mark.parametrize("bound", [losses.ReturnBound(), losses.ReturnBound(uniform=True)], ids=["policy", "uniform"])
def test_a_bound_of_minus_infinity_makes_calql_equal_to_cql_bit_for_bit(bound):
    batch = batch_for(cql, mc_return=np.full(ROWS, -np.inf))
    plain, info = step_of(cql)(state_of(cql), batch, KEY)
    assert same((plain, info), step_of(replace(cql, bound=bound))(state_of(cql), batch, KEY))
    bounded, info = step_of(replace(cql, bound=bound))(state_of(cql), batch_for(cql), KEY)
    assert not same(plain.critic, bounded.critic)
    assert same(plain.actor, bounded.actor)
    assert 0 < info["critic/bounded"] < (1 if bound.uniform else 2 / 3)


def test_calql_above_all_values_pushes_no_action_down():
    """methods_a 10.5: with a very large return the sampled values carry no gradient, those of the data's actions do."""
    learner = replace(cql, bound=losses.ReturnBound(uniform=True))
    batch = batch_for(learner, mc_return=np.full(ROWS, 1e6))
    (s, a, *_), before = batch.transition, state_of(learner)
    after, info = step_of(learner)(before, batch, KEY)
    assert float(info["critic/bounded"]) == 1.0
    error = step_of(replace(learner, weight=0.0))(before, batch, KEY)[0].critic.opt.mu  # of the squared error alone
    push = jax.jit(jax.grad(lambda Q: -5.0 * Q(s, a).mean(-1).sum()))(before.critic.net)
    close(after.critic.opt.mu, jax.tree.map(lambda e, g: e + 0.1 * g, error, push), rtol=2e-5, atol=2e-6)


def test_cql_clones_in_its_first_updates_only():
    learner, before, batch = replace(cql, clone_steps=2), state_of(cql), batch_for(cql)
    s, a = batch.obs, batch.action

    def loss(pi):
        _, log_prob = pi(s).sample_and_log_prob(split(KEY, 7)[0])
        return (log_prob - pi(s).log_prob(a)).mean()  # alpha = 1

    first, _ = step_of(learner)(before, batch, KEY)
    close(first.actor.opt.mu, jax.tree.map(lambda g: 0.1 * g, jax.jit(jax.grad(loss))(before.actor.net)), atol=1e-6)
    later = segue_types.replace(before, step=jnp.array(2, jnp.int32))
    close(step_of(learner)(later, batch, KEY)[0].actor.net, updated(cql)[0].actor.net, rtol=1e-6, atol=1e-7)


def test_cql_widens_the_weight_while_the_gap_is_too_wide():
    for gap, sign in ((1e6, -1), (-1e6, 1)):
        state, _ = step_of(replace(calql, gap=gap))(state_of(calql), batch_for(calql), KEY)
        assert np.sign(float(state.log_dual.net) - 1.0) == sign
    assert float(updated(cql)[0].log_dual.net) == 1.0  # a fixed weight leaves it


# ------------------------------------------------------------------------------------------- ensembles: REDQ, RLPD, UPQ


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (losses.RandomMin(4), losses.Min()),  # a subset equal to the ensemble: SAC-N's target
        (losses.MeanMinusStd(0.0), losses.Mean()),  # UPQ without its penalty
        (losses.MeanOfPairMinMinusStd(0.0), losses.MeanOfPairMin()),
    ],
    ids=lambda x: type(x).__name__,
)
def test_backups_that_are_the_same_make_the_same_update(one, other):
    of = lambda backup: step_of(replace(pairs, backup=backup))(state_of(pairs), batch_for(pairs), KEY)
    close(of(one), of(other), rtol=1e-6, atol=1e-7)
    assert not same(of(one)[0].critic, of(losses.RandomMin(1))[0].critic)


def test_upq_backs_up_less_where_the_pairs_differ():
    """y = r + discount (mean - beta std - alpha log pi): with beta the target's mean falls by discount beta std."""
    s_next, terminal = batch_for(upq).next_obs, batch_for(upq).terminal
    before, batch = state_of(upq), batch_for(upq, reward=np.zeros(ROWS))

    def pulled(beta):  # the gradient of the members' errors to a common shift of their values is 2 E (mean q - y)
        state, _ = step_of(replace(upq, backup=losses.MeanOfPairMinMinusStd(beta)))(before, batch, KEY)
        return state.critic.opt.mu.net.layers[-1].bias[:, 0] / 0.2  # mean of q - y, by member

    a_next, _ = before.actor(s_next).sample_and_log_prob(split(split(KEY, 3)[0])[0])
    q = np.asarray(before.target_critic(s_next, a_next)).reshape(2, 2, ROWS).min(1)
    fall = (0.99 * (1 - np.asarray(terminal)) * 2.0 * q.std(0)).mean()
    np.testing.assert_allclose(pulled(2.0) - pulled(0.0), fall, rtol=1e-3)


@pytest.mark.parametrize("lagged", [False, True])
def test_the_policy_learns_by_the_critics_before_or_after_their_last_step(lagged):
    """REDQ's order is the lagged one, RLPD's the other. With one critic step, before it are the first critics."""
    learner = SAC(hidden=HIDDEN, lagged_critic=lagged)
    before, s = state_of(learner), batch_for(learner).obs
    after, _ = step_of(learner)(before, batch_for(learner), KEY)
    critic = (before if lagged else after).critic.net

    def loss(pi):
        a, log_prob = pi(s).sample_and_log_prob(split(KEY, 3)[1])
        return (log_prob - critic(s, a).min(0)).mean()  # alpha = 1

    close(after.actor.opt.mu, jax.tree.map(lambda g: 0.1 * g, jax.jit(jax.grad(loss))(before.actor.net)), atol=1e-6)


def test_lagged_critics_of_several_steps_are_those_before_the_last():
    """Of three slices the policy learns on the last one, by the critics after two steps on the first two."""
    three, two = redq_authors, replace(redq_authors, critic_updates=2)
    batch, before = batch_for(three), state_of(redq_authors)
    after_two, _ = step_of(two)(before, jax.tree.map(lambda x: x[: 2 * ROWS], batch), KEY)
    keys = [jax.random.split(split(KEY, 3)[0], n) for n in (2, 3)]
    assert (jax.random.key_data(keys[0]) == jax.random.key_data(keys[1][:2])).all()  # so both take the same two steps
    after, _ = step_of(three)(before, batch, KEY)
    s = batch.obs[2 * ROWS :]

    def loss(pi):
        a, log_prob = pi(s).sample_and_log_prob(split(KEY, 3)[1])
        return (log_prob - after_two.critic.net(s, a).mean(0)).mean()  # alpha = 1

    close(after.actor.opt.mu, jax.tree.map(lambda g: 0.1 * g, jax.jit(jax.grad(loss))(before.actor.net)), atol=1e-6)


@pytest.mark.parametrize("by_log", [False, True])
def test_alpha_is_fitted_by_itself_or_by_its_logarithm(by_log):
    learner = SAC(hidden=HIDDEN, entropy_by_log=by_log)
    start = state_of(learner)
    start = segue_types.replace(start, log_alpha=Trained(start.log_alpha.net - 1.0, start.log_alpha.opt))
    state, info = step_of(learner)(start, batch_for(learner), KEY)
    slope = float(info["actor/entropy"]) + 2.0  # H - target, of two action dimensions
    expected = 0.1 * slope * (1.0 if by_log else np.exp(-1.0))
    assert float(state.log_alpha.opt.mu) == pytest.approx(expected, rel=1e-5)


def test_critics_of_another_size():
    state = SAC(hidden=(16, 16), critic_hidden=(8, 8, 8), n_critics=3).init(KEY, SPEC)
    assert [layer.weight.shape for layer in state.critic.net.net.layers] == [(3, 5, 8), (3, 8, 8), (3, 8, 8), (3, 8, 1)]
    assert [layer.weight.shape for layer in state.actor.net.net.layers] == [(3, 16), (16, 16), (16, 4)]


# ------------------------------------------------------------------------------------------------------------------ O3F


class Bowl(Module):
    """Q(s, a) = -|a - goal|^2 of two members, one of them higher by 1."""

    goal: jax.Array

    def __call__(self, obs, action):
        q = -((action - self.goal) ** 2).sum(-1)
        return jnp.stack([q, q + 1.0])


def choices(learner, goal, n=64):
    """`n` actions that are tried at one observation, and the policy's."""
    state = learner.init(KEY, SPEC)
    inner = segue_types.replace(core(state), critic=Bowl(jnp.asarray(goal)))
    state = with_core(state, inner)
    keys = jax.random.split(KEY, n)
    a, _, info = jax.vmap(lambda k: learner.act(state, (), OBS[0], jnp.zeros(()), k, False))(keys)
    same_again = jax.vmap(lambda k: learner.policy(state, OBS[0], k))(keys)
    np.testing.assert_array_equal(a, same_again)
    return np.asarray(a), np.asarray(inner.actor(OBS[0]).mode()), np.asarray(info["act/gain"])


def test_o3f_without_noise_is_the_policy():
    a, mode, gain = choices(O3F(cql, noise=0.0), [0.9, -0.9])
    np.testing.assert_allclose(a, np.broadcast_to(mode, a.shape), atol=1e-6)
    np.testing.assert_allclose(gain, 0, atol=1e-6)


def test_o3f_comes_closer_to_the_best_action_with_more_candidates():
    goal = np.array([0.4, -0.4])
    distance = []
    for n in (1, 10, 1000):
        a, mode, gain = choices(O3F(cql, candidates=n, noise=0.4), goal)
        distance.append(np.linalg.norm(a - goal, axis=-1).mean())
        expected = ((mode - goal) ** 2).sum() - ((a - goal) ** 2).sum(-1)
        np.testing.assert_allclose(gain, expected, rtol=1e-3, atol=1e-5)
    assert distance[0] > 2 * distance[1] > 4 * distance[2]
    assert distance[2] < 0.05


def test_o3f_stays_in_the_box_and_near_the_policy():
    a, mode, _ = choices(O3F(cql, candidates=200, noise=0.1), [5.0, -5.0])
    assert np.abs(a).max() <= 1
    assert np.abs(a - mode).max() < 0.6
    a, _, _ = choices(O3F(cql, candidates=200, noise=10.0), [5.0, -5.0])
    np.testing.assert_allclose(np.abs(a), 1.0)


def test_o3f_learns_and_is_evaluated_as_its_base():
    learner = ZOO["o3f(cql)"]
    assert same(updated(learner)[0].base, updated(cql)[0])
    greedy = learner.policy(updated(learner)[0], OBS[0], KEY, greedy=True)
    np.testing.assert_array_equal(greedy, cql.policy(updated(cql)[0], OBS[0], KEY, greedy=True))
    a, _, info = learner.act(updated(learner)[0], (), OBS[0], jnp.zeros(()), KEY, True)
    np.testing.assert_array_equal(a, greedy)
    assert not info


def test_o3f_scores_may_be_bounds_from_above_but_not_one_a_member():
    learner, state = ZOO["o3f(cql)"], updated(ZOO["o3f(cql)"])[0]
    assert replace(learner, score=losses.MeanMinusStd(-2.0)).policy(state, OBS[0], KEY).shape == (2,)
    with pytest.raises(ConfigError, match="one value of all members"):
        replace(learner, score=losses.OwnPairMin()).policy(state, OBS[0], KEY)


def test_o3f_refuses_by_name():
    with pytest.raises(HandoverError, match="BC has none"):
        O3F(bc).init(KEY, SPEC)
    with pytest.raises(HandoverError, match="put Standardise around it"):
        O3F(Standardise(cql)).init(KEY, SPEC)


# ------------------------------------------------------------------------------------------------------------- settings


def test_aggregations_reach_the_loss():
    """`backup` and `improve` are read: with one mean and one minimum the updates differ."""
    a, _ = updated(sac)
    b, _ = step_of(replace(sac, backup=losses.Mean()))(state_of(sac), batch_for(sac), KEY)
    assert not same(a.critic, b.critic)
    assert same(a.log_alpha, b.log_alpha)


@pytest.mark.parametrize(
    ("cls", "field", "value", "interval"),
    [
        (BC, "dropout", 1.0, "[0, 1)"),
        (BC, "discount", 1.01, "[0, 1]"),
        (IQL, "expectile", 5, "(0, 1)"),
        (IQL, "expectile", 1.0, "(0, 1)"),
        (IQL, "beta", -1.0, "[0, inf)"),
        (IQL, "beta", float("inf"), "[0, inf)"),
        (IQL, "target_rate", -1.0, "(0, 1]"),
        (IQL, "target_rate", 0.0, "(0, 1]"),
        (IQL, "actor_decay", 0, "[1, inf)"),
        (IQL, "hidden", (16, 0), "[1, inf)"),
        (IQL, "hidden", [0], "[1, inf)"),
        (IQL, "lr", "fast", "(0, inf)"),
        (SAC, "lr", 0.0, "(0, inf)"),
        (SAC, "n_critics", 0, "[1, inf)"),
        (SAC, "critic_updates", 0, "[1, inf)"),
        (SAC, "critic_hidden", (0,), "[1, inf)"),
        (TD3, "delay", 0, "[1, inf)"),
        (CQL, "samples", 0, "[1, inf)"),
        (CQL, "weight", -1.0, "[0, inf)"),
        (CQL, "temperature", 0.0, "(0, inf)"),
        (TD3, "exploration", -0.1, "[0, inf)"),
        (partial(PEX, iql), "inv_temperature", -1.0, "[0, inf)"),
        (partial(O3F, cql), "candidates", 0, "[1, inf)"),
        (partial(O3F, cql), "noise", -0.1, "[0, inf)"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(cls, field, value, interval):
    with pytest.raises(ConfigError) as error:
        cls(**{field: value})
    assert f".{field} lies in {interval}, not {value!r}" in str(error.value)


@pytest.mark.parametrize("learner", [bc, iql, sac, td3, calql, PEX(iql)], ids=lambda x: type(x).__name__)
def test_no_number_of_a_learner_may_be_nan(learner):
    for field in fields(learner):
        if type(getattr(learner, field.name)) in (int, float):
            with pytest.raises(ConfigError, match=f"{type(learner).__name__}.{field.name} lies in"):
                replace(learner, **{field.name: float("nan")})


def test_the_closed_ends_of_a_range_are_taken():
    assert IQL(beta=0.0, discount=1.0, target_rate=1.0, dropout=0.0, hidden=(), actor_decay=None)
    assert TD3(discount=0.0, noise_limit=float("inf"), exploration=0.0)


def test_learners_are_values():
    for learner in ZOO.values():
        assert replace(learner) == learner
        assert hash(replace(learner)) == hash(learner)
