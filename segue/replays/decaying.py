"""Dataset rows that fade as the interaction goes on.

MOORe (Mao et al. 2022, arXiv:2201.10070) gives a row priority 1 if it is online and 1 / (alpha t) if it is offline, in
the t-th epoch of the interaction. Priorities are equal within either side, so the side is drawn first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from segue.errors import ConfigError
from segue.replays.uniform import uniform_below
from segue.store import Store
from segue.types import Key, Replay, split


@dataclass(frozen=True)
class Decaying(Replay):
    """Each dataset row ``1 / (alpha t)`` times as likely as an online row, t = 1, 2, ... every `epoch` online rows."""

    alpha: float = 1.0
    epoch: int = 1000  # online rows

    def __post_init__(self) -> None:
        if self.alpha <= 0 or self.epoch < 1:
            raise ConfigError(f"Decaying: alpha ({self.alpha}) must be over 0 and epoch ({self.epoch}) at least 1")

    def share(self, store: Store) -> Float[Array, ""]:
        """The probability of a dataset row."""
        t = 1 + store.ring.written // self.epoch
        mass = store.size_offline / (self.alpha * t)
        return mass / jnp.maximum(mass + store.size_online, 1e-9)

    def indices(self, rstate: Any, store: Store, key: Key, n: int) -> tuple[Array, Array]:
        k_side, k_off, k_on = split(key, 3)
        offline = uniform_below(k_off, n, store.size_offline)
        online = store.size_offline + uniform_below(k_on, n, store.size_online)
        return jnp.where(jax.random.bernoulli(k_side, self.share(store), (n,)), offline, online), jnp.ones(n)
