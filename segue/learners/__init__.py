"""One page per method."""

from segue.learners.bc import BC
from segue.learners.cql import CQL
from segue.learners.dt import DT
from segue.learners.hold import Hold
from segue.learners.iql import IQL
from segue.learners.many import Many, Merge
from segue.learners.mopo import MOPO
from segue.learners.o3f import O3F
from segue.learners.odt import ODT
from segue.learners.pex import PEX, Expand
from segue.learners.sac import SAC
from segue.learners.standardise import Standardise
from segue.learners.td3 import TD3

__all__ = [
    "BC",
    "CQL",
    "DT",
    "IQL",
    "MOPO",
    "O3F",
    "ODT",
    "PEX",
    "SAC",
    "TD3",
    "Expand",
    "Hold",
    "Many",
    "Merge",
    "Standardise",
]
