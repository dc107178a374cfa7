"""Distributions over the rows of the store."""

from segue.replays.symmetric import Symmetric
from segue.replays.uniform import Uniform

__all__ = ["Symmetric", "Uniform"]
