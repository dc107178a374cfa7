"""Reading and writing datasets: seconds, and the largest memory in units of the dataset's own arrays.

    python benchmarks/formats.py --json formats.json

Files are made in a temporary folder first: D4RL's layout plain and with gzip as D4RL ships it, float64 and without next
observations, and what segue writes in each format. Every sample is a process of its own, which imports what it needs,
notes its resident memory, reads, and takes the peak (VmHWM: Linux only) minus that. CPU seconds beside those of the
clock tell a busy machine from a slow reader.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from segue.tasks.dataset import COLUMNS, D4RL, dataset_from_arrays  # noqa: E402
from segue.tasks.formats import read, write  # noqa: E402

ROWS, QUICK = 1_000_000, 20_000
OBS, ACT, LENGTH = 17, 6, 1000  # HalfCheetah's, episodes of 1000 steps
TABLES = 10  # a CSV has fewer rows by this factor


def columns(rows: int) -> dict[str, np.ndarray]:
    """Synthetic rows; an observation is where the one before it led."""
    rng = np.random.default_rng(0)
    obs = rng.standard_normal((rows + 1, OBS), np.float32)
    timeout = np.arange(rows) % LENGTH == LENGTH - 1
    timeout[-1] = True
    return {
        "obs": obs[:-1], "action": np.tanh(rng.standard_normal((rows, ACT), np.float32)),
        "reward": rng.standard_normal(rows, np.float32), "next_obs": obs[1:],
        "terminal": np.zeros(rows, bool), "timeout": timeout,
    }  # fmt: skip


def make(folder: Path, rows: int) -> dict[str, Path]:
    """The files, by what they are called in the table."""
    import h5py

    made = columns(rows)
    files = {}

    def hdf5(name: str, parts: dict[str, np.ndarray], **options: Any) -> None:
        files[name] = folder / f"{name.replace(' ', '-').replace(',', '')}.hdf5"
        with h5py.File(files[name], "w") as file:
            for key, value in parts.items():
                file.create_dataset(D4RL[key], data=value, **options)

    short = {key: value for key, value in made.items() if key != "next_obs"}
    hdf5("D4RL", made)
    hdf5("D4RL, gzip", made, compression="gzip")
    hdf5("D4RL, no next observations", short)
    hdf5("D4RL, float64", {k: v.astype(np.float64) if v.dtype == np.float32 else v for k, v in made.items()})
    dataset = dataset_from_arrays(made, "segue/benchmark")
    for name, path in (("npz", "a.npz"), ("Parquet", "a.parquet"), ("Minari", "a-v0")):
        files[name] = folder / path
        write(dataset, files[name])
    few = dataset_from_arrays(columns(max(rows // TABLES, 2)), "segue/benchmark")
    files[f"CSV, 1/{TABLES} of the rows"] = folder / "a.csv"
    write(few, folder / "a.csv")
    return files


def child(path: Path) -> dict[str, float]:
    """One reading, in this process."""
    import h5py  # noqa: F401  (before the memory is noted)

    if path.suffix == ".parquet":
        import pyarrow.parquet  # noqa: F401
    before, clock, cpu = memory("VmRSS"), time.perf_counter(), time.process_time()
    dataset = read(path)
    seconds, cpu = time.perf_counter() - clock, time.process_time() - cpu
    held = sum(getattr(dataset, column).nbytes for column in COLUMNS)
    return {"seconds": seconds, "cpu": cpu, "peak": memory("VmHWM") - before, "held": held, "rows": dataset.size}


def memory(field: str) -> int:
    """Bytes, from the kernel's account of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rows: shows that it runs, no numbers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(options.child)))
        return
    samples: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = make(Path(folder), QUICK if options.quick else ROWS)
        stored = {
            name: sum(p.stat().st_size for p in [path, *path.rglob("*")] if p.is_file()) for name, path in files.items()
        }
        for _ in range(1 if options.quick else options.rounds):
            for name, path in files.items():
                command = [sys.executable, __file__, "--child", str(path)]
                told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                samples.setdefault(name, []).append(json.loads(told) | {"stored": stored[name]})
    print(
        f"{'file':30} {'rows':>9} {'MB on disk':>10} {'MB held':>8} {'seconds':>8} {'CPU s':>6} {'peak MB':>8} "
        f"{'x dataset':>9}"
    )
    for name, found in samples.items():
        seconds, cpu, peak = (median(sample[key] for sample in found) for key in ("seconds", "cpu", "peak"))
        held, rows = found[0]["held"], int(found[0]["rows"])
        print(
            f"{name:30} {rows:9} {stored[name] / 1e6:10.0f} {held / 1e6:8.0f} {seconds:8.2f} {cpu:6.2f} "
            f"{peak / 1e6:8.0f} {peak / held:9.2f}"
        )
    if options.json:
        options.json.write_text(json.dumps(samples, indent=1) + "\n")


if __name__ == "__main__":
    main()
