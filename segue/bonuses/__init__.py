"""Intrinsic rewards: they enter batches, never the store."""

from segue.bonuses.nothing import Nothing

__all__ = ["Nothing"]
