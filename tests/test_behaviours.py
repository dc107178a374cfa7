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
    # medium is 45, so 60.75 is beyond: rungs at 0, 8/3, 16/3 and 8 of the nine before
    rising = chosen(1, 10, 20, 25, 30, 40, 45, 58, 60, 90)
    assert rising == {"medium": 6, "replay-0": 0, "replay-1": 3, "replay-2": 5, "replay-3": 8, "replay-4": 6}
    assert chosen(1, 2, 3, 4, 5)["replay-3"] == 4  # a curve that never gets beyond: the ladder is all of it
    late = [1.0] * 20 + [44.0]
    assert chosen(*late)["medium"] == 0  # 210,000 steps are too many
    assert chosen(1, 2, 3, 50, 66, 68, 90)["replay-3"] == 4  # 67.5: beyond the medium that is shipped


def test_curves_that_are_too_short():
    with pytest.raises(SystemExit, match="no actor is kept"):
        chosen()
    with pytest.raises(SystemExit, match="only 0 actors come before"):
        chosen(90, 10, 20, 44)
