"""Decision Transformer, and what both transformers ask for (`conditioning`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from segue.presets import Block, for_each

PAPER = "Chen et al. 2021, app. A: target {:g}, returns divided by 1000"
OURS = "ours: rewards are 0 and 1, the target is success"


BLOCKS = {
    "point-wall": Block(dict(target_return=1.0, return_scale=1.0), OURS),
    **for_each("hopper", Block(dict(target_return=3600.0, return_scale=1000.0), PAPER.format(3600))),
    **for_each("walker2d", Block(dict(target_return=5000.0, return_scale=1000.0), PAPER.format(5000))),
    **for_each("halfcheetah", Block(dict(target_return=12000.0, return_scale=1000.0), PAPER.format(12000))),
}


def conditioning(task: Any) -> dict[str, Any]:
    """Of a task without numbers of its own: ask for the best return in the data, in units of the largest."""
    if task.load_dataset is None:
        return {}
    returns = task.dataset.returns
    largest = float(np.abs(returns).max())
    return {"target_return": float(returns.max()), "return_scale": largest if largest > 0 else 1.0}
