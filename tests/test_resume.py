"""A run that was cut and continued is the run that was not, bit for bit: parameters, ring, keys, metrics."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import zoo

import segue.dynamics
import segue.files
import segue.phases
import segue.runs.run as runs
from segue.errors import Diverged
from segue.learners import PEX, Expand, Hold
from segue.phases import Block, PerEpisode, PerStep, Phase, Settings, Warmup
from segue.replays import Balanced, Decaying, Sequences, Symmetric, Uniform
from segue.runs.checkpoint import Checkpoints
from segue.runs.files import pack_state
from segue.tasks import custom_task, get
from segue.transitions import Carry, Fresh

TASK = get("point-wall")
SETTINGS = Settings(eval_every=160, eval_episodes=1, log_every=25)
BATCH = 8


def two_phases(learner, offline=18, online=180, **kwargs):
    """Offline, then online; PEX expands what its base learned."""
    first = learner.base if isinstance(learner, PEX) else learner
    transition = Expand() if isinstance(learner, PEX) else Carry()
    settings = {"replay": Symmetric(0.5), "updates": PerStep(1.0)} | kwargs
    draws = Uniform()
    if learner.windows:
        draws, settings["replay"] = Sequences(4), Sequences(4, buffer=102)
    return (
        Phase("offline", first, offline, batch_size=BATCH, replay=draws),
        Phase("online", learner, online, online=True, transition=transition, batch_size=BATCH, **settings),
    )


def new_run(folder, phases, seed=3, task=TASK, settings=SETTINGS):
    runs.create(folder, runs.make_config("test", task, phases, seed, settings, ["test"]))
    return folder


class StopAt(runs.Stop):
    """Asks to stop at the n-th question; counts the questions and notes which were asked inside an evaluation."""

    evaluating = False

    def __init__(self, n=10**9):
        super().__init__()
        self.n, self.asked, self.inside = n, 0, []

    def __call__(self):
        self.asked += 1
        if StopAt.evaluating:
            self.inside.append(self.asked)
        return self.asked >= self.n


@pytest.fixture(autouse=True)
def _note_evaluations(monkeypatch):
    original = segue.phases.evaluate

    def evaluate(*args):
        StopAt.evaluating = True
        try:
            return original(*args)
        finally:
            StopAt.evaluating = False

    monkeypatch.setattr(segue.phases, "evaluate", evaluate)
    again = runs.from_source  # the same rows at every call (test_tasks), made once here
    named = {"kind": "named", "name": "point-wall"}
    monkeypatch.setattr(runs, "from_source", lambda s, **kw: TASK if s == named else again(s, **kw))


def _ignore(_):
    """Say and show nothing."""


def go(folder, stop=None, **kwargs):
    return runs.execute(folder, say=_ignore, stop=stop, **kwargs)


def finish(folder):
    state, finished = go(folder)
    assert finished
    return state


def fingerprint(folder, state):
    """Everything but clock times: the state with its ring, and the rows of metrics."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = [{k: v for k, v in row.items() if k not in ("wall", "seconds")} for row in rows]
    return hashlib.sha256(pack_state(state._replace(wall=0.0))).hexdigest(), rows


class Uncut:
    """An uninterrupted run: its fingerprint, and the questions after which it may be cut."""

    def __init__(self, folder, phases, seed=3):
        stop = StopAt()
        state, finished = go(new_run(folder, phases, seed), stop)
        assert finished
        assert state.env_steps == sum(p.steps for p in phases if p.online)
        self.fingerprint = fingerprint(folder, state)
        self.evaluation = stop.inside
        self.others = sorted(set(range(1, stop.asked + 1)) - set(stop.inside))


def assert_same(folder, state, uncut):
    digest, rows = fingerprint(folder, state)
    assert rows == uncut.fingerprint[1]
    assert digest == uncut.fingerprint[0]


def cut_and_continue(folder, phases, n):
    """Cut at the n-th question, then go on from the directory alone."""
    state, finished = go(new_run(folder, phases), StopAt(n))
    assert finished == (state.phase == len(phases))
    return finish(folder)


def four_cuts_leave_no_trace(root, phases):
    uncut = Uncut(root / "uncut", phases)
    rng = random.Random(0)
    for i in range(4):
        cut = root / f"cut-{i}"
        assert_same(cut, cut_and_continue(cut, phases, rng.choice(uncut.others)), uncut)


# -------------------------------------------------------------------------------------------------------- every learner


# a learner with each kind of state; the rest of the zoo is cut in the slow set
AT_ONCE = {"iql", "sac", "cql", "redq (authors)", "pex(iql)", "dt", "mopo(sac)", "merged", "standardise(odt)"}


