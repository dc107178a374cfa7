"""Seconds that 100,000 rows of each locomotion dataset take, made by the shipped policies, and a check of a million.

    python benchmarks/rollouts.py --json rollouts.json

1. `segue.tasks.locomotion.roll_out` at the level medium, one process: policy, simulator and columns, without the file
   of the cache. Target: 30 seconds each on 2 cores.
2. `segue data check` of a file in D4RL's layout with a million rows (observations 17, actions 6, episodes of 1000), the
   whole command. Target: 10 seconds.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import common
import numpy as np

from segue.tasks import locomotion
from segue.tasks.dataset import Dataset, dataset_from_arrays
from segue.tasks.formats import write

ROWS, CHECKED = 100_000, 1_000_000


def synthetic(rows: int) -> Dataset:
    """Random columns, each row's next observation the following one's."""
    columns = vars(common.dataset(rows))
    names = ("obs", "action", "reward")
    flags = {name: columns[name] > 0 for name in ("terminal", "timeout")}
    next_obs = np.append(columns["obs"][1:], columns["obs"][:1], axis=0)
    return dataset_from_arrays({name: columns[name] for name in names} | {"next_obs": next_obs} | flags, "synthetic")


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rows, checked, rounds = (2000, 20_000, 1) if args.quick else (ROWS, CHECKED, args.rounds)

    machine = common.Machine()

    def rolled(body: locomotion.Body) -> float:
        clock = time.perf_counter()
        locomotion.roll_out(body, "medium", rows)
        return time.perf_counter() - clock

    forms = {f"{name}-medium": lambda body=body: rolled(body) for name, body in locomotion.BODIES.items()}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "synthetic.hdf5"
        write(synthetic(checked), file)

        def check() -> float:
            clock = time.perf_counter()
            subprocess.run([sys.executable, "-m", "segue", "data", "check", str(file)], stdout=subprocess.DEVNULL)
            return time.perf_counter() - clock

        samples, _ = common.rounds(forms | {"check": check}, rounds)
    facts = machine.report()
    of = lambda name: checked if name == "check" else rows
    table = [[name, f"{of(name):,}", f"{median(s):.2f}", f"{of(name) / median(s):,.0f}"] for name, s in samples.items()]
    common.show(facts, f"Datasets, {rounds} rounds", ["", "rows", "seconds", "rows a second"], table, None)
    common.write(args.json, {"benchmark": "rollouts", "machine": facts, "rows": rows, "checked": checked} | samples)


if __name__ == "__main__":
    main()
