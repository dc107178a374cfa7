"""No bonus: the neutral element."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from segue.types import Batch, Key, Metrics, Spec


@dataclass(frozen=True)
class Nothing:
    """Rewards as they are."""

    def init(self, key: Key, spec: Spec, store: Any) -> Any:
        return ()

    def visit(self, bstate: Any, row: Batch) -> tuple[Any, Metrics]:
        return bstate, {}

    def update(self, bstate: Any, batch: Batch, key: Key) -> tuple[Any, Metrics]:
        return bstate, {}

    def relabel(self, bstate: Any, batch: Batch) -> Batch:
        return batch