@pytest.mark.parametrize("name", [n if n in AT_ONCE else pytest.param(n, marks=pytest.mark.slow) for n in zoo.ZOO])
def test_a_cut_leaves_no_trace(name, tmp_path):
    phases = two_phases(zoo.ZOO[name])
    uncut = Uncut(tmp_path / "uncut", phases)
    n = random.Random(name).choice(uncut.others)
    assert_same(tmp_path / "cut", cut_and_continue(tmp_path / "cut", phases, n), uncut)


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.ZOO)
def test_twenty_cuts_leave_no_trace(name, tmp_path, monkeypatch):
    rng, phases = random.Random(f"20 {name}"), two_phases(zoo.ZOO[name], offline=60, online=330)
    uncut = Uncut(tmp_path / "uncut", phases)
    for i, where in enumerate([uncut.others, uncut.evaluation] * 7):
        folder = tmp_path / f"cut-{i}"
        assert_same(folder, cut_and_continue(folder, phases, rng.choice(where)), uncut)
    calls = count_writes(tmp_path / "counted", phases, monkeypatch)
    for i in range(6):
        folder = tmp_path / f"killed-{i}"
        kill_while_writing(folder, phases, rng.randrange(calls), monkeypatch)
        assert_same(folder, finish(folder), uncut)


def test_many_cuts_of_one_run(tmp_path):
    """In evaluations, mid-episode, at the boundary, again and again, down to the same end."""
    phases = two_phases(zoo.iql)
    uncut = Uncut(tmp_path / "uncut", phases)
    assert len(uncut.evaluation) > 100
    for i, n in enumerate((1, 2, 3, uncut.evaluation[0], uncut.evaluation[-1], uncut.others[-1])):
        folder = tmp_path / f"cut-{i}"
        assert_same(folder, cut_and_continue(folder, phases, n), uncut)
    folder, rng, finished, sessions = new_run(tmp_path / "often", phases), random.Random(5), False, 0
    while not finished:
        sessions += 1
        state, finished = go(
            folder, StopAt(rng.randint(2, 40 if sessions % 5 else 400))
        )  # an evaluation asks 150 times
    assert sessions > 10
    assert_same(folder, state, uncut)


# --------------------------------------------------------------------------------------------------- kills while saving


class Killed(BaseException):
    """In place of a SIGKILL: nothing catches it."""


def disk_calls(monkeypatch, act):
    """Call `act` before every flush to disk and every renaming."""
    for name in ("fsync", "replace"):
        original = getattr(os, name)

        def call(*args, original=original):
            act()
            return original(*args)

        monkeypatch.setattr(segue.files.os, name, call)


def count_writes(folder, phases, monkeypatch):
    calls = []
    with monkeypatch.context() as m:
        m.setattr(runs, "SAVE_SHARE", 1e9)  # a checkpoint at every yield
        new_run(folder, phases)
        disk_calls(m, lambda: calls.append(1))
        go(folder, save_every=0)
    return len(calls)


def kill_while_writing(folder, phases, n, monkeypatch):
    """The process dies just before its n-th disk call after the run was made."""
    left = [n]

    def act():
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    with monkeypatch.context() as m:
        m.setattr(runs, "SAVE_SHARE", 1e9)
        new_run(folder, phases)
        disk_calls(m, act)
        with pytest.raises(Killed):
            go(folder, save_every=0)


def test_a_kill_while_saving_leaves_no_trace(tmp_path, monkeypatch):
    phases = two_phases(zoo.iql)
    uncut = Uncut(tmp_path / "uncut", phases)
    calls = count_writes(tmp_path / "counted", phases, monkeypatch)
    assert calls > 100
    for n in random.Random(1).sample(range(calls), 8):
        folder = tmp_path / f"killed-{n}"
        kill_while_writing(folder, phases, n, monkeypatch)
        assert_same(folder, finish(folder), uncut)


def test_the_directory_as_a_kill_leaves_it_at_any_moment(tmp_path, monkeypatch):
    """Copies of the directory between any two disk calls of one save all continue to the same end."""
    phases = two_phases(zoo.iql, offline=5, online=40)
    uncut = Uncut(tmp_path / "uncut", phases)
    folder, copies = new_run(tmp_path / "run", phases), []

    def copy():
        copies.append(tmp_path / f"copy-{len(copies)}")
        shutil.copytree(folder, copies[-1])

    with monkeypatch.context() as m:
        disk_calls(m, copy)
        go(folder)
    assert len(copies) > 20
    for copied in copies:
        assert_same(copied, finish(copied), uncut)


