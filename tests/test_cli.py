"""The command line: every command once, and what it prints."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zoo
from test_bad_input import command, run_args

import segue
from segue.cli import Choice
from segue.phases import Phase, RunState
from segue.recipes import RECIPES
from segue.runs.checkpoint import Checkpoints
from segue.runs.progress import Display, Rate, clock, handover_line
from segue.runs.run import Progress, _digest, _sealed
from segue.tasks import names


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "pex"
    args = run_args(folder, method="pex")
    args[args.index("phases.1.learner.hidden=[16,16]")] = "phases.1.learner.base.hidden=[16,16]"
    with pytest.MonkeyPatch.context() as m:
        assert command(m, *args) == 0
    return folder


def test_help_and_list_load_nothing_heavy():
    code = (
        "import sys; sys.argv = ['segue', '--help']\n"
        "from segue.cli import main\n"
        "try: main()\n"
        "except SystemExit as e: assert e.code == 0\n"
        "heavy = {'jax', 'equinox', 'optax', 'matplotlib', 'gymnasium', 'mujoco', 'h5py'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    env = os.environ | {"PYTHONPATH": str(Path(segue.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for word in ("list", "show", "run", "resume", "report", "data"):
        assert word in done.stdout


@pytest.mark.parametrize("name", ["list", "show", "run", "resume", "report", "data"])
def test_every_command_has_help(name, monkeypatch, capsys):
    assert command(monkeypatch, name, "--help") == 0
    assert f"usage: segue {name}" in capsys.readouterr().out


def test_list_names_all_methods_and_tasks(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    assert command(monkeypatch, "list") == 0
    out = capsys.readouterr().out
    for name in (*RECIPES, *names()):
        assert name in out


def test_show_prints_every_number_and_its_origin(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    assert command(monkeypatch, "show", "pex", "point-wall", "--set", "phases.online.learner.base.beta=4.5") == 0
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if "learner.base.beta" in line)
    assert line.split()[-2:] == ["4.5", "--set"]
    assert "phase 0: offline" in out
    assert "phase 1: online" in out
    line = next(line for line in out.splitlines() if "inv_temperature" in line)
    assert "preset pex" in line or "default" in line


def test_show_json_is_what_the_run_records(finished, monkeypatch, capsys):
    args = run_args("x", method="pex")
    args[args.index("phases.1.learner.hidden=[16,16]")] = "phases.1.learner.base.hidden=[16,16]"
    drop = {"--out", "x", "--eval-episodes", "0"}
    assert command(monkeypatch, "show", *[a for a in args[1:] if a not in drop], "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((finished / "seed-0" / "config.json").read_text())["phases"]


def test_run_leaves_a_complete_directory(finished):
    run = finished / "seed-0"
    assert {p.name for p in run.iterdir()} == {".lock", "config.json", "metrics.jsonl", "checkpoints", "phases"}
    assert (finished / "report.html").exists()
    config = json.loads((run / "config.json").read_text())
    assert config["seed"] == 0
    assert config["method"] == "pex"
    assert config["dataset"]["hash"]
    assert {"segue", "jax", "numpy", "python"} <= config["versions"].keys()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["phase"] for row in rows if row["kind"] == "handover"] == ["offline", "online"]
    assert {p.name for p in (run / "phases").iterdir()} == {
        f"{i}-{name}{end}" for i, name in enumerate(("offline", "online")) for end in (".safetensors", ".json")
    }


def test_the_same_command_again_and_resume_change_nothing(finished, monkeypatch, capsys):
    before = (finished / "seed-0" / "metrics.jsonl").read_bytes()
    args = run_args(finished, method="pex")
    args[args.index("phases.1.learner.hidden=[16,16]")] = "phases.1.learner.base.hidden=[16,16]"
    assert command(monkeypatch, *args) == 0
    assert command(monkeypatch, "resume", finished) == 0
    assert command(monkeypatch, "resume", finished / "seed-0") == 0
    assert "finished; see it with: segue report" in capsys.readouterr().out
    assert (finished / "seed-0" / "metrics.jsonl").read_bytes() == before


def test_report_and_its_page(finished, monkeypatch, capsys, tmp_path):
    assert command(monkeypatch, "report", finished, "--html", tmp_path / "page.html") == 0
    assert "pex" in capsys.readouterr().out
    assert (tmp_path / "page.html").stat().st_size > 1000


def test_from_takes_the_pretrained_phase_of_another_method(tmp_path, finished, monkeypatch):
    """The online phase of Direct behind the offline phase that the run of PEX made."""
    assert command(monkeypatch, *run_args(tmp_path / "direct", "--from", finished, method="direct")) == 0
    run = tmp_path / "direct" / "seed-0"
    config = json.loads((run / "config.json").read_text())
    assert config["from"]["method"] == "pex"
    assert config["from"]["phases"] == 1
    kinds = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["phase"] for row in kinds if row["kind"] == "handover"] == ["offline", "online"]
    assert Checkpoints(run / "checkpoints").load()[0].phase == 2


def test_from_takes_steps_and_overrides_over_unless_given(tmp_path, finished, monkeypatch, capsys):
    there = json.loads((finished / "seed-0" / "config.json").read_text())
    small = ["--set", "phases.1.learner.hidden=[16,16]", "--set", "phases.online.batch_size=8", "--eval-episodes", "0"]
    args = ["run", "direct", "point-wall", "--online-steps", "30", *small, "--out", tmp_path / "direct"]
    assert command(monkeypatch, *args, "--from", finished) == 0
    source = finished / "seed-0"
    taken = "--offline-steps 12 --set 'phases.offline.learner.hidden=[16, 16]' --set phases.offline.batch_size=8\n"
    assert f"note: as in {source}: {taken}" in capsys.readouterr().err
    here = json.loads((tmp_path / "direct" / "seed-0" / "config.json").read_text())
    assert here["phases"][0] == there["phases"][0]
    assert here["phases"][1]["learner"]["hidden"] == [16, 16]
    assert here["overrides"].keys() == {
        *(f"phases.offline.{name}" for name in ("learner.hidden", "batch_size")),
        *("phases.1.learner.hidden", "phases.online.batch_size"),
    }
    assert command(monkeypatch, *args, "--from", finished) == 0  # the same command again
    capsys.readouterr()

    args[-1] = tmp_path / "other"
    assert command(monkeypatch, *args, "--from", finished, "--offline-steps", "13") == 2
    assert "steps (12 there, 13 here)" in capsys.readouterr().err
    assert command(monkeypatch, *args, "--from", finished, "--set", "phases.0.batch_size=9") == 2
    assert "batch_size (8 there, 9 here)" in capsys.readouterr().err
    args[1:3], args[3:5] = ["bc", "point-wall"], ["--set", "phases.0.learner.lr=0.01"]
    del args[5:9]
    assert command(monkeypatch, *args, "--from", finished) == 2
    assert "its first phase is not that of this run: it differs in" in capsys.readouterr().err
    assert not (tmp_path / "other" / "seed-0" / "config.json").exists()


@pytest.mark.parametrize(("there", "here"), [("0", "offline"), ("offline", "0"), ("0", "0")])
def test_what_is_given_displaces_what_is_taken_over_however_the_phase_is_called(
    there, here, tmp_path, finished, capsys
):
    run = changed_run(
        finished, tmp_path, overrides={f"phases.{there}.learner.lr": 0.5, f"phases.{there}.batch_size": 8}
    )
    given = f"phases.{here}.learner.lr=0.25"
    _, phases, changed = Choice("iql", "point-wall", set=(given,)).resolve(run)
    assert (phases[0].learner.lr, phases[0].batch_size) == (0.25, 8)
    assert changed == {"phases.offline.batch_size": 8, f"phases.{here}.learner.lr": 0.25}
    assert capsys.readouterr().err == f"note: as in {run}: --offline-steps 12 --set phases.offline.batch_size=8\n"


def test_overrides_of_a_second_offline_phase_do_not_reach_the_online_one(tmp_path, finished):
    """Numbers count the phases of the run that they were given to."""
    offline, online = json.loads((finished / "seed-0" / "config.json").read_text())["phases"]
    phases = [offline, offline | {"name": "again", "steps": 24}, online]
    given = {"phases.0.batch_size": 16, "phases.1.batch_size": 4, "phases.2.batch_size": 2}
    run = changed_run(finished, tmp_path, phases=phases, overrides=given)
    _, (first, second), changed = Choice("iql", "point-wall").resolve(run)
    assert (first.steps, first.batch_size, second.batch_size) == (12, 16, 256)
    assert changed == {"phases.offline.batch_size": 16}


def changed_run(finished, tmp_path, **changes):
    """A run's folder with that configuration, changed."""
    config = json.loads((finished / "seed-0" / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(_sealed(config | {"digest": _digest(config)})))
    return tmp_path


def test_from_a_run_whose_overrides_this_method_does_not_know(tmp_path, finished, monkeypatch, capsys):
    run = tmp_path / "there" / "seed-0"
    run.mkdir(parents=True)
    config = json.loads((finished / "seed-0" / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(_sealed(config | {"overrides": {"phases.offline.learner.beta": 3.0}})))
    args = ["run", "bc", "point-wall", "--eval-episodes", "0", "--out", tmp_path / "bc", "--from", run]
    assert command(monkeypatch, *args) == 2
    err = capsys.readouterr().err
    assert f"--from {run}: --set phases.offline.learner.beta: BC has no field 'beta'" in err
    assert "as that run was given" in err


def test_data(monkeypatch, capsys, tmp_path):
    from segue.tasks import get, write_npz

    assert command(monkeypatch, "data", "list") == 0
    assert "point-wall" in capsys.readouterr().out
    assert command(monkeypatch, "data", "info", "point-wall") == 0
    named = capsys.readouterr().out
    file = tmp_path / "data.npz"
    write_npz(get("point-wall").dataset, file)
    assert command(monkeypatch, "data", "info", str(file)) == 0
    from_file = capsys.readouterr().out
    for name in ("rows", "episodes", "hash", "return"):
        pick = lambda text, name=name: next(line for line in text.splitlines() if line.startswith(name))
        assert pick(named) == pick(from_file)


def test_data_info_of_a_file_in_the_units_of_its_environment(monkeypatch, capsys, tmp_path):
    n = 40
    columns = {"obs": np.zeros((n, 3)), "action": np.full((n, 1), 1.5), "reward": np.ones(n)}
    np.savez(tmp_path / "logs.npz", **columns, next_obs=np.zeros((n, 3)), terminal=np.zeros(n), timeout=np.zeros(n))
    assert command(monkeypatch, "data", "info", tmp_path / "logs.npz") == 2
    assert "outside [-1, 1]" in capsys.readouterr().err
    assert command(monkeypatch, "data", "info", tmp_path / "logs.npz", "--env", "Pendulum-v1") == 0
    assert "40" in next(line for line in capsys.readouterr().out.splitlines() if line.startswith("rows"))


def test_ctrl_c_before_a_run_began(monkeypatch, capsys):
    def interrupt(name):
        raise KeyboardInterrupt

    monkeypatch.setattr("segue.recipes.recipe", interrupt)
    assert command(monkeypatch, "show", "iql", "point-wall") == 130
    assert capsys.readouterr().err == "segue: stopped\n"


LONG = ["--offline-steps", "40000", "--online-steps", "0", "--eval-episodes", "0"]
LONG += ["--set", "phases.0.learner.hidden=[16,16]", "--set", "phases.0.batch_size=8"]


def test_a_group_passes_the_signal_on_and_every_seed_saves(tmp_path):
    """Two seeds side by side, both under way: SIGTERM to the parent alone saves and stops both, and their compiled
    programs are kept."""
    env = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    env |= {"PYTHONPATH": str(Path(segue.__file__).parents[1]), "SEGUE_CACHE": str(tmp_path / "cache")}
    args = ["run", "iql", "point-wall", "--seeds", "0", "1", "--out", str(tmp_path / "out"), *LONG]
    log = tmp_path / "log"
    with open(log, "wb") as f:
        process = subprocess.Popen([sys.executable, "-m", "segue", *args], stdout=f, stderr=subprocess.STDOUT, env=env)
    metrics = [tmp_path / "out" / f"seed-{seed}" / "metrics.jsonl" for seed in (0, 1)]
    try:
        deadline = time.monotonic() + 120
        while not all(m.exists() and '"train"' in m.read_text() for m in metrics):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM, log.read_text()
    finally:
        process.kill()
    assert not any(word in log.read_text() for word in ("Traceback", "Warning"))
    for m in metrics:
        assert f"stopped and saved; go on with: segue resume {m.parent}" in log.read_text()
        state, length, _ = Checkpoints(m.parent / "checkpoints").load()
        assert state.phase == 0
        assert state.step < 40_000
        rows = [json.loads(line) for line in m.read_bytes()[:length].splitlines()]
        assert m.stat().st_size == length  # all that was done is saved
        assert state.step >= rows[-1]["step"] > 0
    (folder,) = (tmp_path / "cache" / "compiled").iterdir()
    assert all(p.name.endswith("-cache") for p in folder.iterdir())
    assert any("update_many" in p.name for p in folder.iterdir())


def test_a_run_of_a_group_does_not_outlive_its_parent(tmp_path):
    """Neither where the parent is killed, nor where it is gone before the run can ask to be told."""
    code = (
        "import time; from segue.runs import group; group.stop_with_parent(); print('up', flush=True); time.sleep(60)"
    )
    env = os.environ | {"PYTHONPATH": str(Path(segue.__file__).parents[1])}
    parent = (
        "import os, subprocess, sys, time; os.environ['SEGUE_GROUP'] = str(os.getpid()); "
        f"child = subprocess.Popen([sys.executable, '-c', {code!r}], stdout=subprocess.PIPE); child.stdout.readline(); "
        "print(child.pid, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], env=env, stdout=subprocess.PIPE)
    child = int(process.stdout.readline())
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while running(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    done = subprocess.run([sys.executable, "-c", code], env=env | {"SEGUE_GROUP": "1"}, timeout=50)
    assert done.returncode == -signal.SIGTERM


def running(pid):
    """A process of that number that is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# ---------------------------------------------------------------------------------------------------------- the display


def test_clock():
    assert [clock(s) for s in (0, 59.6, 61, 3600, 7384)] == ["0:00", "1:00", "1:01", "1:00:00", "2:03:04"]


def test_rate_counts_within_one_phase(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("segue.runs.progress.time.monotonic", lambda: now[0])
    rate = Rate()
    assert rate("a", 0) is None
    now[0] = 2.0
    assert rate("a", 100) == 50
    now[0] = 3.0
    assert rate("b", 0) is None


def test_the_handover_line():
    report = {"actor": "carried", "critic": "reset", "critic optimiser": "reset"}
    assert handover_line(report) == "carried: actor; reset: critic, critic optimiser"


def test_plain_output_has_no_escapes(finished, capsys, monkeypatch):
    display = Display("label")
    display.say("text")
    display.close()
    assert capsys.readouterr().out == "label  text\n"


def test_after_a_resume_the_line_shows_the_last_score(capsys):
    state = RunState(0, entered=True, step=50, score=61.25)
    Display("label")(Progress(Phase("online", zoo.sac, 100, True), state, []))
    assert capsys.readouterr().out == "label  online 50/100 (50%)  score 61.2\n"


def test_a_display_that_nobody_reads_ends_nothing():
    """As in ``segue run ... | head -1``; what Python itself flushes at the end goes nowhere, too."""
    code = (
        "import sys; from segue.runs.progress import Display; d = Display('label'); d.say('first'); sys.stdin.read()\n"
        "for _ in range(3): d.say('more')\n"
        "d.close(); print('report'); d.stream = open('/dev/null', 'w'); d.stream.close(); d.say('more')"
    )
    env = os.environ | {"PYTHONPATH": str(Path(segue.__file__).parents[1])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], env=env, **pipes) as process:
        assert process.stdout.readline() == b"label  first\n"
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
