"""Train the behaviour policies that the locomotion datasets are rolled out with, and pack the levels into one file.

    python tools/behaviours.py train hopper --steps 400000 --out behaviours-hopper   # half an hour on one core
    python tools/behaviours.py pack hopper --out behaviours-hopper                   # writes segue/tasks/behaviours/

One SAC run (128x128, seed 0), its actor kept every 10,000 steps with the mean return of ten episodes with the policy's
own action noise. *expert* is the best actor kept; *medium* the one of the first 200,000 steps whose sampled score is
nearest to that of D4RL's medium data; *replay-k* evenly spaced actors from before the first that is clearly better than
medium, and *medium* as the last rung.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import load_file, save_file

import segue
from segue import tasks
from segue.evaluate import evaluate
from segue.learners import SAC
from segue.phases import Phase, Settings, Warmup, run, start
from segue.replays import Symmetric

EVERY, EPISODES, LADDER = 10_000, 10, 5
MEDIUM, BEYOND = 44.0, 60.0  # D4RL scores: of D4RL's own medium data; of a policy that is no longer medium


def train(name: str, steps: int, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    task = tasks.get(name)
    learner = SAC(hidden=(128, 128))
    phase = Phase("online", learner, steps, online=True, replay=Symmetric(0.0), warmup=Warmup(5_000, "uniform"))
    first, fixed = start(0, (phase,), task.spec, None)
    env, record = task.make_env(), []
    settings = Settings(eval_every=EVERY, eval_episodes=0, log_every=EVERY)
    for state, rows in run((phase,), task, first, fixed, settings):
        if not any(row["kind"] == "train" for row in rows):
            continue
        row = {"step": state.step}
        for mode, greedy in (("greedy", True), ("sampled", False)):
            outcomes = evaluate(learner, state.learner, env, EPISODES, (77, state.step, int(greedy)), greedy)
            row[mode] = float(np.mean([o.return_ for o in outcomes]))
        record.append(row)
        print(row, flush=True)
        layers = state.learner.actor.net.net.layers
        arrays = {f"layer{i}/{n}": np.asarray(getattr(x, n)) for i, x in enumerate(layers) for n in ("weight", "bias")}
        save_file(arrays, out / f"{state.step}.safetensors")
        (out / "record.json").write_text(json.dumps(record))


def pack(name: str, out: Path) -> None:
    task = tasks.get(name)
    record = json.loads((out / "record.json").read_text())
    score = lambda row: task.score(row["sampled"])
    expert = max(record, key=score)
    medium = min((row for row in record if row["step"] <= 200_000), key=lambda row: abs(score(row) - MEDIUM))
    first = next(i for i, row in enumerate(record) if score(row) > BEYOND)
    ladder = [record[i] for i in np.linspace(0, first - 1, LADDER - 1).round().astype(int)] + [medium]
    levels = {"medium": medium, "expert": expert} | {f"replay-{k}": row for k, row in enumerate(ladder)}
    arrays = {
        f"{level}/{key}": value.astype(np.float16)
        for level, row in levels.items()
        for key, value in load_file(out / f"{row['step']}.safetensors").items()
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
        "command": f"python tools/behaviours.py train {name} --steps {record[-1]['step']}",
    }
    save_file(arrays, path, metadata={"record": json.dumps(facts)})
    print(f"{path}: {path.stat().st_size // 1024} KiB")
    for level, row in levels.items():
        print(f"{level:10} step {row['step']:7} greedy {row['greedy']:7.0f} sampled {row['sampled']:7.0f}")


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
