"""Several seeds of one method: one process per core, each pinned to its own."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path


def runs_in(folder: Path) -> list[Path]:
    """The runs at or below `folder`, as the report finds them. Raises `CheckpointError` if there are none."""
    from segue.runs.report import find_runs

    return [Path(p) for p in find_runs([folder])]


def cores() -> list[int]:
    """Cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def resume_all(folders: list[Path], jobs: int | None = None, confirmed: str | None = None) -> int:
    """Continue all runs, at most `jobs` at a time, each a process pinned to one core; the largest exit code.

    That of a run which a signal has ended is 128 + signal.

    Their lines are printed as they come. Signals are passed on, and the end of this process is one: every run then
    saves and stops.
    """
    free = cores()[: jobs or None]
    waiting, running, worst = list(folders), {}, 0
    stopping = threading.Event()

    def stop(number: int, frame: object) -> None:
        if stopping.is_set():
            for child in running:
                child.kill()
        stopping.set()
        for child in running:
            child.send_signal(signal.SIGTERM)

    before = {s: signal.signal(s, stop) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)}
    try:
        while running or (waiting and not stopping.is_set()):
            while waiting and free and not stopping.is_set():
                core, folder = free.pop(0), waiting.pop(0)
                child = _start(folder, core, confirmed)
                running[child] = core
                if stopping.is_set():  # the signal came while it started
                    child.send_signal(signal.SIGTERM)
            for child in [c for c in running if c.poll() is not None]:
                free.append(running.pop(child))
                code = child.returncode
                worst = max(worst, 128 - code if code < 0 else code)
            time.sleep(0.05)
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
    return worst


def pin(count: int) -> None:
    """Leave this process the first `count` of its cores; must come before JAX starts its threads."""
    if hasattr(os, "sched_setaffinity") and count < len(cores()):
        os.sched_setaffinity(0, cores()[:count])


PR_SET_PDEATHSIG = 1
PARENT = "SEGUE_GROUP"  # tells a run of a group whose it is


def _start(folder: Path, core: int, confirmed: str | None) -> subprocess.Popen:
    """A run as a process of its own. No Python runs between fork and exec: JAX's threads may hold locks then."""
    command = [sys.executable, "-m", "segue", "resume", str(folder)] + (["--env", confirmed] if confirmed else [])
    environment = os.environ | {"SEGUE_PLAIN": "1", PARENT: str(os.getpid())}  # several runs cannot redraw one line
    start = partial(subprocess.Popen, command, start_new_session=True, env=environment)
    if not hasattr(os, "sched_setaffinity"):
        return start()
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})  # of this thread; the child inherits it
    try:
        return start()
    finally:
        os.sched_setaffinity(0, mine)


def stop_with_parent() -> None:
    """In a run of a group: SIGTERM as soon as the group's process has ended, however it ended."""
    parent = os.environ.pop(PARENT, None)
    if parent is not None and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):  # it ended before
            os.kill(os.getpid(), signal.SIGTERM)
