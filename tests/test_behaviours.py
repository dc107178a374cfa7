"""The choice of behaviours from a training's curve."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parents[1] / "tools" / "behaviours.py"
spec = importlib.util.spec_from_file_location("behaviours", PATH)
assert spec is not None
assert spec.loader is not None
behaviours = importlib.util.module_from_spec(spec)
spec.loader.exec_module(behaviours)


def steps(*scores: float) -> list[dict[str, float]]:
    return [{"step": 10_000 * (i + 1), "sampled": s} for i, s in enumerate(scores)]


def chosen(*scores: float) -> dict[str, int]:
    """Level -> number of the actor, of hopper: medium is nearest to 44 within 200,000 steps."""
    levels = behaviours.levels_of(steps(*scores), lambda row: row["sampled"], "hopper")
    return {level: int(row["step"]) // 10_000 - 1 for level, row in levels.items()}


def test_levels_of_a_curve():
    # medium is 45: rungs at 0, 5/3, 10/3 and 5 of the six before
    rising = chosen(1, 10, 20, 25, 30, 40, 45, 58, 60, 90)
    assert rising == {"medium": 6, "replay-0": 0, "replay-1": 2, "replay-2": 3, "replay-3": 5, "replay-4": 6}
    assert chosen(1, 2, 3, 4, 5)["replay-3"] == 3  # a curve that never gets there: its end is medium
    late = [1.0] * 10 + [2.0] + [1.0] * 9 + [44.0]
    assert chosen(*late)["medium"] == 10  # 210,000 steps are too many
    assert chosen(1, 2, 3, 4, 66, 50, 90)["replay-3"] == 4  # 67.5 is beyond the medium that is shipped
    assert chosen(1, 2, 3, 4, 68, 50, 90)["replay-3"] == 3


def test_curves_that_are_too_short():
    with pytest.raises(SystemExit, match="no actor is kept"):
        chosen()
    with pytest.raises(SystemExit, match="only 0 actors come before"):
        chosen(90, 10, 20, 44)
