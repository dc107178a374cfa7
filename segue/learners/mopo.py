"""Model-based offline policy optimisation.  Yu et al., NeurIPS 2020, arXiv:2005.13239.

    r̃(s,a) = r̂(s,a) - λ u(s,a),   u(s,a) = max_i ‖Σ_i(s,a)‖          (eq. 11, sec. 4.3)

An ensemble of models N(μ_i, Σ_i) of (r, s' - s) is learnt from the store (`segue.dynamics`); from its rows the policy
is rolled out for a few steps in the elites, and `base` (SAC) learns from the penalised rows, mixed with real ones.
Models and rollouts are made in `refit`. MOORe (Mao et al. 2022, arXiv:2201.10070) carries all of it online: models are
trained on as rows come in (`retrain_every`), by a replay that lets the dataset fade (`Decaying`), and no row of a batch
is real: `replay/offline` then says what models and the starts of rollouts are drawn by.

Departures: u also counts how far a member's mean lies from the members' common one. Near the data that is next to
nothing; far from them it grows, while a learnt deviation need not (a test holds an example). Batches are drawn from a
member's bootstrap with replacement, not by shuffled epochs; the bounds of the log-variance are a member's own; inputs
stay scaled as at the first training; a rule of termination is learnt where the task gives none; the target entropy is
-|A| on every task, as in OfflineRL-Kit, where the released code has -3. MOORe leaves its schedules open; ours are
fields with their defaults.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from segue import dynamics as models
from segue.errors import ConfigError, Diverged
from segue.store import Layout, Rows
from segue.types import Batch, Key, Learner, Metrics, Module, Refit, Spec, Wrapper, replace, split, store_learner


class State(Module):
    base: Any
    dynamics: models.Dynamics
    imagined: models.Pool  # rewards penalised


@dataclass(frozen=True)
class MOPO(Wrapper):
    base: Learner
    penalty: float = 1.0  # λ
    deviation: models.Deviation = "total"  # "learnt": u of the equation, as released
    horizon: int = 5  # H, steps of a rollout
    starts: int = 50_000  # rollouts made at each refit
    retain: int = 5  # refits whose rollouts are kept
    real_share: float = 0.05  # of each batch; the rest is imagined
    retrain_every: int = 1000  # new rows of the store after which a refit trains the models again
    models: models.Models = field(default_factory=models.Models)

    def __post_init__(self) -> None:
        if min(self.horizon, self.starts, self.retain, self.retrain_every) < 1 or not 0 <= self.real_share <= 1:
            raise ConfigError(
                "MOPO: horizon, starts, retain and retrain_every must be at least 1, real_share lie in 0..1"
            )
        if store_learner(self.base) or self.base.windows or self.base.imitates:
            raise ConfigError(
                f"MOPO: {type(self.base).__name__} cannot learn in models: it takes windows, imitates the data's "
                "actions, or learns from the store itself; use SAC or TD3"
            )

    def init(self, key: Key, spec: Spec) -> State:
        k_base, k_models = split(key)
        capacity = self.retain * self.starts * self.horizon
        width = Layout(spec.obs_dim, spec.act_dim).width
        imagined = models.Pool(jnp.zeros((capacity, width)), jnp.zeros((), jnp.int32))
        return State(self.base.init(k_base, spec), models.init(k_models, spec, self.models), imagined)

    def refit(self, state: State, rows: Rows, key: Key, piece: int) -> Refit:
        k_fit, k_roll = split(key)
        dynamics, before, metrics = state.dynamics, int(state.dynamics.rows), {}
        if piece == 0:
            due = before < 0 or models.seen(rows) >= before + self.retrain_every
            error = models.newest_error(dynamics, rows, before) if due and before >= 0 else None
            if error is not None:
                metrics["model/newest"] = error
            if due:
                dynamics = models.begin_fit(dynamics, rows, k_fit)
        fitting = piece > 0 or due
        if fitting:
            part = models.fit_piece(dynamics, rows, k_fit, self.models)
            dynamics, metrics = part.dynamics, metrics | part.metrics
            if not part.done:
                return Refit(replace(state, dynamics=dynamics), False, metrics, progress=part.progress)
            dynamics = models.fitted(dynamics, self.models)

        new = models.imagine(
            dynamics, self.base, state.base, rows, k_roll, self.starts, self.horizon, self.penalty, self.deviation
        )
        metrics |= {name: float(x) for name, x in new.metrics.items()}
        if not metrics["model/rows"]:
            raise Diverged("models: not one imagined row is a number; train the models again with a lower models.lr")
        imagined = state.imagined.add(new)
        notes = models.notes(dynamics, rows, k_fit) if fitting else {}
        notes["imagined"] = f"{metrics['model/rows']:,.0f} rows, penalty {metrics['model/penalty']:.3g}"
        notes["outside the data's range"] = f"{metrics['model/outside']:.1%}"
        if metrics["model/broken"]:
            notes["not a number"] = f"{metrics['model/broken']:,.0f} predictions"
        return Refit(State(state.base, dynamics, imagined), True, metrics, notes)

    def update(self, state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        k_imagined, k_update = split(key)
        n = batch.reward.shape[0] // self.slices
        real = round(self.real_share * n)
        slots = jax.random.randint(k_imagined, (self.slices, n - real), 0, jnp.maximum(state.imagined.size, 1))
        fake = Layout(batch.obs.shape[-1], batch.action.shape[-1]).batch(state.imagined.rows[slots])

        def mixed(x: Array, y: Array) -> Array:  # slice by slice: first the real rows, then the imagined ones
            x = x.reshape(self.slices, n, *x.shape[1:])[:, :real]
            return jnp.concatenate([x, y], 1).reshape(self.slices * n, *x.shape[2:])

        base, info = self.base.update(state.base, jax.tree.map(mixed, batch, fake), k_update)
        return replace(state, base=base), info | {"model/imagined_reward": fake.reward.sum() / max(fake.reward.size, 1)}
