"""Online Decision Transformer. The target is asked for in evaluation, about its double when exploring."""

from __future__ import annotations

from typing import Any

from segue.presets import Block
from segue.presets import dt as _dt

SCRIPT = "Zheng et al. 2022, by the scripts of a third party: {}"


def _block(target: float, lr: float, decay: float, note: str) -> Block:
    values = dict(target_return=target, explore_return=2 * target, return_scale=1000.0, lr=lr, weight_decay=decay)
    return Block(values, SCRIPT.format(note))


HOPPER = _block(3600.0, 1e-4, 5e-4, "hopper-medium, 5000 offline updates")
BLOCKS = {
    "point-wall": Block(
        dict(target_return=1.0, explore_return=1.0, return_scale=1.0, lr=1e-3),
        "ours: rewards are 0 and 1, and more than success cannot be asked for",
    ),
    **_dt.for_each("hopper", HOPPER),
    "hopper-medium-replay": _block(3600.0, 2e-3, 1e-4, "hopper-medium-replay, 5000 offline updates"),
    **_dt.for_each("walker2d", _block(5000.0, 1e-3, 1e-3, "walker2d, 10,000 offline updates")),
    **_dt.for_each("halfcheetah", _block(6000.0, 1e-4, 5e-4, "halfcheetah, 5000 offline updates")),
}


def conditioning(task: Any) -> dict[str, Any]:
    """Of a task without numbers of its own: `dt.conditioning`, and as much again when exploring."""
    asked = _dt.conditioning(task)
    best = asked.get("target_return", 0.0)
    return asked | {"explore_return": best + abs(best)} if asked else asked
