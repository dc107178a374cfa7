"""Train the behaviour policies that the locomotion datasets are rolled out with, and pack the levels into one file.

    python tools/behaviours.py train hopper --steps 400000 --out behaviours-hopper   # half an hour on one core
    python tools/behaviours.py pack hopper --out behaviours-hopper                   # writes segue/tasks/behaviours/

One SAC run (128x128, seed 0), a run directory like any other: the same command goes on where it stopped. Its actor is
kept every 10,000 steps with the mean return of ten episodes with the policy's own action noise. *expert* is the best of
the five best actors kept, measured again by 20 fresh episodes; *medium* the one of the early steps (`MEDIUM`) whose
sampled score is nearest to that of D4RL's medium data; *replay-k* evenly spaced actors from before it, and from before
the first that is clearly better, with *medium* as the last rung. Medium and expert are then measured once more, on
episodes that chose nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from segue.tasks import locomotion
from segue.tasks.made import installed, on_grid

EVERY, EPISODES, LADDER = 10_000, 10, 5
FINALISTS, AGAIN = 5, 20  # for expert; episodes that measure a chosen actor again
MOST = 1_500_000  # steps of a training
MEDIUM = {
    "hopper": (44.0, 200_000),
    "halfcheetah": (42.5, 400_000),
    "walker2d": (55.0, 300_000),
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


def levels_of(record: list[dict[str, float]], score: Callable[[dict[str, float]], float], name: str) -> dict[str, Any]:
    """The rows of *medium* and of the ladder *replay-0* (weakest) to *replay-4* (medium)."""
    aim, early = MEDIUM[name]
    known = [row for row in record if row["step"] <= early]
    if not known:
        raise SystemExit(f"{name}: no actor is kept yet; train first")
    medium = min(known, key=lambda row: abs(score(row) - aim))
    ends = (i for i, row in enumerate(record) if row is medium or score(row) > BEYOND * max(aim, score(medium)))
    first = next(ends)
    if first < LADDER - 1:
        raise SystemExit(
            f"{name}: only {first} actors come before medium and any that is beyond it; keep them more often"
        )
    rungs = np.linspace(0, first - 1, LADDER - 1).round().astype(int)
    ladder = [*(record[i] for i in rungs), medium]
    return {"medium": medium} | {f"replay-{k}": row for k, row in enumerate(ladder)}


def measured(task: tasks.Task, net: locomotion.Net, seed: int) -> dict[str, float]:
    """Mean returns of the shipped numbers, with the policy's noise and without, on episodes that chose nothing."""
    env, told = task.make_env(), {}
    for mode, spread in (("sampled", 1.0), ("greedy", 0.0)):
        returns = []
        for episode in range(AGAIN):
            rng = np.random.default_rng((seed, episode))
            obs, return_, ended = env.reset(int(rng.integers(2**31))), 0.0, False
            while not ended:
                noise = spread * rng.standard_normal(task.act_dim)
                step = env.step(on_grid(locomotion.act(net, obs, noise)))
                obs, return_, ended = step.obs, return_ + step.reward, step.terminal or step.timeout
            returns.append(return_)
        told[mode] = float(np.mean(returns))
    env.close()
    return told


def shipped(out: Path, row: dict[str, float]) -> dict[str, np.ndarray]:
    """The actor of a row as it is shipped, float16."""
    kept = load_file(out / f"actor-{int(row['step'])}.safetensors")
    return {key: value.astype(np.float16) for key, value in kept.items()}


def pack(name: str, out: Path) -> None:
    task, record = tasks.get(name), curve(out)
    score = lambda row: task.score(row["sampled"])
    net = lambda row: [
        tuple(shipped(out, row)[f"layer{i}/{part}"].astype(np.float64) for part in ("weight", "bias"))
        for i in range(locomotion.LAYERS)
    ]
    levels = levels_of(record, score, name)
    finalists = sorted(record, key=score)[-FINALISTS:]  # the best of many means is luck too: measured again
    again = [row | {"again": measured(task, net(row), 1)} for row in finalists]
    levels["expert"] = max(again, key=lambda row: row["again"]["sampled"])
    for level in ("medium", "expert"):
        levels[level] = levels[level] | {"again": measured(task, net(levels[level]), 2)}
    arrays = {f"{level}/{key}": value for level, row in levels.items() for key, value in shipped(out, row).items()}
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
        "command": f"python tools/behaviours.py train {name} --steps {int(record[-1]['step'])}",
    }
    save_file(arrays, path, metadata={"record": json.dumps(facts)})
    print(f"{path}: {path.stat().st_size // 1024} KiB")
    for level, row in levels.items():
        returns = f"greedy {row['greedy']:7.0f} sampled {row['sampled']:7.0f}"
        fresh = "".join(f"  {mode} again {value:.0f}" for mode, value in row.get("again", {}).items())
        print(f"{level:10} step {int(row['step']):7} score {score(row):5.1f} {returns}{fresh}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "pack"))
    parser.add_argument("body")
    parser.add_argument("--steps", type=int, default=400_000)
    parser.add_argument("--out", type=Path, required=True)
    a = parser.parse_args()
    if a.body not in MEDIUM or not 0 < a.steps <= MOST:
        parser.error(f"the bodies are {', '.join(MEDIUM)}, and a training has at most {MOST:,} steps")
    train(a.body, a.steps, a.out) if a.what == "train" else pack(a.body, a.out)


if __name__ == "__main__":
    main()
