"""Whatever a user gets wrong: one clear error, an exit code that is not 0, nothing lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium
import jax
import numpy as np
import pytest
import zoo

import segue
import segue.runs.run as runs
from segue import cli, overrides
from segue.errors import CheckpointError, ConfigError, Diverged, EnvironmentFault
from segue.learners import IQL, SAC
from segue.phases import Parts, Phase, Settings
from segue.runs.checkpoint import MANIFEST, Checkpoints
from segue.tasks import custom_task, get
from segue.transitions import Carry, Fresh

BATCH = 8
TINY = ["--offline-steps", "12", "--online-steps", "30", "--eval-episodes", "0"]
for i in ("0", "1"):
    TINY += ["--set", f"phases.{i}.learner.hidden=[16,16]", "--set", f"phases.{i}.batch_size=8"]


def command(monkeypatch, *args):
    """`segue ARGS` in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["segue", *map(str, args)])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    return exit_.value.code


@pytest.fixture
def refused(monkeypatch, capsys):
    """A function: `segue ARGS` fails with one message on stderr that holds all `parts`."""

    def check(*args, parts):
        assert command(monkeypatch, *args) == 2
        err = capsys.readouterr().err
        assert err.startswith("segue: error: ")
        assert err.count("segue: error: ") == 1
        assert "Traceback" not in err
        for part in parts:
            assert part in err
        return err

    return check


