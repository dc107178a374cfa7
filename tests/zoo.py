"""All learners with small settings, wrappers included, and batches for them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segue.dynamics import Models
from segue.learners import BC, CQL, DT, IQL, MOPO, O3F, ODT, PEX, SAC, TD3, Hold, Many, Standardise
from segue.losses import Mean, MeanOfPairMin, MeanOfPairMinMinusStd, OwnPairMin, RandomMin, ReturnBound
from segue.types import Batch, Handover, Learner, Spec

SPEC = Spec(obs_dim=3, act_dim=2)
HIDDEN = (16, 16)
ROWS = 32

bc = BC(hidden=HIDDEN)
iql = IQL(hidden=HIDDEN)
sac = SAC(hidden=HIDDEN)
ENSEMBLE: dict[str, Any] = dict(n_critics=4, improve=Mean(), critic_updates=3, entropy_per_action=-0.5, hidden=HIDDEN)
redq = SAC(backup=RandomMin(2), layer_norm=True, **ENSEMBLE)  # in RLPD's form
redq_authors = SAC(backup=RandomMin(2), lagged_critic=True, entropy_by_log=True, **ENSEMBLE)
upq = SAC(n_critics=4, backup=MeanOfPairMinMinusStd(0.5), improve=MeanOfPairMin(), hidden=HIDDEN)
pairs = SAC(n_critics=4, backup=OwnPairMin(), improve=MeanOfPairMin(), hidden=HIDDEN)
merged = SAC(n_actors=2, n_critics=4, backup=OwnPairMin(), improve=MeanOfPairMin(), hidden=HIDDEN)
td3 = TD3(hidden=HIDDEN)
cql = CQL(samples=3, hidden=HIDDEN, critic_hidden=HIDDEN)
calql = CQL(bound=ReturnBound(), gap=0.8, samples=3, backup_samples=3, hidden=HIDDEN, critic_hidden=HIDDEN)
gcql = CQL(n_critics=4, backup=RandomMin(), improve=Mean(), samples=3, hidden=HIDDEN, critic_hidden=(16, 16, 16))
SMALL_BODY: dict[str, Any] = dict(embed=16, layers=2, heads=2, warmup=10, return_scale=1.0, target_return=2.0)
dt = DT(context=4, **SMALL_BODY)
odt = ODT(context=3, explore_return=4.0, **SMALL_BODY)
SMALL_MODELS = Models(members=3, elites=2, hidden=HIDDEN, batch_size=16, patience=1, max_epochs=2)
mopo = MOPO(sac, starts=8, horizon=2, models=SMALL_MODELS)

PLAIN: dict[str, Learner] = {
    "bc": bc,
    "iql": iql,
    "sac": sac,
    "redq": redq,
    "redq (authors)": redq_authors,
    "upq": upq,
    "pairs": pairs,
    "merged": merged,
    "td3": td3,
    "cql": cql,
    "calql": calql,
    "gcql": gcql,
    "dt": dt,
    "odt": odt,
}
WRAPPED: dict[str, Learner] = {
    "pex(iql)": PEX(iql),
    "pex(sac)": PEX(sac),
    "pex(td3)": PEX(td3),
    "hold(sac, actor)": Hold(sac, ("actor",)),
    "standardise(iql)": Standardise(iql),
    "standardise(odt)": Standardise(odt),
    "hold(iql, critic)": Hold(iql, ("critic",)),
    "pex(hold(iql, value))": PEX(Hold(iql, ("value",))),
    "o3f(cql)": O3F(cql, candidates=5),
    "many(cql)": Many(cql, 2),
    "mopo(sac)": mopo,
    "mopo(redq)": MOPO(redq, starts=8, horizon=2, models=SMALL_MODELS),
}
ZOO: dict[str, Learner] = PLAIN | WRAPPED


def make_batch(n: int, seed: int = 0, spec: Spec = SPEC, **columns: Any) -> Batch:
    """`n` random transitions, an eighth of them terminal; `columns` replace theirs."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.normal(size=shape)
    values = {
        "obs": normal(n, spec.obs_dim),
        "action": rng.uniform(-0.9, 0.9, (n, spec.act_dim)),
        "reward": normal(n),
        "next_obs": normal(n, spec.obs_dim),
        "terminal": np.arange(n) % 8 == 3,
        "mc_return": normal(n),
        "offline": np.arange(n) % 2 == 0,
        "weight": np.ones(n),
        "step": np.arange(n),
        "valid": np.ones(n),
    }
    return Batch(**{k: jnp.asarray(v, jnp.result_type(float)) for k, v in (values | columns).items()})


def batch_for(learner: Learner, seed: int = 0, **columns: Any) -> Batch:
    """A batch of as many slices as one update of `learner` takes, in windows where it learns from them."""
    batch = make_batch(ROWS * learner.slices, seed, **columns)
    return in_windows(batch) if learner.windows else batch


def in_windows(batch: Batch) -> Batch:
    """The rows as windows of four, the first of them padded behind its third row. No row is of an open episode."""
    batch = batch._replace(valid=batch.valid.at[3].set(0), mc_return=jnp.nan_to_num(batch.mc_return, neginf=0.0))
    batch = jax.tree.map(lambda x: x * batch.valid.reshape(-1, *[1] * (x.ndim - 1)), batch)
    return jax.tree.map(lambda x: x.reshape(-1, 4, *x.shape[1:]), batch)


def handover(pretrained: Any, seed: int = 7, spec: Spec = SPEC) -> Handover:
    return Handover(spec, jax.random.key(seed), None, pretrained, None)


def same(a: Any, b: Any) -> bool:
    """Whether two trees are equal, bit for bit."""
    if jax.tree.structure(a) != jax.tree.structure(b):
        return False
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def close(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-5) -> None:
    """Assert that two trees are equal up to rounding."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)
