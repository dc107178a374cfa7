"""UPQ's online phase."""

from segue.losses import MeanOfPairMin, MeanOfPairMinMinusStd
from segue.presets import Block

BLOCKS = {
    "*": Block(
        dict(n_critics=10, backup=MeanOfPairMinMinusStd(0.001), improve=MeanOfPairMin()),
        "five pairs as in Off2OnRL; beta 0.001, on most tasks the best of the published 0.1, 0.01 and 0.001",
    )
}
