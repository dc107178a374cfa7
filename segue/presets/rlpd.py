"""RLPD. Rewards: `reward` gives the convention of the family."""

from __future__ import annotations

from typing import Any

from segue.losses import RandomMin
from segue.presets import SPARSE_NAVIGATION, Block
from segue.presets.redq import ENSEMBLE
from segue.store import Affine

PAPER: dict[str, Any] = ENSEMBLE | dict(layer_norm=True, entropy_per_action=-0.5)
DEEP = PAPER | dict(backup_entropy=False, hidden=(256, 256, 256))
MAZE = DEEP | dict(backup=RandomMin(1))
OURS = "ours, for want of the paper's: those of AntMaze, the other sparse navigation task"
BLOCKS = {
    "antmaze": Block(MAZE, "Ball et al. 2023, table of AntMaze: 1 of 10 critics backed up, no entropy, 256 x 3"),
    "maze2d": Block(MAZE, OURS),
    "pointmaze": Block(MAZE, OURS),
    "point-wall": Block(MAZE, OURS),
    "ogbench": Block(MAZE, OURS),
    "adroit": Block(DEEP, "Ball et al. 2023, table of Adroit: 2 of 10 critics backed up, no entropy, 256 x 3"),
    "kitchen": Block(DEEP, "ours, for want of the paper's: those of Adroit, the other family of manipulation"),
    "*": Block(PAPER, "Ball et al. 2023, table of locomotion: 2 of 10 critics backed up, with entropy, 256 x 2"),
}


def reward(task: Any) -> Affine:
    """Sparse navigation shifted by -1, as the authors' AntMaze; all others as they are paid."""
    return Affine(shift=-1.0) if task.family in SPARSE_NAVIGATION else Affine()
