"""The dataset's best episodes alone: %BC of Chen et al. 2021 (arXiv:2106.01345) is cloning with `Best(0.1)`.

The recipe `bc10` clones on standardised observations, as CORL does, with two departures: the loss is a Gaussian's
likelihood with a free deviation, CORL's the squared error; observations are standardised by the whole dataset, CORL's
by the rows that are left.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from segue.errors import ConfigError, DataError
from segue.replays.episodes import episodes_of
from segue.replays.uniform import uniform_below
from segue.store import Store
from segue.types import Key, Replay, Spec


@dataclass(frozen=True)
class Best(Replay):
    """Uniform over the rows of the `fraction` of the dataset's episodes with the highest returns, at least of one.

    Returns are those from the first row on by the phase's rewards and its learner's discount. Never an online row.
    """

    fraction: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ConfigError(f"Best.fraction is a share of the episodes in (0, 1], not {self.fraction}")

    def init(self, key: Key, spec: Spec, store: Store) -> Int[Array, " rows"]:
        """The rows to draw from. Raises `DataError` where the dataset's episodes are not known."""
        start, length, return_ = episodes_of(store, spec, "Best")
        if not len(start):
            raise DataError("Best draws from a dataset, and the task has none; name a task with data (`segue list`)")
        best = np.argsort(return_, kind="stable")[-max(1, int(self.fraction * len(start) + 1e-9)) :]
        episode = np.repeat(np.arange(len(start)), length)  # of each row
        return jnp.asarray(np.flatnonzero(np.isin(episode, best)), jnp.int32)

    def indices(self, rstate: Int[Array, " rows"], store: Store, key: Key, n: int) -> tuple[Array, Array]:
        return rstate[uniform_below(key, n, rstate.shape[0])], jnp.ones(n)
