"""Episodes by their rows: the dataset's, or why they are not known, and those of the interaction."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from segue.errors import DataError
from segue.store import Store
from segue.types import Spec

WAY_OUT = (
    "mark the ends in a 'timeout' column, rows in the order they were recorded; without such a column the time limit "
    "of the environment is taken, where it has one (--env)"
)


class Episodes(NamedTuple):
    """First row, length and return (by the phase's rewards and discount) of each."""

    start: np.ndarray
    length: np.ndarray
    return_: np.ndarray


def episodes_of(store: Store, spec: Spec, who: str) -> Episodes:
    """The dataset's episodes in their order; none without a dataset.

    Raises `DataError` where their ends are plainly not known: whole episodes are what `who` draws by.
    """
    n = store.size_offline
    c = store.layout.columns(store.offline[:n])
    ends = np.flatnonzero(np.maximum(np.asarray(c["terminal"]), np.asarray(c["timeout"])))
    start = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64) if n else np.zeros(0, np.int64)
    length = np.diff(start, append=n)
    if n > 1 and spec.horizon != 1 and np.mean(length == 1) > 0.9:
        raise DataError(
            f"{who} needs whole episodes, and {np.mean(length == 1):.0%} of the dataset's have a single row: its rows "
            f"were shuffled, or every row is marked as an end; {WAY_OUT}"
        )
    if spec.horizon is not None and length.max(initial=0) > spec.horizon:
        i = int(np.argmax(length > spec.horizon))
        raise DataError(
            f"{who} needs whole episodes, and that from row {start[i]} on has {length[i]} rows, more than the task's "
            f"time limit of {spec.horizon}; {WAY_OUT}"
        )
    if len(start) == 1 and spec.horizon is None and not np.asarray(c["terminal"])[-1]:
        raise DataError(
            f"{who} needs whole episodes, and the dataset is one recording of {n} rows that reaches no end; {WAY_OUT}"
        )
    return Episodes(start, length, np.asarray(store.offline_mc, np.float64)[start])


def online_episodes(store: Store) -> list[tuple[int, int]]:
    """First row ever written and length of each closed episode that the ring still holds whole, the oldest first."""
    ring = store.ring
    written, size = int(ring.written), int(ring.size)
    age = np.arange(written - size, written)
    c = store.layout.columns(np.asarray(ring.rows)[age % ring.capacity])
    begins = np.flatnonzero(c["step"] == 0)
    ends = np.flatnonzero(np.maximum(c["terminal"], c["timeout"]))
    ends = ends[ends >= begins.min(initial=size)]  # not of an episode whose first rows were overwritten
    return [(int(age[a]), int(b - a + 1)) for a, b in zip(begins, ends, strict=False)]
