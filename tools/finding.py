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
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segue.runs.report import RunRecord, Summary, estimate, summarise
from segue.runs.statistics import interquartile_mean, stratified_bootstrap

ROOT = Path(__file__).resolve().parents[1]


class Arm(NamedTuple):
    """One method of a finding; `source` is the arm whose pre-training it starts from."""

    method: str
    task: str
    flags: tuple[str, ...]
    source: str | None = None


def steps(offline: int, online: int, every: int) -> tuple[str, ...]:
    return "--offline-steps", str(offline), "--online-steps", str(online), "--eval-every", str(every)


def settings(**values: str) -> tuple[str, ...]:
    """``--set`` of paths whose dots are written as two underscores."""
    return tuple(x for path, value in values.items() for x in ("--set", f"phases.{path.replace('__', '.')}={value}"))


SMALL = settings(offline__learner__hidden="[64,64]")
REPLAY = "hopper-medium-replay"
MODELS = settings(offline__learner__starts="10000")
MODELS_ONLINE = settings(online__learner__starts="10000", online__learner__models__max_epochs="5")
EVIDENCE = {"embed": "128", "layers": "3", "warmup": "500"}  # of transformers
CONSERVATIVE = settings(
    **{
        f"{phase}__{k}": v
        for phase in ("offline", "online")
        for k, v in {
            "batch_size": "128",
            "learner__hidden": "[64,64]",
            "learner__critic_hidden": "[64,64]",
            "learner__samples": "4",
        }.items()
    }
)
ODT = {f"{p}__learner__base__{k}": v for p in ("offline", "online") for k, v in EVIDENCE.items()}
ODT |= {"offline__batch_size": "64", "online__batch_size": "64", "online__updates__n": "30"}

FINDINGS: dict[str, dict[str, Arm]] = {  # arms in order
    "hopper": {
        "direct": Arm(
            "direct",
            "hopper-medium",
            (*steps(100_000, 100_000, 5000), *SMALL, *settings(online__learner__hidden="[64,64]")),
        ),
        "pex": Arm(
            "pex",
            "hopper-medium",
            (*steps(100_000, 100_000, 5000), *SMALL, *settings(online__learner__base__hidden="[64,64]")),
            "direct",
        ),
    },
    "models": {
        "iql": Arm("iql", REPLAY, steps(50_000, 0, 5000)),
        "mopo": Arm("mopo", REPLAY, (*steps(50_000, 0, 5000), *MODELS)),
        "moore": Arm("moore", REPLAY, (*steps(50_000, 10_000, 5000), *MODELS, *MODELS_ONLINE), "mopo"),
    },
    "sequences": {
        "bc10": Arm("bc10", REPLAY, steps(50_000, 0, 2500)),
        "dt": Arm("dt", REPLAY, (*steps(5000, 0, 2500), *settings(offline__learner__base__warmup="500"))),
        "odt": Arm("odt", REPLAY, (*steps(5000, 10_000, 2500), *settings(**ODT))),
    },
    "conservative": {
        "cql": Arm("cql", REPLAY, (*steps(50_000, 30_000, 2000), *CONSERVATIVE)),
        "calql": Arm("calql", REPLAY, (*steps(50_000, 30_000, 2000), *CONSERVATIVE)),
    },
}


def result(run: Path) -> dict:
    """What is kept of a run: its evaluations, its critics' values, and what it takes to make it again."""
    config = json.loads((run / "config.json").read_text())
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    curve = [
        {k: row[k] for k in ("phase", "step", "mode", "score", "return")} for row in rows if row["kind"] == "evaluation"
    ]
    values = [
        {"phase": row["phase"], "step": row["step"], "q": m["critic/q"], "return": m["replay/return"]}
        for row in rows
        if row["kind"] == "train" and {"critic/q", "replay/return"} <= (m := row["metrics"]).keys()
    ]
    kept = ("method", "seed", "digest", "commit", "versions", "threads", "machine", "dataset", "reference")
    kept += ("overrides", "settings")
    phases = [{k: p[k] for k in ("name", "steps", "online")} for p in config["phases"]]
    return (
        {k: config[k] for k in kept}
        | {
            "task": config["task"]["name"],
            "phases": phases,
            "wall": rows[-1]["wall"],
            "curve": curve,
        }
        | ({"values": values} if values else {})
    )


EVALUATIONS = {"eval_episodes": 10}  # of records that do not say so

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
        found.append(RunRecord(file, {"settings": EVALUATIONS} | kept | {"task": {"name": kept["task"]}}, tuple(rows)))
    return found


