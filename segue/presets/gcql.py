"""GCQL (APL): what differs from the numbers of CQL (`cql.py`), from which the rest is taken."""

from segue.losses import Mean, RandomMin
from segue.presets import Block

CRITICS = dict(n_critics=5, backup=RandomMin(2), improve=Mean())
CODE = "Zheng et al. 2023, released code: five critics, two of them backed up, the mean improved"
BLOCKS = {
    "locomotion": Block(
        dict(**CRITICS, weight=5.0, hidden=(256, 256, 256), critic_hidden=(256, 256, 256)),
        f"{CODE}; w 5, three hidden layers of 256",
    ),
    "*": Block(CRITICS, CODE),
}
