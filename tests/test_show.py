"""Where the numbers of `segue show` come from, and what `--cost` leaves out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_bad_input import command

from segue import recipes, show, tasks

POINT_WALL = tasks.get("point-wall")


def origins(method: str, given: dict[str, int], changed: dict[str, object] | None = None) -> dict[str, str]:
    phases = recipes.phases_of(method, POINT_WALL, **given)
    decided = show.budgeted(method, POINT_WALL, given)
    rows = [
        (f"{phase.name}.{path}", origin)
        for i, phase in enumerate(phases)
        for path, _, origin in show.origins(POINT_WALL, phase, i, changed or {}, decided, given)
    ]
    return dict(rows)


def test_a_budget_of_the_command_line_is_named() -> None:
    found = origins("direct", {"offline_steps": 7})
    assert found["offline.steps"] == "--offline-steps"
    assert found["offline.learner.actor_decay"] == "recipe, from offline_steps"
    assert found["online.steps"] == "recipe"
    assert found["online.warmup.steps"] == "recipe, from online_steps"
    assert found["online.learner.actor_decay"] == "default"


def test_a_budget_that_is_the_recipes_own_is_named_too() -> None:
    assert origins("sac", {"online_steps": 1_000_000})["online.steps"] == "--online-steps"
    assert origins("sac", {})["online.steps"] == "recipe"


def test_an_override_comes_before_the_budget() -> None:
    found = origins("direct", {"offline_steps": 7}, {"phases.offline.steps": 9, "phases.0.learner.actor_decay": 3})
    assert found["offline.steps"] == found["offline.learner.actor_decay"] == "--set"


@pytest.mark.parametrize("method", recipes.RECIPES)
def test_every_method_says_which_numbers_its_budgets_decide(method: str) -> None:
    decided = show.budgeted(method, POINT_WALL, {})
    assert {phase for phase, path in decided if path == "steps"} == {
        p.name for p in recipes.phases_of(method, POINT_WALL)
    }


def test_show_prints_the_budget_that_was_given(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert command(monkeypatch, "show", "iql", "point-wall", "--offline-steps", "7") == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "steps 7 --offline-steps" in lines
    assert "learner.actor_decay 7 recipe, from offline_steps" in lines


def test_cost_without_an_environment_says_so(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    n = 40
    columns = {"obs": np.zeros((n, 3)), "action": np.zeros((n, 1)), "reward": np.ones(n), "next_obs": np.zeros((n, 3))}
    np.savez(tmp_path / "logs.npz", **columns, terminal=np.zeros(n), timeout=np.zeros(n))
    task = tasks.custom_task(None, tmp_path / "logs.npz")
    found = show.cost(task, recipes.phases_of("bc", task, 20))
    assert found["hours"] >= 0
    out = capsys.readouterr().out
    assert "not included: evaluations; task 'logs' has only a dataset" in out
    assert "evaluation, at most" not in out
