"""Several seeds of one method: one process per core, each pinned to its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from segue.errors import CheckpointError


def runs_in(folder: Path) -> list[Path]:
    """The runs at or below `folder`, one level deep. Raises `CheckpointError` if there are none."""
    if (folder / "config.json").exists():
        return [folder]
    found = sorted((p.parent for p in folder.glob("*/config.json")), key=lambda p: (len(p.name), p.name))
    if not found:
        raise CheckpointError(
            f"{folder}: no run lies here (no config.json, nor in a folder below); see `segue run --help`"
        )
    return found


def cores() -> list[int]:
    """Cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def resume_all(folders: list[Path], jobs: int | None = None) -> int:
    """Continue all runs, at most `jobs` at a time, each a process pinned to one core; the largest exit code.

    Their lines are printed as they come. SIGTERM and Ctrl-C are passed on; every run then saves and stops.
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

    before = {s: signal.signal(s, stop) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        while running or (waiting and not stopping.is_set()):
            while waiting and free and not stopping.is_set():
                core, folder = free.pop(0), waiting.pop(0)
                child = _start(folder, core)
                running[child] = core
                if stopping.is_set():  # the signal came while it started
                    child.send_signal(signal.SIGTERM)
            for child in [c for c in running if c.poll() is not None]:
                free.append(running.pop(child))
                worst = max(worst, abs(child.returncode))
            time.sleep(0.05)
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
    return worst


def _start(folder: Path, core: int) -> subprocess.Popen:
    pin = (lambda: os.sched_setaffinity(0, {core})) if hasattr(os, "sched_setaffinity") else None
    command = [sys.executable, "-m", "segue", "resume", str(folder)]
    return subprocess.Popen(command, preexec_fn=pin, start_new_session=True)
