"""Seconds that 100,000 rows of each locomotion dataset take, made by the shipped policies, and a check of a million.

    python benchmarks/rollouts.py --json rollouts.json

1. `segue.tasks.locomotion.roll_out` at the level medium, one process: policy, simulator and columns, without the file
   of the cache. Target: 30 seconds each on 2 cores.
2. `segue data check` of a file in D4RL's layout with a million rows (observations 17, actions 6, episodes of 1000,
   no next observations), the whole command. Target: 10 seconds.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import common
import h5py

from segue.tasks import locomotion

ROWS, CHECKED = 100_000, 1_000_000


def d4rl(file: Path, rows: int) -> None:
    """A file as D4RL's antmaze is: flags of ends, no next observations."""
    made = common.dataset(rows)
    columns = {"observations": made.obs, "actions": made.action, "rewards": made.reward}
    with h5py.File(file, "w") as out:
        for name, column in (columns | {"terminals": made.terminal > 0, "timeouts": made.timeout > 0}).items():
            out[name] = column


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
        d4rl(file, checked)

        def check() -> float:
            clock = time.perf_counter()
            command = [sys.executable, "-m", "segue", "data", "check", str(file)]
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            return time.perf_counter() - clock

        samples, _ = common.rounds(forms | {"check": check}, rounds)
    facts = machine.report()
    of = lambda name: checked if name == "check" else rows
    table = [[name, f"{of(name):,}", f"{median(s):.2f}", f"{of(name) / median(s):,.0f}"] for name, s in samples.items()]
    common.show(facts, f"Datasets, {rounds} rounds", ["", "rows", "seconds", "rows a second"], table, None)
    common.write(args.json, {"benchmark": "rollouts", "machine": facts, "rows": rows, "checked": checked} | samples)


if __name__ == "__main__":
    main()
