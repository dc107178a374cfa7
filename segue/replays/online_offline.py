"""The newest rows of the interaction beside all others, a whole batch from one side: the buffer of APL.

Adaptive policy learning (Zheng et al., AAAI 2023, arXiv:2303.07693) learns greedily from near-on-policy rows and with
pessimism from all others. Its "offline buffer" is the dataset and every row of the interaction, its "online buffer"
the newest rows alone, which are in both. The draw says which kind it is by W, the weight of its rows; what W weighs,
a conservative penalty (GCQL) or a cloning term (GCTD3BC), is the learner's affair.

The recipe `gcql` departs from the released code in these: nets start as all of this library do (there: fan-in weights,
hidden biases of 0.1); every loss uses the temperature from before its step; an episode goes on over a block of updates
(there the environment is reset, the cut unmarked); with fewer online steps than 100,000 block, buffer and threshold
shrink with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from segue.errors import within
from segue.replays.uniform import uniform_below
from segue.store import Store
from segue.types import Key, Replay, split


@dataclass(frozen=True)
class OnlineOffline(Replay):
    """With probability `p` a batch of the `recent` newest online rows, weight 0; else of the union, weight 1.

    One draw decides for the whole batch (for each slice, where an update takes several). Uniform within either side.
    While no more than `after` of the newest rows are there, and so always where `after >= recent`, every batch is of
    the union.
    """

    p: float = 0.5
    recent: int = 20_000  # rows of the online buffer
    after: int = 10_000  # rows that it must exceed before it is drawn from

    def __post_init__(self) -> None:
        within(self, p="[0, 1]", recent="[1, inf)", after="[0, inf)")

    def indices(self, rstate: Any, store: Store, key: Key, n: int) -> tuple[Array, Array]:
        k_side, k_newest, k_all = split(key, 3)
        ring, held = store.ring, jnp.minimum(store.size_online, self.recent)
        age = uniform_below(k_newest, n, held)  # 0: the newest row
        newest = store.size_offline + (ring.written - 1 - age) % ring.capacity
        greedy = jax.random.bernoulli(k_side, self.p) & (held > self.after)
        indices = jnp.where(greedy, newest, uniform_below(k_all, n, store.size))
        return indices, jnp.where(greedy, jnp.zeros(n), 1.0)
