"""Run the arms of a finding, seed by seed, and commit one small JSON for each that is finished.

    python tools/finding.py hopper [--runs DIR] [--seeds 0 1 2 3 4]

What is committed already is skipped; what was interrupted goes on. The protocol stands in docs/results/.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SIZE = "[64,64]"
COMMON = ["--offline-steps", "100000", "--online-steps", "100000", "--eval-every", "5000"]
SMALL = ["--set", f"phases.offline.learner.hidden={SIZE}"]

FINDINGS = {  # arms in order; `from` names the arm whose pre-training is shared
    "hopper": [
        {
            "arm": "direct",
            "task": "hopper-medium",
            "from": None,
            "set": ["--set", f"phases.online.learner.hidden={SIZE}"],
        },
        {
            "arm": "pex",
            "task": "hopper-medium",
            "from": "direct",
            "set": ["--set", f"phases.online.learner.base.hidden={SIZE}"],
        },
    ]
}


def result(run: Path) -> dict:
    """What is kept of a run: its evaluations, and what it takes to make it again."""
    config = json.loads((run / "config.json").read_text())
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    curve = [
        {k: row[k] for k in ("phase", "step", "mode", "score", "return")} for row in rows if row["kind"] == "evaluation"
    ]
    kept = ("method", "seed", "digest", "commit", "versions", "threads", "machine", "dataset", "reference", "overrides")
    return {k: config[k] for k in kept} | {"task": config["task"]["name"], "wall": rows[-1]["wall"], "curve": curve}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("finding", choices=FINDINGS)
    parser.add_argument("--runs", type=Path, default=Path.home() / "segue-runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    a = parser.parse_args()
    data = ROOT / "docs" / "results" / "data" / a.finding
    data.mkdir(parents=True, exist_ok=True)
    for seed in a.seeds:
        for arm in FINDINGS[a.finding]:
            file = data / f"{arm['arm']}-{arm['task']}-{seed}.json"
            if file.exists():
                continue
            out = a.runs / a.finding / arm["arm"]
            command = [
                sys.executable,
                "-m",
                "segue",
                "run",
                arm["arm"],
                arm["task"],
                "--seeds",
                str(seed),
                "--out",
                str(out),
            ]
            command += [*COMMON, *SMALL, *arm["set"]]
            if arm["from"]:
                command += ["--from", str(a.runs / a.finding / arm["from"])]
            subprocess.run(command, check=True)
            file.write_text(json.dumps(result(out / f"seed-{seed}"), indent=1) + "\n")
            subprocess.run(["git", "-C", str(ROOT), "add", str(file)], check=True)
            message = f"Result: {a.finding}, {arm['arm']} on {arm['task']}, seed {seed}"
            subprocess.run(["git", "-C", str(ROOT), "commit", "-q", "-m", message, "--", str(file)], check=True)


if __name__ == "__main__":
    main()
