"""One page per method."""

from segue.learners.bc import BC
from segue.learners.hold import Hold
from segue.learners.iql import IQL
from segue.learners.pex import PEX, Expand
from segue.learners.sac import SAC
from segue.learners.td3 import TD3

__all__ = ["BC", "IQL", "PEX", "SAC", "TD3", "Expand", "Hold"]
