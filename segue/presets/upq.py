"""UPQ's online phase."""

from segue.losses import MeanOfPairMinMinusStd
from segue.presets import Block

BLOCKS = {
    "*": Block(
        dict(backup=MeanOfPairMinMinusStd(0.001)),
        "known from survey slides alone: beta of 0.1, 0.01 and 0.001, the last the best on most tasks; that an agent's "
        "value is the smaller of its two is ours",
    )
}
