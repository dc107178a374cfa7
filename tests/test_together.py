"""Runs beside each other and runs of others: locks, seeds on cores, trust, cost, reports of what has not begun."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_bad_input import command, run_args

import segue
from segue import dynamics, overrides, recipes, show, tasks
from segue.errors import CheckpointError, ConfigError
from segue.phases import Block, PerStep, Phase, Settings
from segue.replays import Symmetric
from segue.runs import run as runs
from segue.runs import trust
from segue.runs.group import cores, pin, resume_all
from segue.runs.report import read_run, summarise
from segue.transitions import Fresh

SETTINGS = Settings(eval_every=10, eval_episodes=0, log_every=6)


def made(folder: Path, seed: int = 0, n: int | None = None) -> dict:
    task = tasks.get("point-wall")
    phases = recipes.phases_of("bc", task, 12)
    runs.create(folder, runs.make_config("bc", task, phases, seed, SETTINGS, [], cores=n))
    return runs.read_config(folder)


def test_one_process_works_on_a_run(tmp_path: Path) -> None:
    made(tmp_path / "run")
    with runs.locked(tmp_path / "run"), pytest.raises(CheckpointError, match="another process works on this run"):
        runs.execute(tmp_path / "run", say=lambda _: None)
    with runs.locked(tmp_path / "run"):
        pass
    (tmp_path / "run" / ".lock").unlink()
    (tmp_path / "run" / ".lock").mkdir()  # as where nothing may be written
    with pytest.raises(CheckpointError, match=r"\.lock: cannot be locked \(.*; make the run's directory writable"):
        runs.execute(tmp_path / "run", say=lambda _: None)


def test_the_commit_is_that_of_a_checkout_of_segue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of a repository around the folder where segue is installed."""
    package = tmp_path / "venv" / "segue"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(segue, "__file__", str(package / "__init__.py"))
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e"]
    for args in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "theirs"]):
        subprocess.run([*git, *args], check=True)
    assert runs.commit() is None
    for args in (["add", "."], ["commit", "-q", "-m", "ours"]):
        subprocess.run([*git, *args], check=True)
    assert re.fullmatch("[0-9a-f]{12}", runs.commit() or "")
    (package / "__init__.py").write_text("x")
    assert re.fullmatch(r"[0-9a-f]{12}\+", runs.commit() or "")


@pytest.mark.parametrize(("scripts", "code"), [(["exit 0", "exit 2"], 2), (["kill -9 $$", "exit 2"], 128 + 9)])
def test_the_exit_code_of_a_group(scripts: list[str], code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    start = lambda folder, *_: subprocess.Popen(["sh", "-c", str(folder)])
    monkeypatch.setattr("segue.runs.group._start", start)
    assert resume_all([Path(script) for script in scripts]) == code


def test_seeds_of_a_group_are_recorded_with_the_one_core_that_they_get(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Path] = []
    monkeypatch.setattr("segue.runs.group.resume_all", lambda folders, *_: started.extend(folders) or 1)
    assert command(monkeypatch, *run_args(tmp_path / "out"), "--seeds", "0", "1") == 1
    assert [f.name for f in started] == ["seed-0", "seed-1"]
    assert [runs.read_config(f)["threads"] for f in started] == [1, 1]


def test_pinned_to_as_many_cores_as_recorded() -> None:
    before = os.sched_getaffinity(0)
    try:
        pin(len(cores()) + 5)
        assert os.sched_getaffinity(0) == before
        pin(1)
        assert len(cores()) == 1
    finally:
        os.sched_setaffinity(0, before)


def test_a_seed_that_has_not_begun_is_in_the_report(tmp_path: Path) -> None:
    made(tmp_path / "run")
    summary = summarise(read_run(tmp_path / "run"))
    assert not summary.finished
    assert summary.status.startswith("stopped at phase offline step 0")


def test_finished_without_evaluations(tmp_path: Path) -> None:
    made(tmp_path / "run")
    runs.execute(tmp_path / "run", say=lambda _: None)
    assert summarise(read_run(tmp_path / "run")).finished


def custom(config: dict, env: str = "test_bad_input:Faulty") -> dict:
    task = config["task"] | {"source": {"kind": "custom", "env": env, "dataset": None, "name": None}}
    return config | {"task": task}


def test_code_is_imported_for_runs_of_ones_own_or_by_word_of_mouth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = custom(made(tmp_path / "run"))
    monkeypatch.setenv("SEGUE_CACHE", str(tmp_path / "mine"))
    signed = config | {"signature": trust.sign(config)}
    trust.check(signed)
    trust.check(made(tmp_path / "other"))  # names no code
    trust.check(config, confirmed="test_bad_input:Faulty")
    for wrong in (config, signed | {"digest": "0" * 16}, custom(signed, "another:Class")):
        with pytest.raises(ConfigError, match="was made elsewhere and would import '"):
            trust.check(wrong)
    monkeypatch.setenv("SEGUE_CACHE", str(tmp_path / "somebody-else's"))
    with pytest.raises(ConfigError, match="segue resume DIR --env test_bad_input:Faulty"):
        trust.check(signed)
    assert (tmp_path / "mine" / "secret").stat().st_mode & 0o077 == 0
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SEGUE_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"file/secret: your secret, .* cannot be read or made \(.* set SEGUE_CACHE"):
        trust.check(signed)


