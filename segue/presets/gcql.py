"""GCQL (APL): what differs from the numbers of CQL (`cql.py`), from which the rest is taken."""

from segue.presets import Block

BLOCKS = {
    "locomotion": Block(
        dict(weight=5.0, hidden=(256, 256, 256), critic_hidden=(256, 256, 256)),
        "Zheng et al. 2023, released code: w 5, three hidden layers of 256",
    ),
}
