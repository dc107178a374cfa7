"""Tiny problems whose answers are known: a learner that gets one wrong has one thing wrong.

1. one-step reward 1: Q = 1;  2. reward a step later: Q = discount;  3. reward by action: the policy finds the best;
4. a chain of four states with known Q*, from data that mostly walks the wrong way.
"""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segue.learners import BC, IQL, PEX, SAC, TD3, Expand
from segue.types import Batch, Handover, Spec, core

HIDDEN, LR, RATE = (16, 16), 3e-3, 0.05
bc = BC(hidden=HIDDEN, lr=LR)
iql = IQL(hidden=HIDDEN, lr=LR, target_rate=RATE, expectile=0.9, beta=50.0)
sac = SAC(hidden=HIDDEN, lr=LR, target_rate=RATE, backup_entropy=False, entropy_per_action=-2.0)
td3 = TD3(hidden=HIDDEN, lr=LR, target_rate=RATE)
LEARNERS = {"iql": iql, "sac": sac, "td3": td3}
slow = pytest.mark.slow
NAMES = ["iql", pytest.param("sac", marks=slow), pytest.param("td3", marks=slow)]


def columns(obs, action, reward, next_obs, terminal):
    n = len(reward)
    as_array = lambda x: jnp.asarray(x, jnp.float32)
    zeros, ones = jnp.zeros(n), jnp.ones(n)
    return Batch(*map(as_array, (obs, action, reward, next_obs, terminal)), zeros, ones, ones, zeros, ones)


@partial(jax.jit, static_argnames=("learner", "updates"))
def _train(learner, state, data, updates, key):
    n = 64 * learner.slices

    def body(state, key):
        k_rows, k_update = jax.random.split(key)
        rows = jax.random.randint(k_rows, (n,), 0, data.obs.shape[0])
        return learner.update(state, jax.tree.map(lambda x: x[rows], data), k_update)[0], None

    return jax.lax.scan(body, state, jax.random.split(key, updates))[0]


def train(learner, data, updates, state=None, seed=0):
    if state is None:
        state = learner.init(jax.random.key(seed), Spec(data.obs.shape[-1], data.action.shape[-1]))
    return _train(learner, state, data, updates, jax.random.key(seed + 1))


def q_of(state, obs, action):
    """All members, ``[E, B]``."""
    return np.asarray(core(state).critic(jnp.asarray(obs, jnp.float32), jnp.asarray(action, jnp.float32)))


def greedy(learner, state, obs):
    act = jax.jit(lambda o: learner.policy(state, o, jax.random.key(0), True))
    return np.stack([act(jnp.asarray(o, jnp.float32)) for o in obs])


RNG = np.random.default_rng(0)
ACTIONS = RNG.uniform(-1, 1, (512, 1))
ZERO = np.zeros((512, 1))
TEST_ACTIONS = np.linspace(-0.9, 0.9, 7)[:, None]


@pytest.mark.parametrize("name", NAMES)
def test_value_of_one_step(name):
    state = train(LEARNERS[name], columns(ZERO, ACTIONS, np.ones(512), ZERO, np.ones(512)), 1000)
    np.testing.assert_allclose(q_of(state, np.zeros((7, 1)), TEST_ACTIONS), 1.0, atol=0.03)


@pytest.mark.parametrize("name", NAMES)
def test_discount(name):
    """State 0 leads to state 1 without reward, state 1 to the end with reward 1."""
    second = (np.arange(512) % 2)[:, None]
    data = columns(second, ACTIONS, second[:, 0], np.ones((512, 1)), second[:, 0])
    state = train(replace(LEARNERS[name], discount=0.6), data, 1500)
    np.testing.assert_allclose(q_of(state, np.zeros((7, 1)), TEST_ACTIONS), 0.6, atol=0.04)
    np.testing.assert_allclose(q_of(state, np.ones((7, 1)), TEST_ACTIONS), 1.0, atol=0.04)


@pytest.mark.parametrize("name", [pytest.param("iql", marks=slow), "sac", "td3"])
def test_best_action(name):
    """Reward 1 - (a - s/2)^2 for s = -1, 1: the best action is s/2; that of the data is 0 on the average."""
    s = np.where(np.arange(512) % 2, 1.0, -1.0)[:, None]
    reward = 1 - (ACTIONS - 0.5 * s)[:, 0] ** 2
    learner = LEARNERS[name]
    state = train(learner, columns(s, ACTIONS, reward, s, np.ones(512)), 2000)
    np.testing.assert_allclose(greedy(learner, state, [[-1.0], [1.0]]), [[-0.5], [0.5]], atol=0.12)


