"""UPQ's online phase."""

from segue.losses import MeanOfPairMinMinusStd
from segue.presets import Block

BLOCKS = {
    "*": Block(
        dict(backup=MeanOfPairMinMinusStd(0.001)),
        "beta 0.001, on most tasks the best of the published three; an agent's value is its smaller one",
    )
}