# ----------------------------------------------------------------------------------- schedules, phases, lengths of work


@pytest.mark.parametrize(
    "kwargs",
    [
        {"updates": PerEpisode(n=45), "refit_every": 70},
        {"updates": Block(collect=50, updates=43), "warmup": Warmup(20, "uniform")},
        pytest.param({"updates": PerEpisode(n=4), "warmup": Warmup(20, "uniform")}, marks=pytest.mark.slow),
        pytest.param({"updates": Block(collect=60, updates=20), "replay": Uniform()}, marks=pytest.mark.slow),
        pytest.param({"updates": PerStep(2.0), "warmup": Warmup(60, "uniform")}, marks=pytest.mark.slow),
        pytest.param({"updates": PerStep(0.3)}, marks=pytest.mark.slow),
        {"replay": Balanced(first=20, batch_size=8, hidden=(8,)), "updates": Block(collect=20, updates=43, opening=2)},
    ],
    ids=lambda kwargs: "-".join(str(value) for value in kwargs.values()),
)
def test_schedules(kwargs, tmp_path):
    phases = two_phases(zoo.td3, **kwargs)
    four_cuts_leave_no_trace(tmp_path, phases)


@pytest.mark.slow
def test_updates_of_windows_at_an_episode_s_end(tmp_path):
    phases = two_phases(zoo.ZOO["standardise(odt)"], online=330, updates=PerEpisode(n=7))
    four_cuts_leave_no_trace(tmp_path, phases)


@pytest.mark.slow
def test_cuts_within_an_online_training_of_models(tmp_path, monkeypatch):
    """Models are trained at steps 60 and 120 of the interaction, in pieces, between any two of which a run may end."""
    learner = dataclasses.replace(zoo.mopo, retrain_every=60)
    phases = two_phases(learner, online=150, refit_every=60, replay=Decaying())
    original = segue.dynamics.fit_piece

    def until(n):
        """Asks to stop after the n-th piece online that does not end its training; counts them."""
        stop = StopAt()
        stop.pieces = 0

        def fit_piece(models, rows, key, settings):
            piece = original(models, rows, key, settings)
            if int(models.rows) > rows.store.size_offline and not piece.done:
                stop.pieces += 1
                stop.n = 0 if stop.pieces == n else stop.n
            return piece

        monkeypatch.setattr(segue.dynamics, "fit_piece", fit_piece)
        return stop

    stop = until(None)
    state, finished = go(new_run(tmp_path / "uncut", phases), stop)
    assert finished
    uncut = fingerprint(tmp_path / "uncut", state)
    assert stop.pieces >= 6
    for n in (1, stop.pieces // 2, stop.pieces):
        folder = tmp_path / f"cut-{n}"
        state, finished = go(new_run(folder, phases), until(n))
        assert not finished
        assert (state.phase, state.piece > 0) == (1, True)
        monkeypatch.setattr(segue.dynamics, "fit_piece", original)
        assert fingerprint(folder, finish(folder)) == uncut


def test_three_phases_one_of_which_names_its_source(tmp_path):
    offline, _ = two_phases(zoo.iql)
    held = Phase("burn-in", Hold(zoo.iql, ("actor",)), 90, online=True, transition=Carry(), batch_size=BATCH)
    again = Phase("again", zoo.iql, 90, True, source="offline", transition=Carry(), batch_size=BATCH)
    phases = (offline, held, again)
    uncut = Uncut(tmp_path / "uncut", phases)
    rng = random.Random(2)
    for i in range(4):
        folder = tmp_path / f"cut-{i}"
        assert_same(folder, cut_and_continue(folder, phases, rng.choice(uncut.others)), uncut)

    behind = tmp_path / "behind"  # the snapshot that `again` names comes from the other run's files
    runs.create(behind, runs.make_config("test", TASK, phases, 3, SETTINGS, []), source=tmp_path / "uncut")
    state = finish(behind)
    assert_same(behind, state, uncut)


def test_the_length_of_stretches_changes_nothing(tmp_path, monkeypatch):
    phases = two_phases(zoo.iql, offline=130, updates=Block(collect=20, updates=43))
    found = []
    for i, seconds in enumerate((1e-9, 0.01, 1e9)):
        monkeypatch.setattr(segue.phases, "_SECONDS", {})
        folder = tmp_path / str(i)
        settings = Settings(eval_every=160, eval_episodes=1, log_every=130, piece_seconds=seconds)
        found.append(fingerprint(folder, finish(new_run(folder, phases, settings=settings))))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("online", [False, True])
def test_after_a_divergence_the_last_finite_state_is_on_disk(online, tmp_path, monkeypatch):
    """Between two checkpoints, which are a minute apart; what it goes on from leads to the end of the uncut run."""
    phases = two_phases(zoo.iql, offline=130)
    uncut = Uncut(tmp_path / "uncut", phases)
    folder, name = new_run(tmp_path / "run", phases), "_interact" if online else "_update"
    original = getattr(segue.phases, name)

    def poisoned(c, phase, state):
        found = original(c, phase, state)
        state = found[0] if online else found
        if state.step >= 100:
            parts = state.parts._replace(learner=jax.tree.map(lambda x: x * np.nan, state.learner))
            state = state._replace(parts=parts)
        return (state, found[1]) if online else state

    with monkeypatch.context() as m:
        m.setattr(runs, "KEEP_SHARE", 1e9)  # of every state: here they follow within milliseconds
        m.setattr(segue.phases, name, poisoned)
        with pytest.raises(Diverged, match=r"step 1\d\d: the array .* is not finite") as stopped:
            go(folder)
    state = checkpoint(folder)
    assert 75 <= state.step < 100
    assert f"checkpoint (phase {phases[online].name!r}, step {state.step}) is finite" in str(stopped.value)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.learner))
    assert_same(folder, finish(folder), uncut)


