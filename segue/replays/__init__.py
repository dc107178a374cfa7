"""Distributions over the rows of the store."""

from segue.replays.balanced import Balanced
from segue.replays.best import Best
from segue.replays.decaying import Decaying
from segue.replays.online_offline import OnlineOffline
from segue.replays.sequences import Sequences
from segue.replays.symmetric import Symmetric
from segue.replays.uniform import Uniform

__all__ = ["Balanced", "Best", "Decaying", "OnlineOffline", "Sequences", "Symmetric", "Uniform"]