def test_a_strange_run_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = custom(made(tmp_path / "run"), "a_module_that_would_run:Code")
    config = runs._sealed(config | {"digest": runs._digest(config)})
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("importlib.import_module", lambda name: pytest.fail(f"imported {name}"))
    with pytest.raises(ConfigError, match="was made elsewhere"):
        runs.execute(tmp_path / "run", say=lambda _: None)


def test_both_manifests_gone_is_no_fresh_start(tmp_path: Path) -> None:
    made(tmp_path / "run")
    runs.execute(tmp_path / "run", say=lambda _: None, save_every=0.0)
    for manifest in (tmp_path / "run" / "checkpoints").glob("manifest*"):
        manifest.unlink()
    with pytest.raises(CheckpointError, match="both manifests are gone"):
        runs.execute(tmp_path / "run", say=lambda _: None)


def test_cost_is_predicted(capsys: pytest.CaptureFixture[str]) -> None:
    task = tasks.get("point-wall")
    phases = recipes.phases_of("bc", task, 200)
    found = show.cost(task, phases)
    assert 0 < found["hours"] < 1
    assert found["core_hours"] > 0
    assert found["memory_gib"] > 0.1
    assert "core-hours" in capsys.readouterr().out


def test_the_trial_of_a_cost_is_cut_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    task = tasks.get("point-wall")
    phases = recipes.phases_of("iql", task, 100_000, 100_000)
    for i in (0, 1):
        phases = overrides.apply(phases, f"phases.{i}.learner.hidden", [8])
    seen: dict[int, int] = {}
    run = show.run

    def watched(tried: tuple[Phase, ...], *args: Any) -> Iterator[Any]:
        for state, rows in run(tried, *args):
            seen[state.phase] = state.step
            yield state, rows

    monkeypatch.setattr(show, "run", watched)
    monkeypatch.setattr(show, "TRIAL_SECONDS", 0.0)
    found = show.cost(task, phases)
    assert 100 <= seen[0] < 1000
    assert 100 <= seen[1] < 2000
    assert 0 < found["hours"] < 10


def test_blocks_of_updates_are_counted_in_a_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten updates a step, in blocks or after each step, cost the same; a longer first block is steps more."""
    task = tasks.get("point-wall")
    online = recipes.phases_of("cql-br", task, 100, 4000)[1]
    small = replace(online.learner, hidden=(8,), critic_hidden=(8,))
    blocks = replace(
        online, learner=small, transition=Fresh(), replay=Symmetric(0.5), updates=Block(400, 4000, opening=10)
    )
    seen: list[Any] = []
    run = show.run
    monkeypatch.setattr(show, "run", lambda tried, *args: seen.append(tried[0].updates) or run(tried, *args))
    monkeypatch.setattr(show, "TRIAL_SECONDS", 0.0)
    monkeypatch.setattr(show, "_per_step", lambda *_: (1.0, 1.0))  # a second a step
    found = show.cost(task, (blocks,))
    assert seen[0] == PerStep(10.0)
    assert found["hours"] * 3600 == pytest.approx(4000 + 9 * 400, rel=0.01)  # and evaluations


def test_the_trial_of_a_cost_does_not_train_models_to_the_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = tasks.get("point-wall")
    phases = recipes.phases_of("moore", task, 200, 200)
    for path, value in (("models.hidden", [8]), ("models.max_epochs", 5), ("starts", 100), ("base.hidden", [8])):
        for i in (0, 1):
            phases = overrides.apply(phases, f"phases.{i}.learner.{path}", value)
    fits, fit = [], dynamics.fit_piece
    monkeypatch.setattr(dynamics, "fit_piece", lambda *args: fits.append(1) or fit(*args))
    found = show.cost(task, phases)
    assert len(fits) == 4  # two in each phase
    assert 0 < found["hours"] < 1
    out = capsys.readouterr().out
    for name in ("offline", "online"):
        assert f"not included: what {name} learns in refits, at its start and every 1,000 steps" in out


def test_show_names_where_numbers_come_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert command(monkeypatch, "show", "pex", "point-wall", "--set", "phases.0.learner.beta=4") == 0
    out = capsys.readouterr().out
    assert "AntMaze" in out
    assert "--set" in out
    assert "reward convention" in out
