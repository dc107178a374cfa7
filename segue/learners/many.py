"""Several agents, pre-trained apart and merged: Off2OnRL.  Lee et al., CoRL 2021, arXiv:2107.00591.

    μ = mean_i μ_i(s),  σ² = mean_i (μ_i² + σ_i²) - μ²,  π(·|s) = tanh N(μ, σ²)              (1)
    y_i = r + γ (min_j Q̂_ij(s',a') - α log π(a'|s')),  a' ~ π(s')
    L_Q = Σ_i Σ_j E[ (Q_ij(s,a) - y_i)² ]
    L_π = E[ α log π(a|s) - mean_i min_j Q_ij(s,a) ],  a ~ π(s)

`Many(CQL())` is N agents, i = 1..N, that share nothing: each has batches of its own, an update counts those of one.
They act by (1), and so does what `Merge` makes of them: the same policy, trained jointly from then on, over all their
critics. The two losses are `SAC(n_actors=N, backup=OwnPairMin(), improve=MeanOfPairMin())`. The optimisers and α start
afresh, the targets equal to the critics.

Departures: the agents are pre-trained here, with CQL's page's settings; the authors published theirs ready. The order
of steps is that of `SAC`; the authors take all of them from the same parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
from jaxtyping import Array

from segue import nets
from segue.errors import ConfigError, HandoverError, within
from segue.transitions import draw, inherit, retrace, wrapper
from segue.types import (
    Batch,
    Handover,
    Key,
    Learner,
    Metrics,
    Module,
    Report,
    Spec,
    Trained,
    Wrapper,
    replace,
    store_learner,
)


class State(Module):
    base: Any  # every array with a leading axis N


class Merged(Module):
    """What the agents hand over."""

    actor: Trained[nets.MixtureActor]
    critic: Trained[nets.Critic]  # those of an agent are neighbours


@dataclass(frozen=True)
class Many(Wrapper):
    base: Learner
    n: int = 5  # N

    def __post_init__(self) -> None:
        within(self, n="[2, inf)")
        if isinstance(self.base, Wrapper) or self.base.windows or store_learner(self.base):
            raise ConfigError(
                f"Many: {type(self.base).__name__} wraps a learner, takes windows, or learns from the store itself; "
                "use a plain learner, and wrap the whole: Standardise(Many(CQL()))"
            )

    @property
    def slices(self) -> int:
        return self.n * self.base.slices

    def init(self, key: Key, spec: Spec) -> State:
        base = jax.vmap(lambda k: self.base.init(k, spec))(jax.random.split(key, self.n))
        if not isinstance(base.actor.net, nets.SquashedActor):
            raise ConfigError(
                f"Many matches the moments of squashed Gaussian policies, and {type(self.base).__name__}'s is none; "
                "use CQL or SAC, or IQL and BC with head='squashed'"
            )
        return State(base)

    def update(self, state: State, batch: Batch, key: Key, **imitate: Array) -> tuple[State, Metrics]:
        def one(base: Any, key: Key, batch: Batch, imitate: dict[str, Array]) -> tuple[Any, Metrics]:
            return self.base.update(base, batch, key, **imitate)

        own = jax.tree.map(lambda x: x.reshape(self.n, -1, *x.shape[1:]), (batch, imitate))  # [N, slices B, ...]
        base, info = jax.vmap(one)(state.base, jax.random.split(key, self.n), *own)
        return State(base), jax.tree.map(lambda x: x.mean(0), info)

    def policy(self, state: State, obs: Array, key: Key, greedy: bool = False) -> Array:
        pi = _mixture(state)(obs)  # (1)
        return pi.mode() if greedy else pi.sample(key)

    def act(
        self, state: State, memory: Any, obs: Array, last_reward: Array, key: Key, greedy: bool
    ) -> tuple[Array, Any, Metrics]:
        return self.policy(state, obs, key, greedy), memory, {}


def _mixture(state: State) -> nets.MixtureActor:
    actor = state.base.actor.net
    return nets.MixtureActor(actor.net, actor.limits)


def _merged(state: Any) -> Any:
    """`state` with `Merged` in the place of the agents, within its wrappers."""
    if type(state) is not State:
        return replace(state, base=_merged(state.base))
    if not hasattr(state.base, "critic"):
        raise HandoverError(
            "Merge keeps the agents' critics, and those of the source phase have none; use CQL, SAC or IQL"
        )
    critic = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), state.base.critic.net)  # [N, E] -> [N E]
    return Merged(Trained(_mixture(state), None), Trained(critic, None))


@dataclass(frozen=True)
class Merge:
    """Transition from `Many` into one agent: its policy (1) and all critics; the rest is fresh."""

    def __call__(self, learner: Learner, handover: Handover) -> tuple[Any, Report]:
        pretrained, report = handover.pretrained, {}
        if pretrained is None or wrapper(State, pretrained) is None:
            raise HandoverError("Merge makes one agent of several; its source phase needs the learner Many(...)")
        fresh = draw(learner, handover.key, handover.spec)
        return retrace(inherit(fresh, _merged(pretrained), report, skip=handover.skip, moments=False)), report
