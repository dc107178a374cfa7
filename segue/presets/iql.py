"""IQL. Rewards: `reward` gives the convention of the family."""

from __future__ import annotations

from typing import Any

import numpy as np

from segue.presets import SPARSE_NAVIGATION, Block
from segue.store import Affine

BLOCKS = {
    "locomotion": Block({}, "Kostrikov et al. 2022, app. B: expectile 0.7, beta 3"),
    "antmaze": Block(dict(expectile=0.9, beta=10.0), "Kostrikov et al. 2022, app. B: AntMaze"),
    "maze2d": Block(dict(expectile=0.9), "Sobol Mark et al. 2023, table 4: maze2d with missing data, beta 3"),
    "pointmaze": Block(dict(expectile=0.9), "as maze2d (Sobol Mark et al. 2023, table 4), whose twin it is"),
    "adroit": Block(
        dict(expectile=0.8, dropout=0.1), "Sobol Mark et al. 2023, table 4: binary Adroit, beta 3; IQL's dropout"
    ),
    "kitchen": Block(dict(expectile=0.7, beta=0.5, dropout=0.1), "the IQL authors' settings for Kitchen"),
    "point-wall": Block(
        dict(expectile=0.9, beta=10.0),
        "the settings for AntMaze (Kostrikov et al. 2022, app. B), the other sparse navigation task; OOO names none",
    ),
}


def reward(task: Any) -> Affine:
    """Locomotion: scaled by 1000 / (largest - smallest return of the data). Sparse navigation: shifted by -1.

    OGBench's tasks and binary Adroit pay -1 or 0 already.
    """
    if task.family == "locomotion" and task.load_dataset is not None:
        returns = task.dataset.returns
        spread = float(np.max(returns) - np.min(returns))
        return Affine(scale=1000 / spread) if spread > 0 else Affine()
    return Affine(shift=-1.0) if task.family in SPARSE_NAVIGATION else Affine()
