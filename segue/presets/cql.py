"""CQL and Cal-QL. Rewards: `reward` gives the convention of the family, `mixing` the dataset's share online."""

from __future__ import annotations

from typing import Any

from segue.presets import SPARSE_NAVIGATION, Block
from segue.store import Affine

MAZE: dict[str, Any] = dict(weight=5.0, gap=0.8, backup_samples=10, critic_hidden=(256, 256, 256, 256))
ANTMAZE = "Nakamoto et al. 2023, released AntMaze script: w 5, gap 0.8, best of 10 next actions, critics 256 x 4"
OURS = "ours, for want of the paper's: those of AntMaze, the other sparse navigation task"
BLOCKS = {
    "antmaze": Block(MAZE, ANTMAZE),
    "maze2d": Block(MAZE, "Sobol Mark et al. 2023, released code: as AntMaze"),
    "pointmaze": Block(MAZE, "as maze2d (Sobol Mark et al. 2023, released code), whose twin it is"),
    "point-wall": Block(MAZE, OURS),
    "ogbench": Block(MAZE, OURS),
    "adroit": Block(
        dict(weight=1.0, backup_samples=10, hidden=(512, 512), critic_hidden=(512, 512, 512)),
        "Nakamoto et al. 2023, released binary Adroit script: w 1, best of 10 next actions",
    ),
    "kitchen": Block(
        dict(weight=5.0, importance=False, backup_samples=10, hidden=(512,) * 3, critic_hidden=(512,) * 3),
        "Sobol Mark et al. 2023, released Kitchen script: w 5, no importance weights, best of 10 next actions",
    ),
    "locomotion": Block(dict(weight=5.0), "Kumar et al. 2020, released code: w 5, fixed"),
    "sparse-locomotion": Block(dict(weight=5.0), "as locomotion"),
}


def reward(task: Any) -> Affine:
    """Sparse rewards become -5 and 5, episodes without success endless failure (Nakamoto et al. 2023).

    Dense rewards stay as they are, and so do Kitchen's, which are paid as they come: the authors' r - 4 is of the count
    of parts in place.
    """
    if task.family in SPARSE_NAVIGATION:
        return Affine(scale=10.0, shift=-5.0, failure=0.0)
    if task.family == "ogbench" or (task.family == "adroit" and "-binary" in task.name):  # paid -1 or 0
        return Affine(scale=10.0, shift=5.0, failure=-1.0)
    return Affine()


def mixing(task: Any) -> float:
    """The dataset's share of each online batch."""
    return 0.25 if task.family == "kitchen" else 0.5
