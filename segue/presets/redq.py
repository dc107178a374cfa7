"""REDQ, from scratch and pre-trained. Rewards are those of RLPD, its form with data."""

from __future__ import annotations

from typing import Any

from segue.losses import Mean, RandomMin
from segue.presets import Block, for_each

ENSEMBLE: dict[str, Any] = dict(n_critics=10, backup=RandomMin(2), improve=Mean(), critic_updates=20)
PAPER: dict[str, Any] = ENSEMBLE | dict(lagged_critic=True, entropy_by_log=True, entropy_per_action=-0.5)
TEXT = "Chen et al. 2021, app. and released code: 10 critics, 2 of them backed up, 20 critic steps, target entropy {}"
HOPPER = Block(PAPER | dict(entropy_per_action=-1 / 3), TEXT.format("-1"))
BLOCKS = {
    "hopper": HOPPER,
    **for_each("hopper", HOPPER),
    "*": Block(PAPER, TEXT.format("-|A|/2, as on the other MuJoCo tasks")),
}
