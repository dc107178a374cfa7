"""MOPO and MOORe."""

from segue.presets import Block

_MEDIUM = "Yu et al. 2020, released configuration: H 5, lambda 5, of u without disagreement"
_REPLAY = "Yu et al. 2020, released configuration: H 5, lambda 1, of u without disagreement"
BLOCKS = {
    "hopper-random": Block(dict(horizon=5, penalty=1.0), _REPLAY),
    "hopper-medium": Block(dict(horizon=5, penalty=5.0), _MEDIUM),
    "hopper-medium-replay": Block(dict(horizon=5, penalty=1.0), _REPLAY),
    "hopper-medium-expert": Block(dict(horizon=5, penalty=1.0), _REPLAY),
}
