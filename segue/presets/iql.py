"""IQL. Rewards: `reward` gives the convention of the family."""

from __future__ import annotations

from typing import Any

import numpy as np

from segue.presets import Block
from segue.store import Affine

BLOCKS = {
    "locomotion": Block({}, "Kostrikov et al. 2022, app. B: expectile 0.7, beta 3"),
    "point-wall": Block(
        dict(expectile=0.9, beta=10.0),
        "the settings for AntMaze (Kostrikov et al. 2022, app. B), the other sparse navigation task; OOO names none",
    ),
}


def reward(task: Any) -> Affine:
    """Locomotion: scaled by 1000 / (largest - smallest return of the data). Sparse navigation: shifted by -1."""
    if task.family == "locomotion" and task.load_dataset is not None:
        returns = task.dataset.returns
        spread = float(np.max(returns) - np.min(returns))
        return Affine(scale=1000 / spread) if spread > 0 else Affine()
    return Affine(shift=-1.0) if task.family == "point-wall" else Affine()