def test_another_seed_is_another_run(tmp_path):
    """The comparisons above can fail."""
    phases = two_phases(zoo.iql)
    a, b = Uncut(tmp_path / "a", phases, seed=0), Uncut(tmp_path / "b", phases, seed=1)
    assert a.fingerprint[0] != b.fingerprint[0]
    assert a.fingerprint[1] != b.fingerprint[1]


def test_a_finished_run_stays_as_it_is(tmp_path):
    phases = two_phases(zoo.iql)
    uncut = Uncut(tmp_path / "uncut", phases)
    before = (tmp_path / "uncut" / "metrics.jsonl").read_bytes()
    assert_same(tmp_path / "uncut", finish(tmp_path / "uncut"), uncut)
    assert (tmp_path / "uncut" / "metrics.jsonl").read_bytes() == before


# ------------------------------------------------------------------------------- environments that cannot be re-entered


def walk():
    """A Gymnasium environment without a way back into an episode (custom tasks are never taken as replayable)."""
    import gymnasium

    class Walk(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-10, 10, (2,), np.float32)
        action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

        def reset(self, seed=None, options=None):
            self.x, self.t = np.random.default_rng(seed).normal(size=2).astype(np.float32), 0
            return self.x, {}

        def step(self, action):
            self.t += 1
            self.x = np.clip(self.x + 0.1 * action, -10, 10).astype(np.float32)
            return self.x, -float(np.abs(self.x).sum()), False, self.t == 30, {}

    return Walk()


def test_an_episode_that_cannot_be_entered_again_is_closed_as_by_a_time_limit(tmp_path):
    task = custom_task("test_resume:walk", None)
    phases = (Phase("online", zoo.sac, 100, True, transition=Fresh(), batch_size=BATCH),)
    settings = Settings(eval_every=1000, eval_episodes=0, log_every=50)
    folder, said = new_run(tmp_path / "run", phases, task=task, settings=settings), []
    state, finished = go(folder, StopAt(45))
    assert not finished
    cut = state.env_steps
    length = state.live.length
    assert 0 < length < 30
    timeout = state.ring.rows.shape[1] - 2
    assert state.ring.rows[cut - 1, timeout] == 0

    state, finished = runs.execute(folder, say=said.append, stop=StopAt(12))  # closes it, goes on a little, saves
    assert not finished
    assert any(f"({length} steps) cannot be entered again" in text for text in said)
    loaded, _, notice = Checkpoints(folder / "checkpoints").load()
    assert notice is None
    for s in (state, loaded):
        assert s.env_steps > cut
        assert s.ring.rows[cut - 1, timeout] == 1
        assert np.isfinite(s.ring.mc_return[cut - length : cut]).all()
    np.testing.assert_array_equal(state.ring.rows, loaded.ring.rows)

    state = finish(folder)
    assert state.ring.rows[cut - 1, timeout] == 1
    assert state.env_steps == 100 == state.episodes.length.sum()
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    episodes = [row for row in rows if row["kind"] == "episode"]
    assert [row["episode"] for row in episodes] == list(range(len(state.episodes.length)))
    assert next(row["length"] for row in episodes if row["cut"]) == length


