"""Milliseconds per update of the sequence methods, and acting: ours and a plain PyTorch transformer, alternating.

    python benchmarks/sequences.py --peer /path/to/peers/bin/python --json sequences.json

Ours is `segue.phases.update_many` as an offline phase calls it: 100,000 synthetic rows of Hopper's sizes (observations
11, actions 3) in episodes of 500, windows of 20 steps, drawing of windows, dropout of 0.1, clipping, AdamW or LAMB
included. The peer (`peer_torch.py`, a child process with as many threads) is a transformer of the same sizes, dropout
and clipping, written plainly: `torch.nn.MultiheadAttention`, AdamW, random batches that are there already.

DT: embedding 128, 3 layers, 1 head, batch 64. ODT: embedding 512, 4 layers, 4 heads, batch 256 (`--odt` only: an update
takes seconds); ODT small: 128, 3, 4 heads, batch 64. Acting: `segue.evaluate.act` with a context of 20 (ODT: 5).

Rounds alternate and reverse their order; ratios are medians of ratios within a round.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import common
import jax
import numpy as np

from segue import phases
from segue.bonuses import Nothing
from segue.evaluate import act, begin
from segue.learners import DT, ODT, Standardise
from segue.replays import Sequences
from segue.store import Affine, make_store, with_returns
from segue.types import Spec

PEER = ".venv-peers/bin/python"
SPEC, ROWS, EPISODE, CONTEXT, BLOCK = Spec(11, 3, 1000), 100_000, 500, 20, 5
METHODS: dict[str, tuple[Any, int]] = {
    "DT": (DT(), 64),
    "ODT small": (ODT(embed=128, layers=3), 64),
    "ODT": (ODT(), 256),
}


class Updates:
    """Calling it with a number of updates runs them as an offline phase does; the state goes on."""

    def __init__(self, name: str, store: Any) -> None:
        learner, batch = METHODS[name]
        replay = Sequences(CONTEXT)
        self.work = phases.Work(Standardise(learner), replay, Nothing(), Affine(), batch)
        rstate = replay.init(jax.random.key(0), SPEC, store)
        self.parts = phases.Parts(self.work.learner.init(jax.random.key(0), SPEC), rstate, ())
        self.store, self.done, self.key = store, 0, jax.random.key(2)
        metrics = jax.eval_shape(lambda p, k: phases.update_once(self.work, store, p, k), self.parts, self.key)[1]
        self.sums = phases.blank_sums(metrics)

    def __call__(self, updates: int) -> float:
        """Milliseconds per update."""
        blocks, clock = max(1, updates // BLOCK), time.perf_counter()
        self.parts, self.sums = phases.update_many(
            self.work, BLOCK, np.int32(blocks), self.store, self.parts, self.sums, self.key, np.int32(self.done)
        )
        jax.block_until_ready(self.sums.count)
        self.done += blocks * BLOCK
        return (time.perf_counter() - clock) * 1e3 / (blocks * BLOCK)

    def acting(self, steps: int) -> float:
        """Milliseconds per action, as an evaluation takes them."""
        learner, state, key = self.work.learner, self.parts.learner, jax.random.key(3)
        memory, obs = begin(learner, state, key, True), np.zeros(SPEC.obs_dim, np.float32)
        clock = time.perf_counter()
        for t in range(steps):
            action, memory, _ = act(learner, state, memory, obs, np.float32(1), key, np.int32(t), True)
            np.asarray(action)
        return (time.perf_counter() - clock) * 1e3 / steps


def theirs(name: str, child: common.Child) -> Callable[[int], float]:
    learner, batch = METHODS[name]
    sizes = {"embed": learner.embed, "layers": learner.layers, "heads": learner.heads, "batch": batch}
    ask = lambda steps: child.ask(
        **sizes, context=CONTEXT, obs=SPEC.obs_dim, act=SPEC.act_dim, relu=name != "DT", steps=steps
    )
    return lambda steps: ask(steps)["seconds"] * 1e3 / steps


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--odt", action="store_true", help="the full ODT too, seconds an update")
    parser.add_argument("--peer", type=Path, default=Path(PEER), help=f"python with torch; default {PEER}")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--updates", type=int, default=20, help="per round (default 20; the full ODT 5)")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.updates = 2, BLOCK

    machine, gemm = common.Machine(), common.Gemm()
    child, versions = None, {}
    if not args.no_peer:
        if not args.peer.exists():
            raise SystemExit(f"{args.peer} does not exist: see benchmarks/README.md, or --no-peer")
        env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}  # nothing of ours in the peer's process
        child = common.Child([str(args.peer), str(Path(__file__).with_name("peer_torch.py"))], env=env)
        versions = child.receive()
    data = common.dataset(ROWS, SPEC)
    data.step = np.arange(ROWS) % EPISODE
    data.timeout = (data.step == EPISODE - 1).astype(np.float32)
    store = with_returns(make_store(SPEC, data, 1), Affine(), 1.0, 0)

    table, results, gemms = [], {}, []
    for name in METHODS if args.odt else list(METHODS)[:2]:
        n = BLOCK if name == "ODT" else args.updates
        ours = Updates(name, store)
        ours(BLOCK)  # compiles
        ours.acting(3)
        forms: dict[str, Callable[[], float]] = {"ours": lambda ours=ours, n=n: ours(n)}
        if child:
            peer = theirs(name, child)
            peer(2)
            forms["torch"] = lambda peer=peer, n=n: peer(n)
        forms["acting"] = lambda ours=ours: ours.acting(50 if args.quick else 500)
        samples, rates = common.rounds(forms, args.rounds, before=gemm)
        gemms += rates
        ms = {form: median(values) for form, values in samples.items()}
        ratio = common.ratio(samples["torch"], samples["ours"]) if child else None
        results[name] = {"ms": samples, "gemm_gflops": rates, "updates_over_torch": ratio}
        row = [name, f"{ms['ours']:.1f}", f"{1e3 / ms['ours']:.2f}"]
        row += [f"{ms['torch']:.1f}", f"{ratio:.2f}x"] if ratio else ["-", "-"]
        table.append([*row, f"{1e3 / ms['acting']:.0f}"])
        del ours, forms
    if child:
        child.close()  # before the report, which counts the CPU time of ended children as our own
    facts = machine.report()
    columns = ["", "ms an update", "updates/s", "torch ms", "updates/s over torch's", "actions/s"]
    common.show(facts, f"Windows of {CONTEXT} steps, {args.rounds} rounds", columns, table, median(gemms))
    common.write(args.json, {"benchmark": "sequences", "machine": facts, "peer": versions, "methods": results})


if __name__ == "__main__":
    main()