# ---------------------------------------------------------------------------------------------------------------- chain

DISCOUNT, STATES, RIGHT = 0.9, 4, 0.3  # an action above 0 moves to the right; the data do so with probability 0.3
Q_STAR = np.array(
    [[DISCOUNT * DISCOUNT ** (3 - max(s - 1, 0)), DISCOUNT ** (3 - s)] for s in range(STATES)]
)  # left, right


def move(state, action):
    """Next state, reward, terminal: moving right from the last state ends with reward 1; the left end is a wall."""
    if action > 0:
        return (state, 1.0, True) if state == STATES - 1 else (state + 1, 0.0, False)
    return max(state - 1, 0), 0.0, False


@cache
def chain_data(n=2048):
    rng = np.random.default_rng(1)
    s = rng.integers(STATES, size=n)
    a = rng.uniform(0.2, 1.0, n) * np.where(rng.uniform(size=n) < RIGHT, 1, -1)
    s_next, reward, terminal = (np.array(c) for c in zip(*map(move, s, a), strict=True))
    return columns(np.eye(STATES)[s], a[:, None], reward, np.eye(STATES)[s_next], terminal)


def chain_q(state):
    """Smaller member at a = -0.6 and 0.6: ``[4, 2]``."""
    obs = np.eye(STATES)
    return np.stack([q_of(state, obs, np.full((STATES, 1), a)).min(0) for a in (-0.6, 0.6)], -1)


def steps_to_goal(learner, state, limit=20):
    """From the left end, by greedy actions."""
    actions, s = greedy(learner, state, np.eye(STATES))[:, 0], 0
    for t in range(1, limit + 1):
        s, _, terminal = move(s, actions[s])
        if terminal:
            return t
    return None


def expectile_fixed_point(tau):
    """What IQL of this data converges to: V the expectile of Q over the data's actions."""
    v = np.zeros(STATES)
    for _ in range(500):
        q = np.array([[DISCOUNT * v[max(s - 1, 0)], 1.0 if s == 3 else DISCOUNT * v[s + 1]] for s in range(STATES)])
        low, high = q[:, 0] * (1 - RIGHT) * (1 - tau), q[:, 1] * RIGHT * tau  # right is better in every state
        v = (low + high) / ((1 - RIGHT) * (1 - tau) + RIGHT * tau)
    return q


@cache
def trained(learner):
    return train(replace(learner, discount=DISCOUNT), chain_data(), 3000 // learner.slices)


def test_the_best_policy_of_the_chain():
    v = Q_STAR.max(1)
    for s in range(STATES):
        for i, a in enumerate((-1, 1)):
            s_next, reward, terminal = move(s, a)
            assert Q_STAR[s, i] == pytest.approx(reward + DISCOUNT * (not terminal) * v[s_next])
    np.testing.assert_allclose(expectile_fixed_point(1 - 1e-9), Q_STAR, atol=1e-6)


def test_behaviour_cloning_of_the_chain_walks_away():
    assert steps_to_goal(bc, train(bc, chain_data(), 1000)) is None


def test_iql_on_the_chain():
    q = chain_q(trained(iql))
    np.testing.assert_allclose(q, expectile_fixed_point(0.9), atol=0.05)
    np.testing.assert_allclose(q, Q_STAR, atol=0.15)
    assert steps_to_goal(iql, trained(iql)) == STATES  # behaviour cloning never arrives


@pytest.mark.parametrize("name", [pytest.param("sac", marks=slow), "td3"])
def test_actor_critics_on_the_chain(name):
    learner = LEARNERS[name]
    np.testing.assert_allclose(chain_q(trained(learner)), Q_STAR, atol=0.1)
    assert steps_to_goal(learner, trained(learner)) == STATES


@slow
@pytest.mark.parametrize("base", [iql, sac, td3], ids=["iql", "sac", "td3"])
def test_expansion_on_the_chain(base):
    """From IQL's (or the base's own) state: the set goes the shortest way at once, and still does after learning."""
    base = replace(base, discount=DISCOUNT)
    learner, old = PEX(base), trained(base)
    state, _ = Expand()(learner, Handover(Spec(STATES, 1), jax.random.key(3), None, old, None))
    state = train(learner, chain_data(), 1500, state)
    np.testing.assert_allclose(chain_q(state), chain_q(old), atol=0.1)
    assert steps_to_goal(learner, state) == STATES
