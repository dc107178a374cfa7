"""Train the behaviour policies that the locomotion datasets are rolled out with, and pack the levels into one file.

    python tools/behaviours.py train hopper --steps 400000 --out behaviours-hopper   # half an hour on one core
    python tools/behaviours.py pack hopper --out behaviours-hopper                   # writes segue/tasks/behaviours/

One SAC run (128x128, seed 0), a run directory like any other: the same command goes on where it stopped. Its actor is
kept every 10,000 steps with the mean return of ten episodes with the policy's own action noise. *expert* is the best
actor kept; *medium* the one of the early steps (`MEDIUM`) whose sampled score is nearest to that of D4RL's medium data;
*replay-k* evenly spaced actors from before the first that is clearly better than medium, and *medium* as the last rung.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import load_file, save_file

import segue
from segue import tasks
from segue.evaluate import evaluate
from segue.learners import SAC
from segue.phases import Phase, Settings, Warmup
from segue.replays import Symmetric
from segue.runs.run import Progress, create, execute, make_config
from segue.tasks.made import installed

EVERY, EPISODES, LADDER = 10_000, 10, 5
MEDIUM = {
    "hopper": (44.0, 200_000),
    "halfcheetah": (42.5, 400_000),
    "walker2d": (55.0, 600_000),
    "ant": (45.0, 800_000),
}
BEYOND = 1.35  # times the score of medium: no longer medium


def train(name: str, steps: int, out: Path) -> None:
    task = tasks.get(name)
    learner = SAC(hidden=(128, 128))
    phase = Phase("online", learner, steps, online=True, replay=Symmetric(0.0), warmup=Warmup(5_000, "uniform"))
    settings = Settings(eval_every=EVERY, eval_episodes=0, log_every=EVERY)
    create(out, make_config("sac", task, (phase,), 0, settings, sys.argv))
    env = task.make_env()

    def keep(progress: Progress) -> None:
        if not any(row["kind"] == "train" for row in progress.rows):
            return
        state = progress.state
        row = {"step": state.step}
        for mode, greedy in (("greedy", True), ("sampled", False)):
            outcomes = evaluate(learner, state.learner, env, EPISODES, (77, state.step, int(greedy)), greedy)
            row[mode] = float(np.mean([o.return_ for o in outcomes]))
        print(row, flush=True)
        layers = state.learner.actor.net.net.layers
        arrays = {f"layer{i}/{n}": np.asarray(getattr(x, n)) for i, x in enumerate(layers) for n in ("weight", "bias")}
        save_file(arrays, out / f"actor-{state.step}.safetensors", metadata={"row": json.dumps(row)})

    execute(out, keep)


def curve(out: Path) -> list[dict[str, float]]:
    """The rows of the actors that a training kept, by step."""
    from safetensors import safe_open

    rows = []
    for path in out.glob("actor-*.safetensors"):
        with safe_open(path, framework="numpy") as file:
            rows.append(json.loads(file.metadata()["row"]))
    return sorted(rows, key=lambda row: row["step"])


def pack(name: str, out: Path) -> None:
    task, record = tasks.get(name), curve(out)
    score = lambda row: task.score(row["sampled"])
    aim, early = MEDIUM[name]
    expert = max(record, key=score)
    medium = min((row for row in record if row["step"] <= early), key=lambda row: abs(score(row) - aim))
    first = next(i for i, row in enumerate(record) if score(row) > BEYOND * aim)
    ladder = [record[i] for i in np.linspace(0, first - 1, LADDER - 1).round().astype(int)] + [medium]
    levels = {"medium": medium, "expert": expert} | {f"replay-{k}": row for k, row in enumerate(ladder)}
    arrays = {
        f"{level}/{key}": value.astype(np.float16)
        for level, row in levels.items()
        for key, value in load_file(out / f"actor-{row['step']}.safetensors").items()
    }
    path = Path(segue.__file__).parent / "tasks" / "behaviours" / f"{name}.safetensors"
    path.parent.mkdir(exist_ok=True)
    facts = {
        "learner": "SAC(hidden=(128, 128))",
        "seed": 0,
        "levels": levels,
        "curve": record,
        "segue": segue.__version__,
        "jax": jax.__version__,
        **installed("mujoco"),
        "command": f"python tools/behaviours.py train {name} --steps {record[-1]['step']}",
    }
    save_file(arrays, path, metadata={"record": json.dumps(facts)})
    print(f"{path}: {path.stat().st_size // 1024} KiB")
    for level, row in levels.items():
        returns = f"greedy {row['greedy']:7.0f} sampled {row['sampled']:7.0f}"
        print(f"{level:10} step {row['step']:7} score {score(row):5.1f} {returns}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "pack"))
    parser.add_argument("body")
    parser.add_argument("--steps", type=int, default=400_000)
    parser.add_argument("--out", type=Path, required=True)
    a = parser.parse_args()
    train(a.body, a.steps, a.out) if a.what == "train" else pack(a.body, a.out)


if __name__ == "__main__":
    main()
