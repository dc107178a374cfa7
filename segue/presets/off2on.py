"""Off2OnRL's online phase."""

from segue.losses import MeanOfPairMin
from segue.presets import Block

BLOCKS = {
    "*": Block(
        dict(n_actors=5, n_critics=10, improve=MeanOfPairMin(), entropy_by_log=True),
        "Lee et al. 2021, released code: five agents of two critics each",
    )
}
