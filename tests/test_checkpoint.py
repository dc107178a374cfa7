"""Checkpoints: what is on disk is whole, or is noticed not to be; a kill or a full disk at any moment loses nothing."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import zoo

import segue
from segue import files
from segue.errors import CheckpointError
from segue.phases import Episodes, Live, Parts, RunState, Sums
from segue.runs.checkpoint import MANIFEST, PREVIOUS, Checkpoints
from segue.runs.files import pack_state, read_verified, sha256, write_atomically
from segue.store import Ring

CAPACITY, WIDTH = 16, 10


def row(number):
    """The content of a row is its number: an old or missing one shows."""
    return np.full(WIDTH, number + 1, np.float32)


def made_of(rows, number=0, flagged=()):
    """A state after `rows` environment steps, all of it a function of `rows`."""
    import jax.numpy as jnp

    ring = np.zeros((CAPACITY, WIDTH), np.float32)
    for i in range(max(0, rows - CAPACITY), rows):
        ring[i % CAPACITY] = row(i)
        if i in flagged:
            ring[i % CAPACITY, -2] = -1
    mc = np.where(np.arange(CAPACITY) % 3 == 0, -np.inf, np.arange(CAPACITY)).astype(np.float32)
    live = Live(row(rows)[:3], np.zeros(2, np.float32), np.float32(rows), rows % 7, float(rows) / 3, ())
    sums = Sums({"critic/td": np.float32(rows)}, np.int32(rows))
    parts = Parts({"w": jnp.full((3, 4), rows, jnp.float32)}, (), None)
    return RunState(
        seed=7,
        phase=1,
        step=rows,
        calls=number,
        entered=True,
        env_steps=rows,
        parts=parts,
        ring=Ring(jnp.array(ring), mc, np.int32(rows)),
        episodes=Episodes.empty().add(0, rows // 2, 1.5, rows / 7),
        live=live,
        sums=sums,
        act_sums=sums,
        score=rows / 11,
        snapshots={"offline": {"w": np.ones(2)}},
        wall=0.1 * rows,
    )


def same(a, b):
    return sha256(pack_state(a)) == sha256(pack_state(b))


def loaded(folder):
    return Checkpoints(folder).load()


# ---------------------------------------------------------------------------------------------------------- round trips


def test_round_trips_while_the_ring_wraps_around(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for i, rows in enumerate((0, 1, 5, 5, 6, 15, 16, 17, 20, 60, 61, 61, 77, 93, 94)):
        checkpoints.save(made_of(rows), 10 * i)
        state, length, notice = loaded(tmp_path)
        assert same(state, made_of(rows))
        assert (length, notice) == (10 * i, None)
        if i % 2:  # by the object that saved, or by one that loaded before
            checkpoints = Checkpoints(tmp_path)
            checkpoints.load()


def test_seconds_spent_on_saving_add_up(tmp_path, monkeypatch):
    clock, sync = [0.0], os.fsync
    monkeypatch.setattr("segue.runs.checkpoint.time.monotonic", lambda: clock[0])
    monkeypatch.setattr(os, "fsync", lambda handle: (sync(handle), clock.__setitem__(0, clock[0] + 1.0)))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(made_of(3), 0)
    first = checkpoints.seconds
    assert json.loads((tmp_path / MANIFEST).read_text())["seconds"] == {"run": 0.3, "saving": 4.0}
    assert first == 6.0  # a ring's segment, the state, the manifest: each a file and its folder
    checkpoints.save(made_of(3), 0)
    assert checkpoints.seconds > first
    again = Checkpoints(tmp_path)
    again.load()
    assert first < again.seconds <= checkpoints.seconds


def test_rows_are_written_once(tmp_path):
    checkpoints, sizes = Checkpoints(tmp_path), []
    for rows in range(1, 15):
        checkpoints.save(made_of(rows), 0)
        sizes.append({p.name: p.stat().st_mtime_ns for p in tmp_path.glob("ring-*")})
    for before, after in pairwise(sizes):
        assert before.items() < after.items()
    assert all(np.load(p).shape == (1, WIDTH) for p in tmp_path.glob("ring-*"))


@pytest.mark.parametrize("step", [1, 3])
def test_rows_whose_flags_changed_are_written_again(step, tmp_path):
    checkpoints, flagged, rows = Checkpoints(tmp_path), set(), 0
    for _ in range(12):
        rows += step
        checkpoints.save(made_of(rows, flagged=flagged), 0)
        flagged.add(rows - 1)
        checkpoints.rewrite_from(rows - 1)
        for extra in (0, 2):
            before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
            checkpoints.save(made_of(rows + extra, flagged=flagged), 0)
            kept = json.loads((tmp_path / PREVIOUS).read_text())
            for file in (kept["state"]["file"], *(s["file"] for s in kept["segments"])):
                assert (tmp_path / file).read_bytes() == before[file]  # the checkpoint before is never touched
            assert same(loaded(tmp_path)[0], made_of(rows + extra, flagged=flagged))
        rows += 2


def test_only_what_the_two_manifests_name_is_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for rows in (3, 9, 30, 70):
        checkpoints.save(made_of(rows), 0)
        (tmp_path / f".left.{rows}.tmp").write_bytes(b"of a killed process")
    checkpoints.save(made_of(71), 0)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        MANIFEST,
        PREVIOUS,
        "ring-4-54-70.npy",
        "ring-5-70-71.npy",
        "state-4.safetensors",
        "state-5.safetensors",
    ]


def test_names_and_numbers_of_real_states(tmp_path):
    import jax

    learner = zoo.ZOO["pex(hold(iql, value))"]
    state = made_of(4)._replace(parts=Parts(learner.init(jax.random.key(0), zoo.SPEC), (), ()))
    Checkpoints(tmp_path).save(state, 3)
    again = loaded(tmp_path)[0]
    assert zoo.same(again.parts, state.parts)
    assert type(again.parts.learner) is type(state.parts.learner)


# --------------------------------------------------------------------------------------------------------------- damage

FIRST, SECOND = 9, 12


def two_checkpoints(folder):
    checkpoints = Checkpoints(folder)
    checkpoints.save(made_of(FIRST), 100)
    checkpoints.save(made_of(SECOND), 200)
    return folder


def reached(folder):
    """How many rows the loaded state has, and whether a damage was spoken of; None if nothing could be loaded."""
    try:
        state, length, notice = loaded(folder)
    except CheckpointError as error:
        state, message = None, str(error)
    if state is None:
        assert "no checkpoint is whole" in message
        assert "--from" in message
        return None
    assert same(state, made_of(state.env_steps))
    assert length == {FIRST: 100, SECOND: 200}[state.env_steps]
    if notice is not None:
        assert "going on from the checkpoint before it (phase 1, step 9)" in notice
    return state.env_steps, notice is not None


def damages(data, rng, n):
    """Copies with one byte changed, cut short, or emptied."""
    for _ in range(n):
        i, bit = rng.randrange(len(data)), 1 << rng.randrange(8)
        yield data[:i] + bytes([data[i] ^ bit]) + data[i + 1 :]
    for end in (0, 1, len(data) // 2, len(data) - 1):
        yield data[:end]
    yield None


def test_damage_is_noticed_wherever_it_lies(tmp_path):
    whole, rng, outcomes = two_checkpoints(tmp_path / "whole"), random.Random(0), {}
    for name in sorted(p.name for p in whole.iterdir()):
        for data in damages((whole / name).read_bytes(), rng, 40):
            path = whole / name
            before = path.read_bytes()
            path.unlink()
            if data is not None:
                path.write_bytes(data)
            outcomes.setdefault(name, set()).add(reached(whole))
            path.write_bytes(before)
    assert reached(whole) == (SECOND, False)
    newest, both, unused = {(FIRST, True)}, {None}, {(SECOND, False)}
    assert outcomes.pop(MANIFEST) - {(SECOND, False)} == newest  # blanks in the JSON may change without harm
    assert outcomes == {
        PREVIOUS: unused,
        "state-2.safetensors": newest,
        "state-1.safetensors": unused,
        f"ring-2-{FIRST}-{SECOND}.npy": newest,
        f"ring-1-0-{FIRST}.npy": both,
    }


def test_every_number_of_the_manifest_is_guarded(tmp_path):
    whole = two_checkpoints(tmp_path)
    manifest = json.loads((whole / MANIFEST).read_text())
    for field in ("number", "capacity", "metrics_bytes", "phase", "step"):
        (whole / MANIFEST).write_text(json.dumps(manifest | {field: manifest[field] + 1}))
        assert reached(whole) == (FIRST, True)
    (whole / MANIFEST).write_text(json.dumps(manifest | {"segments": manifest["segments"][:1]}))
    assert reached(whole) == (FIRST, True)
    for text in ("[]", "null", "{}", '{"format": 1}'):
        (whole / MANIFEST).write_text(text)
        assert reached(whole) == (FIRST, True)


@pytest.mark.parametrize("name", [MANIFEST, "state-2.safetensors"])
def test_a_damaged_checkpoint_never_takes_the_place_of_the_good_one(name, tmp_path, monkeypatch):
    """After falling back, a kill at any moment of the next save still leaves a whole checkpoint."""
    two_checkpoints(tmp_path / "whole")
    (tmp_path / "whole" / name).write_bytes(b"damaged")
    calls = Calls()
    with monkeypatch.context() as m:
        calls.install(m)
        for n in range(1000):
            folder = tmp_path / str(n)
            shutil.copytree(tmp_path / "whole", folder)
            checkpoints = Checkpoints(folder)
            assert checkpoints.load()[0].env_steps == FIRST
            calls.kill_at(n)
            try:
                checkpoints.save(made_of(FIRST + 2), 150)
            except Killed:
                calls.kill_at(None)
                assert loaded(folder)[0].env_steps in (FIRST, FIRST + 2)
                continue
            break
    assert n > 8
    state, length, notice = loaded(folder)
    assert same(state, made_of(FIRST + 2))
    assert (length, notice) == (150, None)


# -------------------------------------------------------------------------------------------- kills, simulated and real


class Killed(BaseException):
    """In place of a SIGKILL: nothing catches it, and nothing is done after it."""


class Calls:
    """Counts the calls of the operating system that a save makes, and fails the n-th."""

    def __init__(self):
        self.left, self.error = None, Killed()

    def kill_at(self, n, error=None):
        self.left, self.error = n, error or Killed()

    def install(self, monkeypatch):
        for name in ("fsync", "replace", "open"):
            monkeypatch.setattr(files.os, name, self._wrapped(getattr(os, name)))
        monkeypatch.setattr(files, "open", self._wrapped(open), raising=False)
        monkeypatch.setattr(Path, "unlink", self._wrapped(Path.unlink))

    def _wrapped(self, original):
        def call(*args, **kwargs):
            if self.left is not None:
                self.left -= 1
                if self.left < 0:
                    self.left = 0 if isinstance(self.error, Killed) else None
                    raise self.error
            return original(*args, **kwargs)

        return call


def after(folder, rows, calls, n, error=None):
    """A save of `rows` rows that fails at its n-th call; whether it came that far."""
    checkpoints = Checkpoints(folder)
    checkpoints.load()
    calls.kill_at(n, error)
    try:
        checkpoints.save(made_of(rows), 300)
    except Killed:
        return True
    finally:
        calls.kill_at(None)
    return False


@pytest.mark.parametrize("rows", [SECOND + 3, SECOND + 40])
def test_a_kill_at_every_call_of_a_save_leaves_the_old_one_or_the_new_one(rows, tmp_path, monkeypatch):
    two_checkpoints(tmp_path / "whole")
    calls, found, n = Calls(), [], 0
    calls.install(monkeypatch)
    while True:
        folder = tmp_path / str(n)
        shutil.copytree(tmp_path / "whole", folder)
        killed = after(folder, rows, calls, n)
        state, length, notice = loaded(folder)
        assert notice is None
        assert same(state, made_of(state.env_steps))
        assert length == {SECOND: 200, rows: 300}[state.env_steps]
        found.append(state.env_steps)
        again = Checkpoints(folder)  # and whoever goes on can save
        again.load()
        again.save(made_of(rows + 1), 400)
        assert same(loaded(folder)[0], made_of(rows + 1))
        if not killed:
            break
        n += 1
    assert n > 15
    assert found == sorted(found)
    assert (found[0], found[-1]) == (SECOND, rows)


def test_a_full_disk_at_any_call_is_one_clear_error_and_loses_nothing(tmp_path, monkeypatch):
    two_checkpoints(tmp_path / "whole")
    calls = Calls()
    for name in ("fsync", "replace"):
        monkeypatch.setattr(files.os, name, calls._wrapped(getattr(os, name)))
    monkeypatch.setattr(files, "open", calls._wrapped(open), raising=False)
    n = 0
    while True:
        folder = tmp_path / str(n)
        shutil.copytree(tmp_path / "whole", folder)
        message = None
        try:
            after(folder, SECOND + 3, calls, n, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        except CheckpointError as error:
            message = str(error)
        if message is None:
            break
        assert "No space left on device" in message
        assert "segue resume" in message
        assert not list(folder.glob("*.tmp"))
        state, _, notice = loaded(folder)
        assert notice is None
        assert same(state, made_of(state.env_steps))
        n += 1
    assert n > 8


def test_a_disk_that_is_full_for_real(tmp_path, monkeypatch):
    file = tmp_path / "file"
    write_atomically(file, b"before")
    with monkeypatch.context() as m:
        full = lambda path, _: path.touch() or os.fdopen(os.open("/dev/full", os.O_WRONLY), "wb")
        m.setattr(files, "open", full, raising=False)
        with pytest.raises(CheckpointError, match=r"file: cannot be written \(No space left on device"):
            write_atomically(file, b"after")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"before"]
    with pytest.raises(CheckpointError, match=r"cannot be written \(Not a directory"):
        write_atomically(Path("/dev/full/file"), b"x")
    path = tmp_path / "missing" / "file"
    with pytest.raises(CheckpointError, match=r"cannot be written \(No such file"):
        write_atomically(path, b"x")


def test_a_reading_names_file_and_reason(tmp_path):
    with pytest.raises(CheckpointError, match=r"gone: cannot be read \(No such file"):
        read_verified(tmp_path / "gone", "0")
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="file: damaged, its checksum"):
        read_verified(tmp_path / "file", sha256(b"y"))


def save_until_killed(folder: Path, ready: int) -> None:
    """Load, verify, then save one checkpoint after another; says once that it began."""
    checkpoints, rows = Checkpoints(folder), 0
    if checkpoints.exists():
        state, length, notice = checkpoints.load()
        rows = state.env_steps
        if notice is not None or length != 10 * rows or not same(state, made_of(rows)):
            os._exit(3)
    began = rows
    while True:
        rows += 1 + rows % 3
        checkpoints.save(made_of(rows), 10 * rows)
        if began is not None:  # everything is compiled
            os.write(ready, b"%10d" % began)
            began = None


def kill_many(folder: str, kills: int) -> None:
    """In a process that has started no jax backend: fork a child, kill it at a random moment, over and over."""
    rng, reached = random.Random(0), []
    for _ in range(kills):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            try:
                save_until_killed(Path(folder), write)
            finally:
                os._exit(4)
        os.close(write)
        said = os.read(read, 10)
        os.close(read)
        time.sleep(rng.uniform(0, 0.1))
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status), f"kill {len(reached)}: {os.waitstatus_to_exitcode(status)}"
        reached.append(int(said))
    assert sorted(reached) == reached
    assert reached[-1] >= kills, reached
    print(f"{kills} kills, {reached[-1]} rows")


@pytest.mark.parametrize("kills", [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_sigkill_while_saving_never_leaves_an_unreadable_run(kills, tmp_path):
    here = Path(__file__).parent
    env = os.environ | {
        "PYTHONPATH": f"{Path(segue.__file__).parents[1]}{os.pathsep}{here}",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),  # the children compile nothing twice
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    code = f"import test_checkpoint; test_checkpoint.kill_many({str(tmp_path / 'run')!r}, {kills})"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{kills} kills")
    state, _, _ = loaded(tmp_path / "run")
    assert same(state, made_of(state.env_steps))
