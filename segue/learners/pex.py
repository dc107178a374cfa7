"""Policy expansion.  Zhang, Xu & Yu, ICLR 2023, arXiv:2302.00935.

    π̃(·|s) = Σ_i w_i δ[a_i ~ π_i(·|s)],   w_i ∝ exp(Q(s, a_i) / α)    (eq. 6)

The offline policy π_β is kept, frozen; a new π_θ learns by `base`; the critic carries over (`Expand`). Both propose an
action and the critic draws between them. The set may grow: expanding an expanded state freezes its π_θ too.
A base that imitates actions (IQL) learns π_θ from the set's own proposals; any other learns as it always does.

Departures: greedy evaluation takes the best proposal's mode, where the released code stays 10 % random twice; a batch
is proposed for before the update's own steps and judged by the target critic from before its Polyak step, where the
released code does both after them; stored actions are clipped to the box. Frozen members act by their mode, as the
released ones; the paper's equation samples them (`sample_frozen`). Algorithm 1 imitates the data (`imitate="data"`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from segue import nets
from segue.errors import HandoverError, within
from segue.transitions import draw, inherit, note, retrace, wrapper
from segue.types import (
    Batch,
    Handover,
    Key,
    Learner,
    Metrics,
    Module,
    Report,
    Spec,
    Wrapper,
    chain,
    check_critic,
    core,
    replace,
    split,
)


class State(Module):
    base: Any  # π_θ, Q and whatever else the base trains
    members: tuple[nets.Actor, ...]  # frozen, oldest first


@dataclass(frozen=True)
class PEX(Wrapper):
    base: Learner
    inv_temperature: float = 10.0  # 1/α: 0 chooses uniformly, large takes the best proposal
    imitate: Literal["composite", "data"] = "composite"  # what an imitating base learns from
    sample_frozen: bool = False  # frozen members propose samples instead of modes

    def __post_init__(self) -> None:
        within(self, inv_temperature="[0, inf)")

    def init(self, key: Key, spec: Spec) -> State:
        base = self.base.init(key, spec)
        check_critic("PEX", self.base, base)
        if any(hasattr(s, "obs_mean") for s in chain(base)):
            raise HandoverError("PEX asks members and critic about the same observations; use it without Standardise")
        return State(base, (core(base).actor.net,))

    def propose(
        self, state: State, obs: Float[Array, "B obs"], key: Key, greedy: bool
    ) -> tuple[Float[Array, "B act"], Int[Array, " B"], Float[Array, "K B"]]:
        """The chosen proposals, whose they are (K - 1 is the learning policy), and the choice's logits."""
        k_base, k_frozen, k_choice = split(key, 3)
        keys = jax.random.split(k_base, obs.shape[0])
        new = jax.vmap(lambda o, k: self.base.policy(state.base, o, k, greedy))(obs, keys)
        frozen = [pi(obs) for pi in state.members]
        if self.sample_frozen and not greedy:
            proposals = [pi.sample(k) for pi, k in zip(frozen, split(k_frozen, len(frozen)), strict=True)]
        else:
            proposals = [pi.mode() for pi in frozen]
        a = jnp.clip(jnp.stack([*proposals, new]), -1, 1)  # [K, B, A]
        q = core(state.base).critic(jnp.broadcast_to(obs, (*a.shape[:-1], obs.shape[-1])), a).min(0)  # [K, B]
        logits = self.inv_temperature * q
        i = q.argmax(0) if greedy else jax.random.categorical(k_choice, logits, axis=0)
        return jnp.take_along_axis(a, i[None, :, None], 0)[0], i, logits  # (6)

    def update(self, state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        if self.base.imitates and self.imitate == "composite":
            k_propose, key = split(key)
            a, i, _ = self.propose(state, batch.obs, k_propose, False)
            base, info = self.base.update(state.base, batch, key, imitate=jax.lax.stop_gradient(a))  # type: ignore[call-arg]
            info = info | {"actor/own_proposals": (i == len(state.members)).mean()}
        else:
            base, info = self.base.update(state.base, batch, key)
        return State(base, state.members), info

    def policy(self, state: State, obs: Array, key: Key, greedy: bool = False) -> Array:
        return self.propose(state, obs[None], key, greedy)[0][0]

    def act(
        self, state: State, memory: Any, obs: Array, last_reward: Array, key: Key, greedy: bool
    ) -> tuple[Array, Any, Metrics]:
        a, i, logits = self.propose(state, obs[None], key, greedy)
        log_w = jax.nn.log_softmax(logits[:, 0])
        info = {"act/own": (i[0] == len(state.members)) * 1.0, "act/choice_entropy": -(jnp.exp(log_w) * log_w).sum()}
        return a[0], memory, info


@dataclass(frozen=True)
class Expand:
    """Transition into PEX: freeze the pre-trained policy into the set, keep its critic, start a new policy afresh."""

    moments: bool = False  # carry the optimisers' moments too; the released code starts them afresh

    def __call__(self, learner: Learner, handover: Handover) -> tuple[State, Report]:
        pretrained, report = handover.pretrained, {}
        if not isinstance(learner, PEX):
            raise HandoverError(
                f"Expand makes the first state of PEX, not of {type(learner).__name__}; to hold nets of it still, wrap "
                "what it expands: PEX(Hold(...))"
            )
        if pretrained is None or not hasattr(core(pretrained), "actor"):
            raise HandoverError("Expand needs a source phase whose learner has an actor")
        if not isinstance(core(pretrained).actor.net, nets.Actor):
            raise HandoverError("Expand keeps policies of single observations; the source's acts by a sequence of them")
        fresh = draw(learner, handover.key, handover.spec)
        base = inherit(fresh.base, pretrained, report, skip=("actor", *handover.skip), moments=self.moments)
        earlier = wrapper(State, pretrained)
        members = (*(earlier.members if earlier else ()), core(pretrained).actor.net)
        for i in range(len(members)):
            note(report, f"members[{i}]", "frozen")
        return retrace(replace(fresh, base=base, members=members)), report