def test_an_environment_that_no_longer_follows_closes_the_episode_too(tmp_path, monkeypatch):
    """Replayable in name, but the physics changed: noticed by its observations, never gone on with silently."""
    from segue.tasks.point_wall import PointWall

    phases, said = two_phases(zoo.iql), []
    folder = new_run(tmp_path / "run", phases)
    uncut = Uncut(tmp_path / "uncut", phases)
    state, _ = go(folder, StopAt(next(n for n in uncut.others if n > uncut.evaluation[-1] // 2 + 100)))
    if state.live is None:
        state, _ = go(folder, StopAt(20))
    assert state.live.length > 0
    monkeypatch.setattr(PointWall, "step", lambda self, a, step=PointWall.step: step(self, -np.asarray(a)))
    runs.execute(folder, say=said.append)
    assert any("cannot be entered again" in text for text in said)


# ------------------------------------------------------------------------------------------------------- cost of saving


@pytest.mark.parametrize(("cost", "saves"), [(0.001, 21), (1.0, 21), (30.0, 2)])
def test_saving_takes_three_percent_at_most(cost, saves, tmp_path, monkeypatch):
    """By a clock of our own: 1200 stretches of a second; a slow disk makes checkpoints rarer."""
    clock, count = [0.0], [0]

    class Time:
        monotonic = staticmethod(lambda: clock[0])

    class Slow:
        def save(self, state, length):
            clock[0] += cost
            count[0] += 1

    def loop():
        state = segue.phases.RunState(0, entered=True)
        for i in range(1200):
            clock[0] += 1.0
            yield state._replace(step=i), []

    monkeypatch.setattr(runs, "time", Time)
    phase = Phase("online", zoo.sac, 2000, True)
    last = segue.phases.RunState(0, entered=True)
    runs._follow(loop(), last, tmp_path, {}, (phase,), Slow(), _ignore, runs.Stop(), runs.SAVE_EVERY)
    assert abs(count[0] - saves) <= 1
    assert (count[0] - 2) * cost <= 0.03 * clock[0]  # the first, whose cost nobody knows, and the last come on top


# ------------------------------------------------------------------------------------------------------- real processes

SMALL = [
    *("--offline-steps", "40000", "--online-steps", "3000", "--eval-every", "20000", "--eval-episodes", "1"),
    *("--set", "phases.0.learner.hidden=[16,16]", "--set", "phases.1.learner.hidden=[16,16]"),
    *("--set", "phases.0.batch_size=8", "--set", "phases.1.batch_size=8"),
]


def start_process(*args, log):
    env = os.environ | {
        "PYTHONPATH": str(Path(segue.__file__).parents[1]),
        "SEGUE_CACHE": f"{jax.config.jax_compilation_cache_dir}/children",  # their compiled programs
        "PYTHONUNBUFFERED": "1",
    }
    with open(log, "wb") as f:
        return subprocess.Popen([sys.executable, "-m", "segue", *args], stdout=f, stderr=subprocess.STDOUT, env=env)


def wait_for(text, process, log, seconds=120):
    deadline = time.monotonic() + seconds
    while text not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def checkpoint(folder):
    return Checkpoints(folder / "checkpoints").load()[0]


def test_signals_to_a_real_process(tmp_path):
    """SIGTERM in the offline phase, Ctrl-C online, SIGKILL, and to the end; the same as without them."""
    folder, log = tmp_path / "out", tmp_path / "log"
    run = folder / "seed-0"
    process = start_process("run", "iql", "point-wall", "--out", str(folder), *SMALL, log=log)
    wait_for("offline: ", process, log)
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM, log.read_text()
    assert f"go on with: segue resume {run}" in log.read_text()
    assert "Traceback" not in log.read_text()
    state = checkpoint(run)
    assert (state.phase, state.entered) == (0, True)

    process = start_process("resume", str(folder), log=log)
    wait_for("online: ", process, log)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 128 + signal.SIGINT, log.read_text()
    assert "Traceback" not in log.read_text()
    assert checkpoint(run).phase == 1

    process = start_process("resume", str(folder), log=log)
    time.sleep(4)
    process.kill()
    process.wait(60)
    process = start_process("resume", str(folder), log=log)
    assert process.wait(240) == 0, log.read_text()
    state = checkpoint(run)
    assert (state.phase, state.env_steps) == (2, 3000)

    config = json.loads((run / "config.json").read_text())
    twin = tmp_path / "twin"
    twin.mkdir()
    (twin / "config.json").write_text(json.dumps(config))
    assert fingerprint(twin, finish(twin)) == fingerprint(run, state)
