"""An exact share of every batch from the dataset, the rest from interaction.

Symmetric sampling of RLPD (Ball et al., ICML 2023, arXiv:2302.02948) and PEX is `Symmetric(0.5)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from segue.errors import within
from segue.replays.uniform import uniform_below
from segue.store import Store
from segue.types import Key, Replay, split


@dataclass(frozen=True)
class Symmetric(Replay):
    """``round(offline * n)`` rows from the dataset, the others from the ring, uniform within each.

    While one side is empty the other fills the batch; the metric ``replay/offline`` shows it. `Symmetric(0.0)` is
    online data only and never falls back to the dataset.
    """

    offline: float = 0.5

    def __post_init__(self) -> None:
        within(self, offline="[0, 1]")

    def indices(self, rstate: Any, store: Store, key: Key, n: int) -> tuple[Array, Array]:
        k_off, k_on = split(key)
        n_off = round(self.offline * n)
        offline = uniform_below(k_off, n, store.size_offline)
        online = store.size_offline + uniform_below(k_on, n, store.size_online)
        first = jnp.arange(n) < n_off
        if self.offline > 0 and store.size_offline:
            first |= store.size_online == 0
        if store.size_offline == 0:
            first = jnp.zeros(n, bool)
        return jnp.where(first, offline, online), jnp.ones(n)
