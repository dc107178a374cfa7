"""A task: an environment, perhaps a dataset, and what a return is worth."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from segue.errors import ConfigError, DataError
from segue.tasks.dataset import Dataset
from segue.tasks.formats import PLAIN, Reading
from segue.tasks.formats.common import GoesOn

if TYPE_CHECKING:
    from segue.tasks.environment import Environment
    from segue.types import Spec


@dataclass(frozen=True)
class Reference:
    """Returns that count as 0 and as 100; or, where `solved` is given, the share of episodes that were solved."""

    name: str
    minimum: float
    maximum: float
    solved: float | None = None  # what a step pays from which on the task is solved

    def __post_init__(self) -> None:
        if not (math.isfinite(self.minimum) and math.isfinite(self.maximum) and self.minimum < self.maximum):
            raise ConfigError(
                f"reference {self.name!r} runs from {self.minimum} to {self.maximum}; "
                "both must be finite, the first below the second"
            )

    def score(self, return_: float) -> float:
        """``100 (return - minimum) / (maximum - minimum)``."""
        return 100.0 * (return_ - self.minimum) / (self.maximum - self.minimum)

    def scores(self, dataset: Dataset) -> np.ndarray:
        """The score of each episode, [E] float64; where `solved` is given, of each recording.

        A recording that goes on behind the goal is one however many ends of the task it holds: an episode belongs to
        the one before if it starts, bit for bit, where that one's terminal row led.
        """
        if self.solved is not None:
            return 100.0 * (np.maximum.reduceat(dataset.reward, _recordings(dataset)) >= self.solved)
        return self.score(dataset.returns)  # type: ignore[return-value, arg-type]


def never(obs: Any, action: Any, next_obs: Any) -> Any:
    """`Task.terminates` of a task whose episodes are only cut: False in every row, [B] bool."""
    del obs, action
    return abs(next_obs[..., 0]) < 0


def _recordings(dataset: Dataset) -> np.ndarray:
    """First row of each recording, [R] int64: the starts of episodes that do not go on from a terminal row."""
    starts = dataset.starts[1:]
    before = starts - 1
    goes_on = dataset.terminal[before] & (dataset.obs[starts] == dataset.next_obs[before]).all(1)
    return np.append(0, starts[~goes_on])


@dataclass(frozen=True, eq=False)
class Task:
    """What a run is about. Two tasks are the same if their ``source`` is."""

    name: str
    family: str  # key of the presets: "point-wall", "locomotion", "custom"
    source: dict[str, Any]  # JSON-able: `from_source` makes the task again from it
    make_env: Callable[[], Environment]
    load_dataset: Callable[[], Dataset] | None
    reference: Reference | None
    replayable: bool  # whether a seed and the actions lead back into the middle of an episode
    obs_dim: int
    act_dim: int
    horizon: int | None = None  # steps
    terminates: Callable[[Any, Any, Any], Any] | None = None  # (obs, action, next_obs) -> bool, on arrays of jnp
    reading: Reading = PLAIN  # how a file of the user's is understood
    relabel: Callable[[Dataset], Dataset] | None = None  # what rows from a file of the user's become
    goes_on: GoesOn | None = None  # where `relabel` looks across ends of episodes: pieces of a file are not cut there

    @property
    def spec(self) -> Spec:
        """What a learner must know of the task."""
        from segue.types import Spec

        return Spec(self.obs_dim, self.act_dim, self.horizon, self.terminates)

    @cached_property
    def dataset(self) -> Dataset:
        """The offline data, loaded once. Raises ``ConfigError`` if there are none, ``DataError`` if they do not fit."""
        if self.load_dataset is None:
            raise ConfigError(f"task {self.name!r} has no dataset; name a task with data (`segue list`) or give a file")
        return self.fitting(self.load_dataset())

    def fitting(self, dataset: Dataset) -> Dataset:
        """The dataset, if its observations and actions are as long as the environment's; else ``DataError``."""
        for what, data, env in (
            ("observations", dataset.obs_dim, self.obs_dim),
            ("actions", dataset.act_dim, self.act_dim),
        ):
            if data != env:
                raise DataError(
                    f"{what} of the dataset {dataset.name!r} have {data} entries, and those of the environment of "
                    f"{self.name!r} have {env}; give the environment that the data were recorded in"
                )
        return dataset

    @cached_property
    def score_reference(self) -> Reference | None:
        """The task's reference, else the range of the dataset's episode returns, else (or if that is a point) None."""
        if self.reference is not None:
            return self.reference
        if self.load_dataset is None:
            return None
        low, high = float(self.dataset.returns.min()), float(self.dataset.returns.max())
        return Reference("dataset return range", low, high) if low < high else None

    @property
    def score_name(self) -> str:
        """What `score` measures against: the name of the reference, or "return" for the bare return."""
        return "return" if self.score_reference is None else self.score_reference.name

    def score(self, return_: float, success: float | None = None) -> float:
        """One episode on the scale that `score_name` names; a mean score is the mean of these.

        A success rate counts `success` (``info["episode"]["success"]``; None: not solved so far), not the return.
        """
        reference = self.score_reference
        if reference is not None and reference.solved is not None:
            return 100.0 * (success or 0.0)
        return float(return_) if reference is None else reference.score(float(return_))
