"""Milliseconds per gradient step offline: ours, ours with plain autodiff, and d3rlpy, alternating in one run.

    python benchmarks/updates.py --peer /path/to/peers/bin/python --json updates.json

Ours is `segue.phases.update_many` as an offline phase calls it: 200,000 synthetic rows (observations 17, actions 6),
hidden 256x256, batch 256, drawing of rows, gathering and sums of metrics included. "plain" is the same by plain
autodiff (`segue.nets.gradients("plain")`) of whole batches. d3rlpy (PyTorch on the CPU, in a child process with as many
threads) is timed with its own sampling: ``algo.update(buffer.sample_transition_batch(256))``. TD3 counts critic steps:
one `update` of ours is two critic steps and one of the actor, and d3rlpy updates its actor at every second step too.

CQL and Cal-QL are d3rlpy's forms: three times ten sampled actions, Lagrange with threshold 10; d3rlpy backs up the
policy's mode where ours samples, and computes returns-to-go at each update, ours when a phase begins. Steps so dear
are timed by fewer of them.

Rounds alternate and reverse their order; ratios are medians of ratios within a round. "x attained" is the step's time
over that of its gemms alone, at the rate that a chain of 256^3 products reached in the same rounds.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from statistics import median

import common

PEER = ".venv-peers/bin/python"


def theirs(name: str, child: common.Child, steps: int) -> Callable[[], float]:
    child.ask(learner=name, steps=10)
    return lambda: child.ask(learner=name, steps=steps)["seconds"] * 1e3 / steps


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--learners", nargs="+", choices=common.LEARNERS, default=list(common.LEARNERS))
    parser.add_argument("--peer", type=Path, default=Path(PEER), help=f"python with d3rlpy; default {PEER}")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=400, help="gradient steps of ours per round (default 400)")
    parser.add_argument("--peer-steps", type=int, default=150, help="of the peer per round (default 150)")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.steps, args.peer_steps = 2, 40, 10

    machine, gemm = common.Machine(), common.Gemm()
    child, versions = None, {}
    if not args.no_peer:
        if not args.peer.exists():
            raise SystemExit(f"{args.peer} does not exist: see benchmarks/README.md, or --no-peer")
        sizes = [str(n) for n in (common.ROWS, common.OBS, common.ACT, common.BATCH)]
        script = str(Path(__file__).with_name("peer_d3rlpy.py"))
        env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}  # nothing of ours in the peer's process
        child = common.Child([str(args.peer), script, *sizes], env=env)
        versions = child.receive()
    store = common.offline_store()

    table, data, gemms = [], {}, []
    for name in args.learners:
        share = min(1.0, 1000 / common.MFLOP[name])  # of the steps: fewer of the dear ones
        forms = {form: common.timed(name, store, form, round(share * args.steps)) for form in ("auto", "plain")}
        if child:
            forms["d3rlpy"] = theirs(name, child, max(1, round(share * args.peer_steps)))
        samples, rates = common.rounds(forms, args.rounds, before=gemm)
        gemms += rates
        base = samples["auto"]
        attained = median(ms * rate / common.MFLOP[name] for ms, rate in zip(base, rates, strict=True))
        ratios = {form: common.ratio(samples[form], base) for form in forms if form != "auto"}
        data[name] = {"ms": samples, "gemm_gflops": rates, "x_attained": attained, "ratio_to_ours": ratios}
        row = [name, f"{median(base):.3f}", f"{attained:.2f}", f"{median(samples['plain']):.3f}"]
        row += [f"{common.ratio(base, samples['plain']):.3f}"]
        row += [f"{median(samples['d3rlpy']):.2f}", f"{ratios['d3rlpy']:.2f}x"] if child else ["-", "-"]
        table.append(row)
    if child:
        child.close()  # before the report, which counts the CPU time of ended children as our own
    facts = machine.report()
    columns = ["", "ours", "x attained", "plain", "ours/plain", "d3rlpy", "d3rlpy/ours"]
    common.show(facts, f"Offline: ms per gradient step, {args.rounds} rounds", columns, table, median(gemms))
    common.write(args.json, {"benchmark": "updates", "machine": facts, "peer": versions, "learners": data})


if __name__ == "__main__":
    main()
