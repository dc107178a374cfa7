"""Several agents side by side, and what they are merged into."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_phases import dataset, follow
from zoo import HIDDEN, ROWS, SPEC, ZOO, batch_for, close, cql, handover, merged, sac, same

from segue.errors import ConfigError, HandoverError
from segue.learners import BC, IQL, O3F, PEX, TD3, Hold, Many, Merge, Standardise
from segue.nets import Layer, MixtureActor, Mlp
from segue.phases import Phase
from segue.transitions import Carry
from segue.types import core
from segue.types import replace as exchanged

KEY = jax.random.key(5)
many = ZOO["many(cql)"]
STEP = jax.jit(many.update)
OBS = jnp.asarray(np.random.default_rng(3).normal(size=(8, 3)), jnp.float32)


@pytest.fixture(scope="module")
def agents():
    return jax.jit(many.init, static_argnames="spec")(KEY, SPEC)


@pytest.fixture(scope="module")
def one(agents):
    """What two agents are merged into, and the report."""
    return Merge()(merged, handover(agents))


def member(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


def test_moments_by_hand():
    """Of 0, 0.2, -0.1 and 0.1, 0.3, 0.2: 0.033333 and 0.249444 (methods_b 15)."""
    bias = jnp.array([[0.0, np.log(0.1)], [0.2, np.log(0.3)], [-0.1, np.log(0.2)]])
    pi = MixtureActor(Mlp((Layer(jnp.zeros((3, 4, 2)), bias),)))(jnp.ones(4))
    assert (float(pi.mean[0]), float(pi.std[0])) == (
        pytest.approx(0.033333, abs=1e-6),
        pytest.approx(0.249444, abs=1e-6),
    )
    equal = MixtureActor(Mlp((Layer(jnp.zeros((3, 4, 2)), jnp.tile(jnp.array([1e3, -50.0]), (3, 1))),)))
    grads = jax.grad(lambda a: a(jnp.ones(4)).std.sum())(equal)  # far away and at the lower limit: no negative root
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))
    wide = MixtureActor(Mlp((Layer(jnp.zeros((2, 4, 2)), jnp.array([[-50.0, 0.0], [50.0, 0.0]])),)))
    assert float(wide(jnp.ones(4)).std[0]) == pytest.approx(np.exp(2))


def test_agents_learn_as_each_would_alone_on_its_own_share(agents):
    batch, key = batch_for(many), jax.random.key(6)
    state, info = STEP(agents, batch, key)
    alone = []
    for i, k in enumerate(jax.random.split(key, 2)):
        share = jax.tree.map(lambda x, i=i: x[i * ROWS : (i + 1) * ROWS], batch)
        single, metrics = jax.jit(cql.update)(member(agents.base, i), share, k)
        close(member(state.base, i), single)
        alone.append(metrics)
    close(info, jax.tree.map(lambda *x: jnp.stack(x).mean(), *alone))
    assert not same(member(agents.base.actor, 0), member(agents.base.actor, 1))


def test_steps_count_the_batches_of_one_agent():
    assert (many.slices, many.stride) == (2, 1)
    redq = Many(replace(sac, critic_updates=3), 2)
    assert (redq.slices, redq.stride) == (6, 3)
    phase = Phase("offline", Many(sac, 2), 40, batch_size=8)
    *_, states = follow(phase, data=dataset())
    assert max(s.calls for s in states) == 40


def test_the_policy_is_unchanged_by_the_merger(agents, one):
    state, report = one
    for obs in OBS[:3]:
        for greedy in (True, False):
            close(merged.policy(state, obs, KEY, greedy), many.policy(agents, obs, KEY, greedy))
    mean = jnp.stack([member(agents.base.actor.net, i)(OBS).mean for i in range(2)])
    close(merged.policy(state, OBS[0], KEY, True), jnp.tanh(mean.mean(0)[0]))
    assert report == {
        "actor": "carried",
        "actor optimiser": "reset",
        "critic": "carried",
        "critic optimiser": "reset",
        "target_critic": "copied from critic",
        "log_alpha": "fresh",
        "log_alpha optimiser": "reset",
    }


def test_an_agent_s_critics_are_neighbours_and_targets_equal_to_them(agents, one):
    state, a = one[0], jnp.zeros((8, 2))
    q = state.critic(OBS, a)
    for i in range(2):
        close(q[2 * i : 2 * i + 2], member(agents.base.critic.net, i)(OBS, a))
    assert same(state.critic.net, state.target_critic)
    assert float(state.log_alpha.net) == 0


def test_each_pair_regresses_on_its_own_target(one):
    """What happens to one agent's target critics leaves the others' critics alone."""
    state, step = one[0], jax.jit(merged.update)
    other = jax.tree.map(lambda x: x.at[2:].add(0.5), state.target_critic)
    a, _ = step(state, batch_for(merged), KEY)
    b, _ = step(exchanged(state, target_critic=other), batch_for(merged), KEY)
    pair = lambda s, i: jax.tree.map(lambda x: x[2 * i : 2 * i + 2], s.critic.net)
    assert same(pair(a, 0), pair(b, 0))
    assert not same(pair(a, 1), pair(b, 1))


def test_a_merged_agent_is_carried_on(one):
    state, report = Carry()(merged, handover(one[0]))
    assert same(state, one[0])
    assert report["actor"] == "carried"


def test_observations_may_be_standardised(agents):
    learner = Standardise(many)
    state = exchanged(learner.init(KEY, SPEC), base=agents, obs_mean=jnp.arange(3.0))
    after, _ = Merge()(Standardise(merged), handover(state))
    assert same(after.obs_mean, state.obs_mean)
    close(Standardise(merged).policy(after, OBS[0], KEY, True), learner.policy(state, OBS[0], KEY, True))
    with pytest.raises(HandoverError, match="standardised"):
        Merge()(merged, handover(state))


def test_what_does_not_merge_is_refused(agents, one):
    with pytest.raises(HandoverError, match="needs the learner Many"):
        Merge()(merged, handover(None))
    with pytest.raises(HandoverError, match="needs the learner Many"):
        Merge()(merged, handover(one[0]))
    with pytest.raises(HandoverError, match="'critic' cannot be carried"):
        Merge()(replace(merged, n_critics=6), handover(agents))
    with pytest.raises(HandoverError, match="'actor' cannot be carried"):
        Merge()(sac, handover(agents))
    cloned = jax.eval_shape(lambda k: Many(BC(hidden=HIDDEN, head="squashed"), 2).init(k, SPEC), KEY)
    with pytest.raises(HandoverError, match="agents' critics"):
        Merge()(merged, handover(cloned))


def test_what_cannot_be_many_is_refused():
    for base in (Standardise(sac), Hold(sac), ZOO["dt"], ZOO["mopo(sac)"]):
        with pytest.raises(ConfigError, match=r"wrap the whole: Standardise\(Many"):
            Many(base)
    for base in (TD3(hidden=HIDDEN), IQL(hidden=HIDDEN)):
        with pytest.raises(ConfigError, match="squashed Gaussian policies"):
            jax.eval_shape(lambda k, base=base: Many(base).init(k, SPEC), KEY)
    with pytest.raises(ConfigError, match=r"Many\.n lies in \[2, inf\), not 1"):
        Many(sac, 1)


def test_those_that_imitate_get_their_own_share():
    learner = Many(IQL(hidden=HIDDEN, head="squashed"), 2)
    state = jax.jit(learner.init, static_argnames="spec")(KEY, SPEC)
    batch, step = batch_for(learner), jax.jit(learner.update)
    other = batch.action.at[ROWS:].set(0.3)
    a, b = step(state, batch, KEY)[0], step(state, batch, KEY, imitate=other)[0]
    close(member(core(a).actor, 0), member(core(b).actor, 0), rtol=1e-4)
    assert not same(member(core(a).actor, 1), member(core(b).actor, 1))


@pytest.mark.parametrize("wrap", [PEX, O3F])
def test_who_chooses_by_a_critic_wants_one_agent(wrap):
    with pytest.raises(HandoverError, match=f"{wrap.__name__} chooses by one critic, and Many's agents have one each"):
        wrap(many).init(KEY, SPEC)
