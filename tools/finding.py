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
from collections.abc import Iterable
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
            "learner__gap": "null",
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
        "cql": Arm("cql", "maze2d-umaze", (*steps(50_000, 30_000, 1000), *CONSERVATIVE)),
        "calql": Arm("calql", "maze2d-umaze", (*steps(50_000, 30_000, 1000), *CONSERVATIVE)),
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


EARLY = 5000  # environment steps after the hand-over
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


def of_seeds(values: Iterable[float], digits: int = 1) -> str:
    """Interquartile mean of one number a seed, and its interval."""
    x = np.array([*values])
    mean, low, high = (f"{y:.{digits}f}" for y in (interquartile_mean(x), *stratified_bootstrap(x)))
    return mean + between(low, high)


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
        returns = [last(r) for r in records(data, arm)]
        each = ", ".join(f"{x:.0f}" for x in returns)
        lines.append(f"- {arm}: {of_seeds(returns, 0)} (per seed {each})")
    lines += ["", "Settings other than the recipe's:", ""]
    for arm in arms:
        changed = records(data, arm)[0].config["overrides"]
        lines.append(f"- {arm}: " + (", ".join(f"`{k} = {json.dumps(v)}`" for k, v in changed.items()) or "none"))
    valued = {arm: runs for arm in arms if "values" in (runs := records(data, arm))[0].config}
    if valued:
        lines += [
            "",
            "Value of the data's actions less the data's return-to-go, mean of the last row of pre-training:",
            "",
        ]
    for arm, runs in valued.items():
        last = [[v for v in r.config["values"] if v["phase"] == "offline"][-1] for r in runs]
        each = ", ".join(f"{v['q']:.1f} - {v['return']:.1f}" for v in last)
        lines.append(f"- {arm}: {of_seeds([v['q'] - v['return'] for v in last])} (per seed {each})")
    valued = {arm: runs for arm, runs in valued.items() if all(scores(r, "online") for r in runs)}
    if valued:
        lines += ["", f"Mean greedy score of the first {EARLY:,} steps online, less the hand-over's:", ""]
    for arm, runs in valued.items():
        curves = [scores(r, "online") for r in runs]
        less = [float(np.mean([y for x, y in c if 0 < x <= EARLY])) - dict(c)[0] for c in curves]
        lines.append(f"- {arm}: {of_seeds(less)} (per seed {', '.join(f'{x:.1f}' for x in less)})")
    return "\n".join(lines)


def scores(run: RunRecord, phase: str) -> list[tuple[int, float]]:
    """Greedy score by step."""
    return [(r["step"], r["score"]) for r in run.rows if (r["phase"], r["mode"]) == (phase, "greedy")]


def gaps(run: RunRecord, phase: str) -> list[tuple[int, float]]:
    """What the critic says of a batch's actions, less the return-to-go of their episodes, by step."""
    return [(v["step"], v["q"] - v["return"]) for v in run.config.get("values", ()) if v["phase"] == phase]


def picture(data: Path, arms: dict[str, Arm], file: Path) -> None:
    """Greedy scores before and after the hand-over, values beneath where all arms have them.

    Thin lines are seeds, thick ones interquartile means. An arm that starts from another's pre-training is drawn from
    the hand-over on.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    runs = {name: records(data, name) for name in arms}
    drawn = [scores, gaps] if all("values" in r.config for of_arm in runs.values() for r in of_arm) else [scores]
    size = (9, 1 + 3 * len(drawn))
    figure, grid = plt.subplots(
        len(drawn), 2, figsize=size, sharex="col", sharey="row", layout="constrained", squeeze=False
    )
    for (name, arm), colour in zip(arms.items(), ("#0072B2", "#D55E00", "#009E73"), strict=False):
        steps = {p["name"]: p["steps"] for p in runs[name][0].config["phases"]}
        for phase, column, unit in (("offline", 0, steps.get("offline", 1) / 100), ("online", 1, 1000)):
            if phase not in steps or (phase == "offline" and arm.source):
                continue
            for axes, curve in zip(grid[:, column], drawn, strict=True):
                x, y = np.moveaxis(np.array([curve(run, phase) for run in runs[name]]), -1, 0)  # seeds x rows
                axes.plot(x[0] / unit, y.T, color=colour, alpha=0.3, linewidth=0.8)
                thick = {"marker": "."} if curve is scores else {}
                axes.plot(x[0] / unit, interquartile_mean(y, axis=0), color=colour, linewidth=2, label=name, **thick)
    config = runs[next(iter(arms))][0].config
    low, high = config["reference"]["minimum"], config["reference"]["maximum"]
    behaviour = 100 * (config["dataset"]["return_mean"] - low) / (high - low)
    for column, title, label in (
        (0, "pre-training", "% of its batches"),
        (1, "in the environment", "thousand environment steps"),
    ):
        grid[0, column].axhline(behaviour, color="grey", linestyle=":", label="mean of the data")
        grid[0, column].set_title(title)
        grid[0, column].legend(frameon=False)
        grid[-1, column].set_xlabel(label)
    grid[0, 0].set_ylabel(f"greedy score ({config['reference']['name']})")
    if gaps in drawn:
        grid[1, 0].set_ylabel("critic's value less return-to-go")
        for axes in grid[1]:
            axes.axhline(0, color="grey", linestyle=":")
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
        if not done:
            raise SystemExit(f"no result of {a.finding} is there yet; make them: python tools/finding.py {a.finding}")
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
