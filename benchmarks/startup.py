"""Time until something happens: the command line's help, imports, and the first update with and without a cache.

    python benchmarks/startup.py --json startup.json

Every sample is a process of its own, rounds alternate. The first update is a block of `segue.phases.update_many` as an
offline phase runs it: "cold" compiles it, "cache" finds it in a directory given as `jax_compilation_cache_dir` that
an earlier process of this run has filled (only programs that took a second to compile, JAX's default; "full cache":
all programs).  Stages of the first update are given apart: import, store and first state, first update.

The last table is `segue run pex point-wall` itself, few steps of both phases: "cold" with an empty `$SEGUE_CACHE`,
"warm" the same command in another folder afterwards. First row: until that of the metrics, 20 updates, is on disk.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]


def first_update(name: str) -> None:
    """In the child: the stages of a first update, in seconds, as one JSON line."""
    clock = time.perf_counter()
    import common
    import jax

    marks = [time.perf_counter()]
    scanned = common.Scanned(name, common.offline_store(2000))
    jax.block_until_ready(scanned.parts)
    marks.append(time.perf_counter())
    scanned(1)
    marks.append(time.perf_counter())
    stages = [b - a for a, b in zip([clock, *marks], marks, strict=False)]
    print(json.dumps(dict(zip(("import", "state", "first update"), stages, strict=True))))


def through_the_command_line(out: str) -> None:
    """In the child: a whole `segue run`, and the seconds spent compiling or reading compiled programs."""
    import segue.cli  # isort: skip  (before jax)
    import jax

    seconds = []
    listen = lambda name, duration, **_: (
        seconds.append(duration) if name.endswith("/backend_compile_duration") else None
    )
    jax.monitoring.register_event_duration_secs_listener(listen)
    steps = ["--offline-steps", "20", "--online-steps", "40", "--eval-episodes", "0", "--log-every", "20"]
    sys.argv = ["segue", "run", "pex", "point-wall", *steps, "--out", out]
    try:
        segue.cli.main()
    except SystemExit as end:
        if end.code:
            raise
    print(json.dumps({"programs": len(seconds), "compile": sum(seconds)}))


def command_line(cache: str) -> dict[str, float]:
    """One `segue run` in a folder of its own with that ``$SEGUE_CACHE``."""
    with tempfile.TemporaryDirectory() as folder:
        metrics, clock, first = Path(folder, "out", "seed-0", "metrics.jsonl"), time.perf_counter(), None
        command = [sys.executable, str(Path(__file__).resolve()), "--command-line", f"{folder}/out"]
        env = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"} | {"SEGUE_CACHE": cache}
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        with open(f"{folder}/log", "w+") as log:
            child = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
            while child.poll() is None:
                if first is None and metrics.exists() and '"train"' in metrics.read_text():
                    first = time.perf_counter() - clock
                time.sleep(0.01)
            whole = time.perf_counter() - clock
            log.seek(0)
            lines = log.read().splitlines()
        if child.returncode or first is None:
            raise SystemExit("\n".join(lines[-20:]))
        return {"first row": first, **json.loads(lines[-1]), "whole process": whole}


def process(command: list[str], **env: str) -> tuple[float, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    clock = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path} | env,
    )
    seconds = time.perf_counter() - clock
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {done.returncode}:\n{done.stderr[-2000:]}")
    return seconds, done.stdout


def main() -> None:
    import argparse

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of one learner: shows that it runs, no numbers")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    parser.add_argument("--learners", nargs="+", default=["IQL", "TD3", "SAC"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", metavar="LEARNER", help="(the benchmark's own use)")
    parser.add_argument("--command-line", metavar="DIR", help="(the benchmark's own use)")
    args = parser.parse_args()
    if args.child:
        return first_update(args.child)
    if args.command_line:
        return through_the_command_line(args.command_line)
    import common

    if args.quick:
        args.rounds, args.learners = 1, args.learners[:1]
    machine = common.Machine()

    commands = {
        "python alone": ["-c", ""],
        "import segue": ["-c", "import segue"],
        "import jax": ["-c", "import segue, jax"],
        "import segue.phases": ["-c", "import segue.phases"],
    }
    if importlib.util.find_spec("segue.__main__"):
        commands["segue --help"] = ["-m", "segue", "--help"]
    else:
        print("no segue.__main__ yet: `segue --help` is left out")
    forms: dict[str, Callable[[], float]] = {k: lambda c=c: process(c)[0] for k, c in commands.items()}
    samples, _ = common.rounds(forms, args.rounds)
    plain = [[k, f"{median(v):.3f}", f"{min(v):.3f}"] for k, v in samples.items()]

    stages: dict[str, dict[str, list[dict[str, float]]]] = {}
    script = str(Path(__file__).resolve())
    with tempfile.TemporaryDirectory() as folder:
        all_programs = {
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        kinds: dict[str, dict[str, str]] = {
            "cold": {},
            "cache": {"JAX_COMPILATION_CACHE_DIR": f"{folder}/default"},
            "full cache": {"JAX_COMPILATION_CACHE_DIR": f"{folder}/all", **all_programs},
        }
        for name in args.learners:
            stages[name] = {kind: [] for kind in kinds}

            def once(name: str, kind: str) -> float:
                seconds, out = process([script, "--child", name], **kinds[kind])
                stages[name][kind].append(json.loads(out.splitlines()[-1]) | {"process": seconds})
                return seconds

            for kind in ("cache", "full cache"):  # fills
                once(name, kind)
                stages[name][kind].clear()
            common.rounds({kind: lambda name=name, kind=kind: once(name, kind) for kind in kinds}, args.rounds)

    runs_: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as cache:
            for kind in runs_:
                runs_[kind].append(command_line(cache))

    rows = []
    for name, kinds_ in stages.items():
        for kind, runs in kinds_.items():
            rows.append([f"{name}, {kind}", *(f"{median(r[k] for r in runs):.2f}" for k in runs[0])])
    report = machine.report()
    common.show(report, f"Start: seconds, {args.rounds} rounds", ["", "median", "least"], plain, None)
    columns = ["", "import", "store and first state", "first update", "whole process"]
    common.show(report, "First update: seconds, medians", columns, rows, None)
    columns = ["segue run pex point-wall", *runs_["cold"][0]]
    cli_rows = [[kind, *(f"{median(r[k] for r in runs):.2f}" for k in runs[0])] for kind, runs in runs_.items()]
    common.show(report, "Command line: seconds, medians", columns, cli_rows, None)
    data = {"benchmark": "startup", "machine": report, "seconds": samples, "first_update": stages}
    data["command_line"] = runs_
    common.write(args.json, data)


if __name__ == "__main__":
    main()
