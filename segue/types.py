"""The words that the whole library is written in: five protocols and the arrays that pass between them.

A *learner* changes a state by batches, a *transition* makes the first state of a phase from the last state of another,
a *replay* is a distribution over the rows of the store, a *bonus* changes the rewards of a batch, and a *phase*
(``segue.phases``) names one of each. A state holds arrays only; everything else belongs to the frozen dataclasses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

import equinox as eqx
import jax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from segue.errors import HandoverError

Module = eqx.Module
Metrics = dict[str, Array]
Key = PRNGKeyArray
Report = dict[str, str]  # "critic" -> "carried", "critic optimiser" -> "reset", ...
Net = TypeVar("Net")


class Spec(NamedTuple):
    """What a learner must know of a task."""

    obs_dim: int
    act_dim: int
    horizon: int | None = None  # time limit in steps, where the task has one
    terminates: Callable[[Array, Array, Array], Array] | None = None  # (obs, action, next_obs) -> bool, where known


class Batch(NamedTuple):
    """Columns of transitions: ``[B, ...]`` in an update, ``[B, K, ...]`` for windows. Actions lie in [-1, 1]."""

    obs: Float[Array, "*B obs"]
    action: Float[Array, "*B act"]
    reward: Float[Array, "*B"]  # after the phase's reward transform and bonus
    next_obs: Float[Array, "*B obs"]
    terminal: Float[Array, "*B"]  # 1: the MDP ended. A time limit is not terminal
    mc_return: Float[Array, "*B"]  # discounted return-to-go; -inf while the episode is open
    offline: Float[Array, "*B"]  # 1: from the dataset, 0: from interaction
    weight: Float[Array, "*B"]  # of the row in conservative and cloning terms; 1 unless the replay says less
    step: Float[Array, "*B"]  # time in the episode
    valid: Float[Array, "*B"]  # 0: padding

    @property
    def transition(self) -> tuple[Array, Array, Array, Array, Array]:
        """``s, a, r, s_next, terminal``."""
        return self.obs, self.action, self.reward, self.next_obs, self.terminal


class Trained(Module, Generic[Net]):
    """A network with the moments of its optimiser; calling it calls the network."""

    net: Net
    opt: PyTree

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.net(*args, **kwargs)  # type: ignore[operator]


class Episode(NamedTuple):
    """A finished episode as a learner sees it; ``score`` is normalised (100 = the task's reference maximum)."""

    score: float
    return_: float
    length: int
    greedy: bool


class Refit(NamedTuple):
    """What a piece of `Learner.refit` came to; the loop asks for pieces until one is `done`."""

    state: Any
    done: bool = True
    metrics: Mapping[str, float] = MappingProxyType({})  # of the piece: ``model/holdout``
    notes: Report = MappingProxyType({})  # type: ignore[assignment]  # in words, for people: "elites" -> "0, 2, 4"
    progress: str = ""  # how far a long refit is, in words


class Learner(ABC):
    """A method: pure functions over a state of arrays.

    Final subclasses are frozen dataclasses whose fields are the paper's hyper-parameters. Methods are never
    subclassed: they share functions and wrap one another (`Wrapper`).
    """

    imitates: ClassVar[bool] = False  # whether `update` takes `imitate`: the actions its actor loss regresses on
    windows: ClassVar[bool] = False  # whether it learns from windows of rows, [B, K, ...]
    discount: float = 0.99

    @property
    def held(self) -> tuple[str, ...]:
        """Fields of the state that `update` leaves as they are."""
        return ()

    @property
    def slices(self) -> int:
        """Batches that one `update` consumes: its batch has ``slices * batch_size`` rows, slice after slice."""
        return 1

    @property
    def stride(self) -> int:
        """Steps that one `update` counts: its batches; of learners side by side those of one."""
        return self.slices

    @abstractmethod
    def init(self, key: Key, spec: Spec) -> Any:
        """A fresh state."""

    @abstractmethod
    def update(self, state: Any, batch: Batch, key: Key) -> tuple[Any, Metrics]:
        """One update. Metric names start with the part they describe: ``critic/td``."""

    @abstractmethod
    def policy(self, state: Any, obs: Float[Array, " obs"], key: Key, greedy: bool = False) -> Float[Array, " act"]:
        """An action for one observation; `vmap` makes batches."""

    def begin(self, state: Any, key: Key, greedy: bool) -> Any:
        """The acting memory at an episode's start (a clock, a context); most methods need none."""
        return ()

    def act(
        self, state: Any, memory: Any, obs: Array, last_reward: Array, key: Key, greedy: bool
    ) -> tuple[Array, Any, Metrics]:
        """An action, the memory after it, and ``act/...`` metrics."""
        return self.policy(state, obs, key, greedy), memory, {}

    def observe(self, state: Any, episode: Episode) -> Any:
        """The state after a training episode or an evaluation (controllers that follow the score)."""
        return state

    def refit(self, state: Any, rows: Any, key: Key, piece: int) -> Refit:
        """Learning from the whole store, on the host: at a phase's start and every ``Phase.refit_every`` steps.

        ``rows`` (`segue.store.Rows`) draws by the phase's replay and rewards. A long refit is done in pieces of about a
        second or a few, each a function of the state it finds: a run may be saved and stopped between two. ``key`` is
        the same for all pieces of one refit.
        """
        return Refit(state)


class Wrapper(Learner):
    """A learner around another one, in its field ``base``; its state has exactly one field ``base``, the other's.

    What a wrapper does not define is what its base does.
    """

    base: Learner

    @property
    def imitates(self) -> bool:  # type: ignore[override]
        return self.base.imitates

    @property
    def windows(self) -> bool:  # type: ignore[override]
        return self.base.windows

    @property
    def discount(self) -> float:  # type: ignore[override]
        return self.base.discount

    @property
    def held(self) -> tuple[str, ...]:
        return self.base.held

    @property
    def slices(self) -> int:
        return self.base.slices

    @property
    def stride(self) -> int:
        return self.base.stride

    def policy(self, state: Any, obs: Array, key: Key, greedy: bool = False) -> Array:
        return self.base.policy(state.base, obs, key, greedy)

    def begin(self, state: Any, key: Key, greedy: bool) -> Any:
        return self.base.begin(state.base, key, greedy)

    def act(
        self, state: Any, memory: Any, obs: Array, last_reward: Array, key: Key, greedy: bool
    ) -> tuple[Array, Any, Metrics]:
        return self.base.act(state.base, memory, obs, last_reward, key, greedy)

    def observe(self, state: Any, episode: Episode) -> Any:
        return replace(state, base=self.base.observe(state.base, episode))

    def refit(self, state: Any, rows: Any, key: Key, piece: int) -> Refit:
        refit = self.base.refit(state.base, rows, key, piece)
        return refit._replace(state=replace(state, base=refit.state))


def store_learner(learner: Learner) -> Learner | None:
    """`learner`, or else one that it wraps, if it learns from the store itself: has a `refit` of its own."""
    if type(learner).refit not in (Learner.refit, Wrapper.refit):
        return learner
    return store_learner(learner.base) if isinstance(learner, Wrapper) else None


class Handover(NamedTuple):
    """What a transition may look at."""

    spec: Spec
    key: Key
    store: Any  # segue.store.Store
    pretrained: Any | None  # last state of the source phase; None at the start of a run
    score: float | None  # of the run's last greedy evaluation
    skip: tuple[str, ...] = ()  # nets that will be drawn anew whatever the source has


class Transition(Protocol):
    """A frozen dataclass that makes a phase's first state.

    It is called twice: when a run is made by shapes alone (`jax.eval_shape`), on an empty ring and without a score, and
    when its phase begins.
    """

    def __call__(self, learner: Learner, handover: Handover) -> tuple[Any, Report]: ...


class Replay(ABC):
    """A distribution over the rows of the store (final subclasses are frozen dataclasses)."""

    def init(self, key: Key, spec: Spec, store: Any) -> Any:
        """The replay's own state. Raises `ConfigError` or `DataError` where the store does not serve it."""
        return ()

    @abstractmethod
    def indices(self, rstate: Any, store: Any, key: Key, n: int) -> tuple[Int[Array, " n *K"], Float[Array, " n *K"]]:
        """Rows of the union (dataset first, then the ring), or windows of them padded by -1, and their weights."""

    def add(self, rstate: Any, store: Any) -> Any:
        """The replay's state after one more row of the interaction: the newest of the store's ring."""
        return rstate

    def update(self, rstate: Any, store: Any, indices: Array, batch: Batch, key: Key) -> tuple[Any, Metrics]:
        """Once per update, after the learner's, on its rows as the store has them (priorities, density ratios)."""
        return rstate, {}

    def close(self, rstate: Any, start: int, length: int) -> Any:
        """The replay's state after an episode of the interaction: rows ``start .. start + length - 1`` ever written."""
        return rstate


class Bonus(Protocol):
    """An intrinsic reward (a frozen dataclass). It enters batches, never the store."""

    def init(self, key: Key, spec: Spec, store: Any) -> Any: ...

    def visit(self, bstate: Any, row: Batch) -> tuple[Any, Metrics]:
        """Once per environment step."""
        ...

    def update(self, bstate: Any, batch: Batch, key: Key) -> tuple[Any, Metrics]:
        """Once per update, before `relabel`."""
        ...

    def relabel(self, bstate: Any, batch: Batch) -> Batch: ...


def core(state: Any) -> Any:
    """The innermost state: follows ``base`` through all wrappers."""
    while hasattr(state, "base"):
        state = state.base
    return state


def chain(state: Any) -> list[Any]:
    """A state and those that it wraps, outermost first."""
    return [state, *(chain(state.base) if hasattr(state, "base") else [])]


def check_critic(who: str, learner: Learner, state: Any) -> None:
    """That `who`, who chooses actions by the critic of `learner`, finds one there. Raises `HandoverError`."""
    name = type(learner).__name__
    if not hasattr(core(state), "critic"):
        raise HandoverError(f"{who} chooses by a critic and {name} has none; wrap a learner with one (IQL, SAC, CQL)")
    if learner.stride != learner.slices:
        raise HandoverError(f"{who} chooses by one critic, and {name}'s agents have one each; merge them first (Merge)")


def with_core(state: Any, inner: Any) -> Any:
    """`state` with its innermost state replaced by `inner`."""
    return replace(state, base=with_core(state.base, inner)) if hasattr(state, "base") else inner


def replace(module: Any, **fields: Any) -> Any:
    """A copy of a Module with some fields exchanged."""
    names = tuple(fields)
    return eqx.tree_at(
        lambda m: tuple(getattr(m, n) for n in names),
        module,
        tuple(fields.values()),
        is_leaf=lambda x: x is None,
    )


def split(key: Key, n: int = 2) -> tuple[Key, ...]:
    """`n` keys as a tuple."""
    return tuple(jax.random.split(key, n))
