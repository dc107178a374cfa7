"""Speed of learnt models: imagined rollouts, and a batch of their training.

    python benchmarks/models.py --json models.json

1. 50,000 starts rolled out for 5 steps by SAC's policy in an ensemble of 7 members of 4 x 200 units (250,000 imagined
   rows at most, all of them here: nothing ends), writing them into the pool included. Target: 5 seconds on 2 cores.
2. One batch of training all members (7 x 256 rows), with the hand-written gradient and with plain autodiff, in
   alternating rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Literal

import common
import jax
import jax.numpy as jnp
import numpy as np

from segue import dynamics, nets
from segue.learners import SAC
from segue.replays import Uniform
from segue.store import Affine, Rows
from segue.types import Spec

STARTS, HORIZON, BATCHES = 50_000, 5, 20


def never(obs: jax.Array, action: jax.Array, next_obs: jax.Array) -> jax.Array:
    """A task that does not end."""
    return next_obs[..., 0] > np.inf


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    starts, batches, rounds = (1000, 2, 2) if args.quick else (STARTS, BATCHES, args.rounds)

    machine, gemm = common.Machine(), common.Gemm()
    spec = Spec(common.OBS, common.ACT, 1000, never)
    rows = Rows(common.offline_store(spec=spec), (), Uniform(), Affine(), spec)
    settings, sac, key = dynamics.Models(), SAC(), jax.random.key(0)
    state = sac.init(key, spec)
    models = dynamics.begin_fit(dynamics.init(key, spec, settings), rows, key)
    pool = [dynamics.Pool(jnp.zeros((5 * starts * HORIZON, rows.store.layout.width)), jnp.int32(0))]

    def rollouts() -> float:
        clock = time.perf_counter()
        imagined = dynamics.imagine(models, sac, state, rows, key, starts, HORIZON, 1.0)
        pool[0] = jax.block_until_ready(pool[0].add(imagined))
        return time.perf_counter() - clock

    def training(form: Literal["fast", "plain"]) -> Callable[[], float]:
        with nets.gradients(form):
            # a function of its own: a program of another gradient form must not be found in jit's cache
            learn = jax.jit(lambda *a: dynamics._learn.__wrapped__(settings, *a))
            run = lambda: jax.block_until_ready(learn(models, rows, key, np.int32(0), np.int32(batches)))
            run()

        def once() -> float:
            clock = time.perf_counter()
            run()
            return (time.perf_counter() - clock) * 1e3 / batches

        return once

    rollouts()
    forms = {"rollouts": rollouts, "fast": training("fast"), "plain": training("plain")}
    samples, rates = common.rounds(forms, rounds, before=gemm)
    report, m = machine.report(), {k: median(v) for k, v in samples.items()}
    table = [
        [f"{starts:,} starts, {HORIZON} steps: seconds", f"{m['rollouts']:.2f}", "5"],
        ["imagined rows a second", f"{starts * HORIZON / m['rollouts']:,.0f}", ""],
        ["a batch of training, hand-written gradient: ms", f"{m['fast']:.2f}", ""],
        ["a batch of training, plain autodiff: ms", f"{m['plain']:.2f}", ""],
        ["plain / hand-written", f"{common.ratio(samples['plain'], samples['fast']):.2f}", ""],
    ]
    common.show(report, f"Learnt models, medians of {rounds} rounds", ["", "", "target"], table, None)
    common.write(args.json, {"benchmark": "models", "machine": report, "samples": samples, "gemm_gflops": rates})


if __name__ == "__main__":
    main()
