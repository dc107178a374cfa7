"""Several seeds on two cores: two processes pinned to one core each, or one process after the other on both?

    python benchmarks/seeds.py --json seeds.json

Three child processes run scanned updates (`segue.phases.update_many`, as in ``updates.py``) in alternating rounds, idle
otherwise: two pinned to one core each, started at once, and one that may use both cores. Per seed and gradient step the
pair costs the slower one's time over two, the process on both cores its own time; a pinned process is also timed alone.
"""

from __future__ import annotations

import json
import sys
import time
from statistics import median

import common


def child() -> None:
    """Answers ``{"learner", "steps"}`` with milliseconds per gradient step."""
    store, programs, gemm = common.offline_store(), {}, common.Gemm()
    for line in sys.stdin:
        request = json.loads(line)
        name = request["learner"]
        if name not in programs:
            programs[name] = common.Scanned(name, store)
        if not request["steps"]:  # make ready: compile
            programs[name](1)
        rate, clock = gemm(), time.perf_counter()
        if request["steps"]:
            programs[name](request["steps"])
        ms = (time.perf_counter() - clock) * 1e3 / programs[name].steps
        print(json.dumps({"ms": ms, "gemm": rate, "cores": common.cores()}), flush=True)


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--learners", nargs="+", choices=common.LEARNERS, default=["TD3", "IQL"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=600, help="gradient steps per round (default 600)")
    parser.add_argument("--child", action="store_true", help="(the benchmark's own use)")
    args = parser.parse_args()
    if args.child:
        return child()
    if args.quick:
        args.rounds, args.steps = 2, 40
    cores = common.cores()[:2]
    if len(cores) < 2:
        raise SystemExit("this benchmark needs two cores; do not pin it to one")

    machine = common.Machine()
    command = [sys.executable, __file__, "--child"]
    pair = [common.Child(command, [core]) for core in cores]
    single = common.Child(command, cores)

    def together(name: str, steps: int) -> float:
        for c in pair:
            c.send(learner=name, steps=steps)
        return max(c.receive()["ms"] for c in pair) / 2

    table, results = [], {}
    for name in args.learners:
        together(name, 0)
        single.ask(learner=name, steps=0)
        forms = {
            "two pinned": lambda name=name: together(name, args.steps),
            "one on both": lambda name=name: single.ask(learner=name, steps=args.steps)["ms"],
            "one pinned": lambda name=name: pair[0].ask(learner=name, steps=args.steps)["ms"],
        }
        samples, _ = common.rounds(forms, args.rounds)
        gain = common.ratio(samples["two pinned"], samples["one on both"])
        results[name] = {"ms": samples, "two_pinned_over_one_on_both": gain}
        table.append([name, *(f"{median(samples[k]):.3f}" for k in forms), f"{gain:.3f}"])
    for c in (*pair, single):
        c.close()
    report = machine.report()
    columns = ["", "two pinned processes", "one on both cores", "one pinned alone", "two pinned / one on both"]
    common.show(report, f"Seeds: ms per seed and gradient step, {args.rounds} rounds", columns, table, None)
    common.write(args.json, {"benchmark": "seeds", "machine": report, "learners": results})


if __name__ == "__main__":
    main()
