"""Uniform over the union of dataset and ring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from segue.store import Store
from segue.types import Key, Replay


def uniform_below(key: Key, n: int, size: Array | int) -> Array:
    """`n` integers in ``0..size-1``; 0 where size is 0."""
    return jax.random.randint(key, (n,), 0, jnp.maximum(size, 1))


@dataclass(frozen=True)
class Uniform(Replay):
    """Every row that there is, equally often."""

    def indices(self, rstate: Any, store: Store, key: Key, n: int) -> tuple[Array, Array]:
        return uniform_below(key, n, store.size), jnp.ones(n)