def between(low: str, high: str) -> str:
    """An interval as it is printed; one seed has none."""
    return "" if "nan" in (low, high) else f" [{low}, {high}]"


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
            cells.append("-" if e is None else f"**{form(f, e.value)}**{between(form(f, e.low), form(f, e.high))}")
        lines.append(f"| **{arm}** | IQM | " + " | ".join(cells) + " |")
    mean = records(data, arms[0])[0].config["dataset"]["return_mean"]
    lines += ["", f"Return at the end of pre-training (mean return of the data: {mean:.0f}):", ""]
    for arm in arms:
        last = lambda r: [row["return"] for row in r.rows if row["phase"] == "offline" and row["mode"] == "greedy"][-1]
        returns = np.array([last(r) for r in records(data, arm)])
        low, high = stratified_bootstrap(returns)
        each = ", ".join(f"{x:.0f}" for x in returns)
        interval = between(f"{low:.0f}", f"{high:.0f}")
        lines.append(f"- {arm}: {interquartile_mean(returns):.0f}{interval} (per seed {each})")
    valued = {arm: runs for arm in arms if "values" in (runs := records(data, arm))[0].config}
    if valued:
        lines += [
            "",
            "Value of the data's actions less the data's return-to-go, mean of the last row of pre-training:",
            "",
        ]
    for arm, runs in valued.items():
        last = [[v for v in r.config["values"] if v["phase"] == "offline"][-1] for r in runs]
        gaps = np.array([v["q"] - v["return"] for v in last])
        low, high = stratified_bootstrap(gaps)
        each = ", ".join(f"{v['q']:.1f} - {v['return']:.1f}" for v in last)
        interval = between(f"{low:.1f}", f"{high:.1f}")
        lines.append(f"- {arm}: {interquartile_mean(gaps):.1f}{interval} (per seed {each})")
    return "\n".join(lines)


def picture(data: Path, arms: dict[str, Arm], file: Path) -> None:
    """Greedy scores before and after the hand-over: thin lines are seeds, thick ones interquartile means.

    An arm that starts from another's pre-training is drawn from the hand-over on.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (before, after) = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
    for (name, arm), colour in zip(arms.items(), ("#0072B2", "#D55E00", "#009E73"), strict=False):
        runs = records(data, name)
        steps = {p["name"]: p["steps"] for p in runs[0].config["phases"]}
        for phase, axes, unit in (("offline", before, steps.get("offline", 1) / 100), ("online", after, 1000)):
            if phase not in steps or (phase == "offline" and arm.source):
                continue
            rows = [[r for r in run.rows if (r["phase"], r["mode"]) == (phase, "greedy")] for run in runs]
            x, curves = [r["step"] / unit for r in rows[0]], np.array([[r["score"] for r in one] for one in rows])
            axes.plot(x, curves.T, color=colour, alpha=0.3, linewidth=0.8)
            axes.plot(x, interquartile_mean(curves, axis=0), color=colour, linewidth=2, marker=".", label=name)
    config = records(data, next(iter(arms)))[0].config
    low, high = config["reference"]["minimum"], config["reference"]["maximum"]
    behaviour = 100 * (config["dataset"]["return_mean"] - low) / (high - low)
    for axes, title, label in (
        (before, "pre-training", "% of its batches"),
        (after, "in the environment", "thousand environment steps"),
    ):
        axes.axhline(behaviour, color="grey", linestyle=":", label="mean of the data")
        axes.set_title(title)
        axes.set_xlabel(label)
        axes.legend(frameon=False)
    before.set_ylabel(f"greedy score ({config['reference']['name']})")
    figure.savefig(file, dpi=110, metadata={"Software": None})


def commit(file: Path, message: str) -> None:
    """Commit `file` unless it is; another driver may hold the repository's lock for a moment."""
    git = ["git", "-C", str(ROOT)]
    for _ in range(30):
        if not subprocess.run([*git, "status", "--porcelain", "--", str(file)], capture_output=True).stdout:
            return
        added = subprocess.run([*git, "add", "--", str(file)])
        if (
            not added.returncode
            and not subprocess.run([*git, "commit", "-q", "-m", message, "--", str(file)]).returncode
        ):
            return
        time.sleep(2)
    raise SystemExit(f"{file} could not be committed; the next start of this command tries again")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("finding", choices=FINDINGS)
    parser.add_argument("--arms", nargs="+", help="only these")
    parser.add_argument("--runs", type=Path, default=Path.home() / "segue-runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--table", action="store_true", help="print the table and draw the picture; run nothing")
    a = parser.parse_args()
    arms, data = FINDINGS[a.finding], ROOT / "docs" / "results" / "data" / a.finding
    data.mkdir(parents=True, exist_ok=True)
    if a.table:
        done = [name for name in arms if any(data.glob(f"{name}-*.json"))]
        print(markdown(data, done))
        picture(data, {name: arms[name] for name in done}, data.parents[1] / f"{a.finding}.png")
        return
    for seed in a.seeds:
        for name in a.arms or arms:
            arm = arms[name]
            file, out = data / f"{name}-{arm.task}-{seed}.json", a.runs / a.finding / name
            if file.exists():
                commit(file, f"Result: {a.finding}, {name} on {arm.task}, seed {seed}")
                continue
            command = [sys.executable, "-m", "segue", "run", arm.method, arm.task, "--seeds", str(seed)]
            command += ["--out", str(out), *arm.flags]
            if arm.source:
                command += ["--from", str(a.runs / a.finding / arm.source)]
            subprocess.run(command, check=True)
            file.write_text(json.dumps(result(out / f"seed-{seed}"), indent=1) + "\n")
            commit(file, f"Result: {a.finding}, {name} on {arm.task}, seed {seed}")


if __name__ == "__main__":
    main()
