"""Every offline learner x transition x online learner x replay, by types and shapes only.

What fits must go through transition and update; what does not must say so by a HandoverError (or, for a net that the
learner does not have, a ConfigError). `fits` says which is which, from what the parts are, not from what they do.
"""

from functools import cache, partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import HIDDEN, SPEC, ZOO, bc, cql, dt, iql, odt, redq, sac, td3

from segue.bonuses import Nothing
from segue.errors import ConfigError, HandoverError
from segue.learners import BC, CQL, DT, IQL, ODT, PEX, SAC, TD3, Expand, Many, Merge, Standardise
from segue.phases import Parts, Work, update_once
from segue.replays import Balanced, OnlineOffline, Sequences, Symmetric, Uniform
from segue.replays.sequences import Closed
from segue.store import Affine, make_store
from segue.transitions import Carry, CarryPolicy, Fresh, Reset
from segue.types import Handover

OFFLINE = {
    "bc": bc,
    "bc squashed": BC(hidden=HIDDEN, head="squashed"),
    "bc deterministic": BC(hidden=HIDDEN, head="deterministic"),
    "iql": iql,
    "iql squashed": IQL(hidden=HIDDEN, head="squashed"),
    "sac": sac,
    "redq": redq,
    "td3": td3,
    "cql": cql,
    "many(cql)": ZOO["many(cql)"],
    "pex(iql)": ZOO["pex(iql)"],
    "dt": dt,
    "odt": odt,
    "standardise(iql)": ZOO["standardise(iql)"],
}
TRANSITIONS = {
    "fresh": Fresh(),
    "carry": Carry(),
    "carry nets": Carry(moments=False),
    "policy": CarryPolicy(),
    "reset critic": Reset(Carry(), ("critic",)),
    "expand": Expand(),
    "merge": Merge(),
}
REPLAYS = {
    "uniform": Uniform(),
    "symmetric": Symmetric(0.5),
    "online-offline": OnlineOffline(0.5, recent=4, after=2),
    "balanced": Balanced(first=4, batch_size=8, hidden=(8,)),
}
KEY = jax.random.key(0)
COMBINATIONS = [(o, t, n) for o in OFFLINE for t in TRANSITIONS for n in ZOO]


def base_of(learner):
    while hasattr(learner, "base"):
        learner = learner.base
    return learner


def agents(learner):
    """Of a learner of several agents their number."""
    while hasattr(learner, "base") and not isinstance(learner, Many):
        learner = learner.base
    return learner.n if isinstance(learner, Many) else 1


def head(learner):
    if isinstance(learner, SAC) and learner.n_actors > 1:
        return f"mixture of {learner.n_actors}"
    own = {
        SAC: "squashed",
        CQL: "squashed",
        TD3: "deterministic",
        DT: "actions of windows",
        ODT: "distributions of windows",
    }
    return own.get(type(learner)) or learner.head


def critics(learner):
    """What a critic must share to be carried; None without one."""
    if isinstance(learner, SAC | CQL):
        return learner.n_critics, learner.layer_norm
    return None if isinstance(learner, BC | DT | ODT) else (2, False)


def standardised(learner):
    return isinstance(learner, Standardise) or (hasattr(learner, "base") and standardised(learner.base))


def fits(offline, transition, online):
    """None, or the error that must come."""
    old, new = base_of(offline), base_of(online)
    inherits = not isinstance(transition, Fresh)
    if isinstance(transition, Merge):
        n = agents(offline)
        fit = n > 1 and agents(online) == 1 and head(new) == f"mixture of {n}"
        return None if fit and critics(new) == (n * old.n_critics, old.layer_norm) else HandoverError
    if inherits and agents(offline) != agents(online):
        return HandoverError
    if inherits and standardised(offline) != standardised(online):
        return HandoverError
    if isinstance(transition, Reset) and critics(new) is None:
        return HandoverError if head(old) != head(new) else ConfigError
    if isinstance(transition, Expand) and (not isinstance(online, PEX) or old.windows):
        return HandoverError
    if isinstance(transition, Carry | CarryPolicy | Reset) and head(old) != head(new):
        return HandoverError
    both = critics(old) is not None and critics(new) is not None
    if isinstance(transition, Carry | Expand) and both and critics(old) != critics(new):
        return HandoverError
    return None


@cache
def abstract(learner):
    return jax.eval_shape(partial(learner.init, spec=SPEC), KEY)


DATA = SimpleNamespace(
    **{name: np.zeros((6, width), np.float32) for name, width in (("obs", 3), ("action", 2), ("next_obs", 3))},
    **{name: np.zeros(6, np.float32) for name in ("reward", "terminal", "timeout", "step")},
)


@cache
def store():
    return jax.eval_shape(lambda: make_store(SPEC, DATA, 8))


UPDATED = set()  # (learner, replay, shapes) that have gone through


def check_update(learner, state):
    for replay in [Sequences(4)] if learner.windows else REPLAYS.values():
        signature = (
            learner,
            replay,
            jax.tree.structure(state),
            tuple((x.shape, x.dtype) for x in jax.tree.leaves(state)),
        )
        if signature in UPDATED:
            continue
        work = Work(learner, replay, Nothing(), Affine(), 8)
        rstate = Closed(jnp.int32(0)) if learner.windows else jax.eval_shape(partial(replay.init, KEY, SPEC), store())
        parts, info = jax.eval_shape(partial(update_once, work), store(), Parts(state, rstate, ()), KEY)
        assert jax.tree.structure(parts.learner) == jax.tree.structure(state)
        shapes = [(x.shape, x.dtype) for x in jax.tree.leaves(parts.learner)]
        assert shapes == [(x.shape, x.dtype) for x in jax.tree.leaves(state)]
        assert info["replay/offline"].shape == ()
        UPDATED.add(signature)


@pytest.mark.parametrize(("offline", "transition", "online"), COMBINATIONS)
def test_combination(offline, transition, online):
    learner, source = ZOO[online], OFFLINE[offline]
    report = {}

    def hand_over(key, pretrained):
        state, lines = TRANSITIONS[transition](learner, Handover(SPEC, key, None, pretrained, None))
        report.update(lines)
        return state

    error = fits(source, TRANSITIONS[transition], learner)
    if error is None:
        state = jax.eval_shape(hand_over, KEY, abstract(source))
        assert report
        check_update(learner, state)
        act = lambda s, k: learner.policy(s, jnp.zeros(SPEC.obs_dim), k)
        assert jax.eval_shape(act, state, KEY).shape == (SPEC.act_dim,)
    else:
        with pytest.raises(error) as caught:
            jax.eval_shape(hand_over, KEY, abstract(source))
        assert len(str(caught.value)) > 40