def run_args(folder, *args, method="iql"):
    return ["run", method, "point-wall", *TINY, "--out", str(folder), *args]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A finished run of `segue run iql point-wall` with TINY numbers."""
    folder = tmp_path_factory.mktemp("runs") / "iql"
    with pytest.MonkeyPatch.context() as m:
        assert command(m, *run_args(folder)) == 0
    return folder


# ---------------------------------------------------------------------------------------------------------- the command


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["run", "iqll", "point-wall"], ["unknown method 'iqll'", "did you mean 'iql'"]),
        (["run", "iql", "point-wal"], ["unknown task 'point-wal'", "did you mean 'point-wall'"]),
        (["run", "zzzzzzz", "point-wall"], ["unknown method 'zzzzzzz'", "known: ", "pex"]),
        (["run", "iql"], ["name a task"]),
        (["run", "iql", "point-wall", "--env", "Pendulum-v1"], ["either a named task, or --env"]),
        (["run", "iql", "--dataset", "nowhere.npz"], ["nowhere.npz"]),
        (["run", "iql", "--env", "nomodule_here:Env"], ["nomodule_here", "PYTHONPATH"]),
        (["run", "iql", "--env", "NoSuchEnv-v9"], ["NoSuchEnv"]),
        (["run", "iql", "point-wall", "--seeds", "-1"], ["--seeds", "from 0 on"]),
        (["run", "iql", "point-wall", "--seeds", "1", "1"], ["--seeds", "different"]),
        (["run", "iql", "point-wall", "--jobs", "0"], ["--jobs is at least 1"]),
        (["run", "iql", "point-wall", "--offline-steps", "-5"], ["steps must be at least 0"]),
        (["run", "iql", "point-wall", "--offline-steps", "0", "--online-steps", "0"], ["no steps to run"]),
        (["run", "iql", "point-wall", "--eval-every", "0"], ["eval_every"]),
        (["run", "sac", "point-wall", "--offline-steps", "5"], ["sac has no offline phase"]),
        (["run", "bc", "point-wall", "--online-steps", "5"], ["bc has no online phase"]),
        (["run", "pex", "point-wall", "--offline-steps", "0"], ["needs the offline one"]),
        (["show", "iql", "point-wall", "--set", "phases.onlin.steps=3"], ["no phase 'onlin'", "did you mean 'online'"]),
        (["show", "iql", "point-wall", "--set", "phases.2.steps=3"], ["no phase '2'", "0..1"]),
        (["show", "iql", "point-wall", "--set", "phases.0.learner.bata=3"], ["no field 'bata'", "did you mean 'beta'"]),
        (["show", "iql", "point-wall", "--set", "phases.0.learner.beta=x"], ["takes float", "'x'"]),
        (["show", "iql", "point-wall", "--set", "phases.0.learner.beta=NaN"], ["takes float", "nan"]),
        (["show", "iql", "point-wall", "--set", "phases.0.learner=3"], ["holds a IQL", "set one of its fields"]),
        (["show", "iql", "point-wall", "--set", "phases.0.batch_size=2.5"], ["takes int", "2.5"]),
        (["show", "iql", "point-wall", "--set", "phases.0.batch_size=true"], ["takes int", "True"]),
        (["show", "iql", "point-wall", "--set", "phases.0.refit_every=x"], ["int | None", "'x'"]),
        (["show", "iql", "point-wall", "--set", 'phases.0.learner.hidden=[8,"x"]'], ["tuple[int, ...]"]),
        (["show", "pex", "point-wall", "--set", "phases.1.learner.imitate=dat"], ["composite", "did you mean 'data'"]),
        (["show", "iql", "point-wall", "--set", "beta=3"], ["a path is phases.NUMBER-OR-NAME"]),
        (["show", "iql", "point-wall", "--set", "phases.0.learner.beta"], ["--set takes path=value"]),
        (["report"], ["name one or more"]),
        (["data", "info"], ["takes a name"]),
        (["data", "info", "nowhere.npz"], ["nowhere.npz"]),
        (["data", "make", "point-wal"], ["unknown task", "point-wall"]),
    ],
    ids=lambda value: " ".join(value)[-60:],
)
def test_a_mistyped_command_says_what_was_meant(args, parts, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(*args, parts=parts)
    assert not list(tmp_path.iterdir())  # nothing was begun


@pytest.mark.parametrize("args", [["rum"], ["run"], ["resume"], ["run", "iql", "point-wall", "--sed", "1"], []])
def test_a_command_that_cannot_be_parsed(args, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, *args) not in (0, None)
    out = "".join(capsys.readouterr())
    assert "Traceback" not in out
    assert out.strip()


def test_no_run_lies_there(refused, tmp_path):
    for name in ("report", "resume"):
        refused(name, tmp_path, parts=[str(tmp_path)])
        refused(name, tmp_path / "missing", parts=[str(tmp_path / "missing")])


def test_out_holds_another_run(pretrained, refused):
    before = {p: p.read_bytes() for p in pretrained.rglob("*") if p.is_file()}
    err = refused(
        *run_args(pretrained, "--set", "phases.0.learner.beta=4"), parts=["holds another run", "choose another"]
    )
    assert "learner.beta" in err
    assert before == {p: p.read_bytes() for p in pretrained.rglob("*") if p.is_file()}


def test_out_cannot_be_made(refused, tmp_path):
    (tmp_path / "file").write_text("x")
    refused(*run_args(tmp_path / "file" / "run"), parts=["cannot be made", "choose another --out"])


def test_phases_that_do_not_fit_leave_no_directory(refused, tmp_path):
    args = run_args(tmp_path / "run", "--set", "phases.offline.learner.n_critics=5", method="cql")
    err = refused(*args, parts=["'critic' cannot be carried", "--set phases.NAME... of both"])
    assert "segue resume" not in err
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    refused(*args, parts=["'critic' cannot be carried"])
    assert not any((tmp_path / "run").iterdir())


def test_from_refuses_what_does_not_fit(pretrained, refused, tmp_path):
    here = ["--from", str(pretrained)]
    refused(*run_args(tmp_path / "a", "--from", str(tmp_path)), parts=["--from", "no run lies there"])
    refused(*run_args(tmp_path / "b", *here, "--seeds", "5"), parts=["no run lies there for seed 5"])
    changed = ["--set", "phases.0.learner.beta=4"]
    refused(
        *run_args(tmp_path / "c", *here, *changed), parts=["its first phase", "learner.beta (", " there, 4.0 here)"]
    )
    strict = [a.replace("point-wall", "point-wall-strict") for a in run_args("x")[:-2]]
    refused(*strict, "--out", str(tmp_path / "d"), *here, parts=["trained on", "start from a run on the same data"])
    other = ["--from", pretrained / "seed-0", "--seeds", "1"]
    refused(*run_args(tmp_path / "s", *other), parts=["it is seed 0", "this run is seed 1"])
    refused(*run_args(tmp_path / "t", *here, "--eval-episodes", "3"), parts=["its settings", "eval_episodes ("])
    online = ["run", "sac", "point-wall", "--online-steps", "20", "--out", str(tmp_path / "e")]
    online += ["--eval-episodes", "0"]
    refused(*online, *here, parts=["--from", "its first phase is online"])
    unfinished = tmp_path / "unfinished" / "seed-0"
    unfinished.mkdir(parents=True)
    shutil.copy(pretrained / "seed-0" / "config.json", unfinished)
    refused(*run_args(tmp_path / "f", "--from", unfinished), parts=["'offline' is not finished", "segue resume"])
    damaged = tmp_path / "damaged"
    shutil.copytree(pretrained, damaged)
    state = damaged / "seed-0" / "phases" / "0-offline.safetensors"
    data = bytearray(state.read_bytes())
    data[-5] ^= 1
    state.write_bytes(data)
    refused(*run_args(tmp_path / "g", "--from", damaged), parts=["0-offline.safetensors", "damaged"])
    metrics = damaged / "seed-0" / "metrics.jsonl"
    shutil.copy(pretrained / "seed-0" / "phases" / "0-offline.safetensors", state)
    for i, content in enumerate((b"{]\n", b"[1]\n", b"{}\n", b"\xff\n")):
        metrics.write_bytes(content)
        refused(*run_args(tmp_path / str(i), "--from", damaged), parts=[f"--from {damaged}", f"{metrics} is damaged"])
    metrics.unlink()
    refused(*run_args(tmp_path / "h", "--from", damaged), parts=[f"{metrics} cannot be read (", "bring it back"])
    assert not [p for p in tmp_path.glob("?/seed-0/config.json")]


def test_a_changed_or_damaged_configuration_is_noticed(pretrained, refused, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(pretrained / "seed-0", folder)
    file = folder / "config.json"
    text = file.read_text()
    config = json.loads(text)
    config["phases"][0]["learner"]["beta"] = 77.0
    file.write_text(json.dumps(config))
    refused("resume", folder, parts=["config.json", "changed since the run began"])
    file.write_text(text[: len(text) // 2])
    refused("resume", folder, parts=["config.json", "not JSON"])
    for content in ("[]", "{}", '{"format": 1}'):
        file.write_text(content)
        assert "config.json" in refused_error(folder)


CHANGES = {"seed": 5, "threads": 99, "versions": {}, "commit": "0" * 12, "log": ["tensorbord"], "from": {"phases": 1}}


@pytest.mark.parametrize("name", CHANGES)
def test_what_decides_no_number_is_guarded_too(name, pretrained, tmp_path):
    config = json.loads((pretrained / "seed-0" / "config.json").read_text())
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config | {name: CHANGES[name]}))
    assert (
        refused_error(tmp_path) == f"{file}: changed since the run began; bring the old file back, or start a new run"
    )
    if name != "from":
        file.write_text(json.dumps({k: v for k, v in config.items() if k != name}))
        assert f"{file}: its field {name!r} is missing or damaged; bring the old file back" in refused_error(tmp_path)


def test_a_run_from_before_there_was_a_checksum_over_the_whole_file_goes_on(pretrained, tmp_path):
    shutil.copytree(pretrained / "seed-0", tmp_path / "run")
    file = tmp_path / "run" / "config.json"
    config = json.loads(file.read_text())
    del config["sha256"]
    file.write_text(json.dumps(config))
    assert runs.execute(tmp_path / "run", say=lambda _: None)[1]


def test_a_log_that_the_run_was_not_begun_with(pretrained, refused):
    refused(*run_args(pretrained, "--log", "tensorboard"), parts=["begun without --log tensorboard", "leave that out"])


def refused_error(folder):
    with pytest.raises(CheckpointError) as caught:
        runs.execute(folder)
    return str(caught.value)


def test_a_damaged_checkpoint_falls_back_aloud_and_to_the_same_end(pretrained, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(pretrained / "seed-0", folder)
    newest = json.loads((folder / "checkpoints" / MANIFEST).read_text())["state"]["file"]
    file, said = folder / "checkpoints" / newest, []
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 16
    file.write_bytes(data)
    state, finished = runs.execute(folder, say=said.append)
    assert finished
    assert any(
        newest in text and "damaged" in text and "going on from the checkpoint before it" in text for text in said
    )
    whole = Checkpoints(pretrained / "seed-0" / "checkpoints").load()[0]
    assert zoo.same(state.parts, whole.parts)
    np.testing.assert_array_equal(state.ring.rows, whole.ring.rows)
    rows = [len((f / "metrics.jsonl").read_text().splitlines()) for f in (folder, pretrained / "seed-0")]
    assert rows[0] == rows[1]


def test_metrics_that_were_lost_or_cut(pretrained, tmp_path):
    for name, content in (("lost", None), ("cut", b"{}\n")):
        folder = tmp_path / name
        shutil.copytree(pretrained / "seed-0", folder)
        (folder / "metrics.jsonl").unlink()
        if content is not None:
            (folder / "metrics.jsonl").write_bytes(content)
        assert "metrics.jsonl: shorter than its checkpoint" in refused_error(folder)


def test_a_dataset_that_changed(tmp_path, monkeypatch):
    from segue.errors import DataError
    from segue.tasks import write_npz

    file = tmp_path / "data.npz"
    write_npz(get("point-wall").dataset, file)
    task = custom_task(None, str(file))
    phases = (Phase("offline", zoo.iql, 4, batch_size=BATCH),)
    runs.create(tmp_path / "run", runs.make_config("x", task, phases, 0, Settings(eval_episodes=0), []))
    write_npz(get("point-wall-strict").dataset, file)
    with pytest.raises(DataError, match="has changed since the run began"):
        runs.execute(tmp_path / "run", say=lambda _: None)


# --------------------------------------------------------------------------------------------------------- environments


class Faulty(gymnasium.Env):
    """Goes wrong in the way and at the step that the class attributes say, counted over all episodes."""

    observation_space = gymnasium.spaces.Box(-10, 10, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    way, at, taken = None, 10**9, 0

    def reset(self, seed=None, options=None):
        self.x, self.t = np.random.default_rng(seed).normal(size=2).astype(np.float32), 0
        if Faulty.way == "reset" and Faulty.taken >= Faulty.at:
            raise RuntimeError("no socket")
        return self.x, {}

    def step(self, action):
        self.t, Faulty.taken = self.t + 1, Faulty.taken + 1
        obs, reward = (self.x + 0.1 * action).astype(np.float32), float(-np.abs(self.x).sum())
        self.x = obs
        if Faulty.taken > Faulty.at:
            if Faulty.way == "raise":
                raise RuntimeError("the simulator broke")
            obs = {"nan": np.full(2, np.nan, np.float32), "shape": np.zeros(3, np.float32)}.get(Faulty.way, obs)
            reward = {"reward": float("nan"), "none": None}.get(Faulty.way, reward)
        return obs, reward, False, self.t == 20, {}


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("raise", "step raised RuntimeError: the simulator broke"),
        ("reset", "reset raised RuntimeError: no socket"),
        ("nan", "entry 0 of the observation of step is nan"),
        ("shape", "has shape (3,), and its space says (2,)"),
        ("reward", "the reward is nan"),
        ("none", "the reward is NoneType"),
    ],
)
def test_an_environment_that_fails_in_the_middle(way, words, tmp_path, monkeypatch):
    monkeypatch.setattr(Faulty, "way", None)
    task = custom_task("test_bad_input:Faulty", None)
    phases = (Phase("online", zoo.sac, 60, True, transition=Fresh(), batch_size=BATCH),)
    folder, said = tmp_path / "run", []
    settings = Settings(eval_every=1000, eval_episodes=0, log_every=25)
    runs.create(folder, runs.make_config("x", task, phases, 0, settings, []))
    original = runs.from_source

    def from_source(*args, **kwargs):  # its task tries the environment out first
        made = original(*args, **kwargs)
        Faulty.way, Faulty.at, Faulty.taken = way, 40 if way == "reset" else 33, 0
        return made

    monkeypatch.setattr(runs, "from_source", from_source)
    with pytest.raises(EnvironmentFault) as fault:
        runs.execute(folder, say=said.append)
    step, episode = (40, 2) if way == "reset" else (33, 1)
    assert str(fault.value).startswith(f"phase 'online', step {step}, episode {episode}: ")
    assert words in str(fault.value)
    state, _, notice = Checkpoints(folder / "checkpoints").load()
    assert (state.step, state.env_steps, notice) == (step, step, None)  # nothing is lost
    assert np.abs(np.asarray(state.ring.rows[:step])).max(1).all()

    monkeypatch.setattr(runs, "from_source", original)
    Faulty.way = None
    state, finished = runs.execute(folder, say=said.append)
    assert finished
    assert state.env_steps == 60 == state.episodes.length.sum()


def test_an_environment_that_fails_in_an_evaluation(tmp_path, monkeypatch):
    from segue.tasks.point_wall import PointWall

    phases = (Phase("offline", zoo.iql, 12, batch_size=BATCH),)
    folder = tmp_path / "run"
    runs.create(folder, runs.make_config("x", get("point-wall"), phases, 0, Settings(6, 1, 6), []))
    calls, step = [0], PointWall.step

    def failing(self, action):
        calls[0] += 1
        if calls[0] == 5:
            raise EnvironmentFault("point-wall: broke")
        return step(self, action)

    with monkeypatch.context() as m:
        m.setattr(runs, "from_source", lambda *_, **__: get_ready)
        get_ready = get("point-wall")
        assert get_ready.dataset.size
        m.setattr(PointWall, "step", failing)
        with pytest.raises(EnvironmentFault, match="step 6: evaluation episode 0, step 4: point-wall"):
            runs.execute(folder, say=lambda _: None)
    assert Checkpoints(folder / "checkpoints").load()[0].step == 6
    state, finished = runs.execute(folder, say=lambda _: None)
    assert finished
    assert state.phase == 1


# ----------------------------------------------------------------------------------------------------------- divergence


@pytest.mark.parametrize("online", [False, True])
def test_a_learner_that_diverges_is_stopped_with_the_last_finite_state(online, tmp_path):
    wild = SAC(hidden=(16, 16), lr=1e30) if online else IQL(hidden=(16, 16), lr=1e30)
    phases = (
        Phase("calm", zoo.iql, 12, batch_size=BATCH),
        Phase("wild", wild, 400, online, batch_size=BATCH),
    )
    folder = tmp_path / "run"
    runs.create(folder, runs.make_config("x", get("point-wall"), phases, 0, Settings(1000, 0, 20), []))
    with pytest.raises(Diverged) as stopped:
        runs.execute(folder, say=lambda _: None, save_every=0)
    message = str(stopped.value)
    assert message.startswith("phase 'wild', step ")
    assert any(what in message for what in ("the metric '", "the array ", "an action with NaN"))
    assert "inite" in message or "nan" in message.lower() or "inf" in message
    state, _, notice = Checkpoints(folder / "checkpoints").load()
    assert notice is None
    assert all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(state.learner))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(list(row.get("metrics", {}).values())).all() for row in rows)


@pytest.mark.parametrize("finite", [True, False])
def test_work_before_a_loop_that_diverges_is_saved_where_it_is_finite(finite, tmp_path):
    blank = runs.RunState(0, entered=True)
    state = lambda step, x: blank._replace(step=step, parts=Parts({"net": np.array(x, np.float32)}, (), ()))

    def loop():
        yield state(1, 0.0), []
        yield state(2, 0.0 if finite else np.nan), [{"kind": "train", "phase": "p", "step": 2}]
        raise Diverged("models: hold-out error of member 0 is 1e+30")

    class Saved(list):
        def save(self, state, length):
            self.append((state.step, length))

    saved = Saved()
    stop = iter([True, False])  # the first state is saved, as when a minute is over
    with pytest.raises(Diverged) as stopped:
        runs._follow(
            loop(), blank, tmp_path, {}, (Phase("p", zoo.iql, 3),), saved, lambda _: None, lambda: next(stop), 60.0
        )
    words = "models: hold-out error of member 0" if finite else "phase 'p', step 2: the array ['net'] of"
    assert str(stopped.value).startswith(words)
    step = 2 if finite else 1
    assert str(stopped.value).endswith(f"checkpoint (phase 'p', step {step}) is finite; the steps after it are lost")
    assert saved == [(1, 0), (2, (tmp_path / "metrics.jsonl").stat().st_size)][: 2 if finite else 1]


def test_through_the_command_line_it_says_how_to_go_on(refused, tmp_path, monkeypatch):
    args = [*run_args(tmp_path / "out"), "--log-every", "6", "--set", "phases.0.learner.lr=1e30"]
    monkeypatch.setattr(runs, "SAVE_EVERY", 0.0)
    refused(*args, parts=["phase 'offline', step ", "paths for --set", "another --out", "is finite; the steps"])


# ------------------------------------------------------------------------------------------------------------ full disk


@pytest.mark.parametrize("n", [0, 3, 7])
def test_a_disk_that_fills_up_in_a_run(n, pretrained, tmp_path, monkeypatch):
    config = json.loads((pretrained / "seed-0" / "config.json").read_text())
    folder = tmp_path / "run"
    runs.create(folder, config)
    left, fsync = [n], os.fsync

    def full(handle):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return fsync(handle)

    with monkeypatch.context() as m:
        m.setattr(os, "fsync", full)
        with pytest.raises(CheckpointError, match="No space left on device"):
            runs.execute(folder, say=lambda _: None)
    state, finished = runs.execute(folder, say=lambda _: None)
    assert finished
    assert zoo.same(state.parts, Checkpoints(pretrained / "seed-0" / "checkpoints").load()[0].parts)


def test_metrics_on_a_full_disk(pretrained, tmp_path):
    """The error of a write that comes back when the file is closed is one clear message too."""
    config = json.loads((pretrained / "seed-0" / "config.json").read_text())
    runs.create(tmp_path, config)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl: cannot be written \(") as caught:
        runs._follow(
            iter_of([(runs.RunState(0, entered=True), [{"kind": "train", "phase": "p", "step": 1}])]),
            runs.RunState(0, entered=True), tmp_path, config, (Phase("p", zoo.iql, 3),),
            Checkpoints(tmp_path / "checkpoints"), lambda _: None, runs.Stop(), 60.0,
        )  # fmt: skip
    assert "segue resume" in str(caught.value)


def test_an_error_of_the_display_is_no_full_disk_and_loses_nothing(pretrained, tmp_path):
    config = json.loads((pretrained / "seed-0" / "config.json").read_text())
    runs.create(tmp_path, config)

    def show(progress):
        if progress.state.phase == 0 and progress.state.step == 12:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    with pytest.raises(BrokenPipeError):
        runs.execute(tmp_path, show, say=lambda _: None)
    state = Checkpoints(tmp_path / "checkpoints").load()[0]
    assert (state.phase, state.step) == (0, 12)


def iter_of(values):
    yield from values


# ------------------------------------------------------------------------------------------------------- real processes


def test_a_real_process_prints_one_message_and_no_traceback(tmp_path):
    env = os.environ | {"PYTHONPATH": str(Path(segue.__file__).parents[1])}
    for args, words in ((["run", "iqll", "point-wall"], "did you mean 'iql'"), (["resume", "."], "no run in it")):
        done = subprocess.run(
            [sys.executable, "-m", "segue", *args], env=env, capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == 2
        assert done.stderr.startswith("segue: error: ")
        assert words in done.stderr
        assert "Traceback" not in done.stderr + done.stdout


def test_values_are_taken_as_the_field_declares_them():
    phases = (Phase("online", zoo.sac, 10, True, transition=Carry()),)
    assert overrides.apply(phases, "phases.0.learner.lr", 1)[0].learner.lr == 1.0
    assert overrides.apply(phases, "phases.online.refit_every", 5)[0].refit_every == 5
    again = overrides.apply(overrides.apply(phases, "phases.online.refit_every", 5), "phases.0.refit_every", None)
    assert again == phases
    assert overrides.apply(phases, "phases.0.learner.hidden", [8, 8])[0].learner.hidden == (8, 8)
    assert overrides.parse("phases.0.name=x=y") == ("phases.0.name", "x=y")
    with pytest.raises(ConfigError, match="takes path=value"):
        overrides.parse("=3")
