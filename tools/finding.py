"""Run the arms of a finding, seed by seed, and commit one small JSON for each that is finished.

    python tools/finding.py hopper [--runs DIR] [--seeds 0 1 2 3 4]
    python tools/finding.py hopper --table        # the table in Markdown, and docs/results/hopper.png

What is committed already is skipped; what was interrupted goes on. The protocol stands in docs/results/.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from segue.runs.report import RunRecord, Summary, estimate, summarise
from segue.runs.statistics import interquartile_mean, stratified_bootstrap

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
    phases = [{k: p[k] for k in ("name", "steps", "online")} for p in config["phases"]]
    return {k: config[k] for k in kept} | {
        "task": config["task"]["name"],
        "phases": phases,
        "wall": rows[-1]["wall"],
        "curve": curve,
    }


COLUMNS = {
    "offline": "offline_score",
    "hand-over": "handover_score",
    "as acted": "handover_acting_score",
    "deepest drop": "deepest_drop",
    "final": "final_score",
    "regret": "regret",
}


def records(data: Path, arm: str) -> list[RunRecord]:
    """The committed runs of an arm, as the report reads them."""
    found = []
    for file in sorted(data.glob(f"{arm}-*.json")):
        kept = json.loads(file.read_text())
        rows = [row | {"kind": "evaluation", "length": 0, "returns": [], "extras": {}} for row in kept["curve"]]
        found.append(RunRecord(file, kept | {"task": {"name": kept["task"]}}, tuple(rows)))
    return found


def markdown(data: Path, arms: list[str]) -> str:
    """Rows per seed and the interquartile mean with its interval, per arm."""
    lines = ["| arm | seed | " + " | ".join(COLUMNS) + " |", "| --- " * (len(COLUMNS) + 2) + "|"]
    form = lambda field, x: "-" if x is None else f"{x:.3f}" if field == "regret" else f"{x:.1f}"
    for arm in arms:
        runs = records(data, arm)
        summaries: list[Summary] = [summarise(r) for r in runs]
        for r, s in zip(runs, summaries, strict=True):
            cells = [form(f, getattr(s, f)) for f in COLUMNS.values()]
            lines.append(f"| {arm} | {r.config['seed']} | " + " | ".join(cells) + " |")
        cells = []
        for f in COLUMNS.values():
            e = estimate({"task": summaries}, f)
            cells.append("-" if e is None else f"**{form(f, e.value)}** [{form(f, e.low)}, {form(f, e.high)}]")
        lines.append(f"| **{arm}** | IQM | " + " | ".join(cells) + " |")
    runs = records(data, arms[0])
    last = lambda r: [row["return"] for row in r.rows if row["phase"] == "offline" and row["mode"] == "greedy"][-1]
    returns = np.array([last(r) for r in runs])
    low, high = stratified_bootstrap(returns)
    mean = runs[0].config["dataset"]["return_mean"]
    lines += [
        "",
        f"Return at the end of pre-training: {interquartile_mean(returns):.0f} [{low:.0f}, {high:.0f}] "
        f"(per seed {', '.join(f'{x:.0f}' for x in returns)}); mean return of the data: {mean:.0f}.",
    ]
    return "\n".join(lines)


def picture(data: Path, arms: list[str], file: Path) -> None:
    """Greedy scores: thin lines are seeds, thick ones interquartile means."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    for arm, colour in zip(arms, ("#0072B2", "#D55E00", "#009E73"), strict=False):
        curves: list[Any] = []
        for r in records(data, arm):
            greedy = [row for row in r.rows if row["mode"] == "greedy"]
            x = [row["step"] - (100_000 if row["phase"] == "offline" else 0) for row in greedy]
            curves.append([row["score"] for row in greedy])
            axes.plot(np.array(x) / 1000, curves[-1], color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(
            np.array(x) / 1000, interquartile_mean(np.array(curves), axis=0), color=colour, linewidth=2, label=arm
        )
    config = records(data, arms[0])[0].config
    low, high = config["reference"]["minimum"], config["reference"]["maximum"]
    behaviour = 100 * (config["dataset"]["return_mean"] - low) / (high - low)
    axes.axhline(behaviour, color="grey", linestyle=":", label="mean of the data")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.annotate("hand-over", (0, 1), xycoords=("data", "axes fraction"), xytext=(3, -10), textcoords="offset points")
    axes.set_xlabel("thousand steps: offline batches left of 0, environment steps right of it")
    axes.set_ylabel(f"score ({config['reference']['name']})")
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(file, dpi=110, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("finding", choices=FINDINGS)
    parser.add_argument("--runs", type=Path, default=Path.home() / "segue-runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--table", action="store_true", help="print the table and draw the picture; run nothing")
    a = parser.parse_args()
    data = ROOT / "docs" / "results" / "data" / a.finding
    data.mkdir(parents=True, exist_ok=True)
    if a.table:
        arms = [arm["arm"] for arm in FINDINGS[a.finding]]
        print(markdown(data, arms))
        picture(data, arms, data.parents[1] / f"{a.finding}.png")
        return
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
