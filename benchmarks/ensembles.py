"""What ensembles cost: a critic step of RLPD with and without LayerNorm, by plain autodiff, of one critic; CQL agents.

    python benchmarks/ensembles.py --json ensembles.json

An update of RLPD is 20 critic steps on slices of 256 rows and one step of the policy and its temperature; times are
those of `segue.phases.update_many` divided by the critic steps: 200,000 synthetic rows (observations 17, actions 6),
hidden 256x256, 10 critics of which 2 are backed up, drawing of rows, gathering and sums of metrics included. "plain" is
the same with `segue.nets.gradients("plain")`. "one critic" is a learner like RLPD with a single critic: N / (10 x one)
says what an ensemble costs against ten learners of one critic each. Off2OnRL's pre-training, five whole CQL agents in
one update, stands beside five times one agent; it runs a twentieth of the steps.

Rounds alternate and reverse their order; ratios are medians of ratios within a round. "x attained" is the step's time
over that of its gemms alone, at the rate that a chain of 256^3 products reached in the same rounds.
"""

from __future__ import annotations

from statistics import median

import common

RLPD, BARE, ONE = common.ENSEMBLES
FIVE, AGENT = common.AGENTS


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=800, help="critic steps per round (default 800, at least 400)")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.steps = 1, 400

    machine, gemm, store = common.Machine(), common.Gemm(), common.offline_store()
    forms = {name: common.timed(name, store, "auto", args.steps) for name in common.ENSEMBLES}
    forms |= {name: common.timed(name, store, "auto", args.steps // 20) for name in common.AGENTS}
    forms |= {f"{name}, plain": common.timed(name, store, "plain", args.steps) for name in (RLPD, BARE)}
    samples, rates = common.rounds(forms, args.rounds, before=gemm)

    of = lambda name: samples[name]
    against = {
        RLPD: ("without LayerNorm", common.ratio(of(RLPD), of(BARE))),
        f"{RLPD}, plain": ("RLPD", common.ratio(of(f"{RLPD}, plain"), of(RLPD))),
        f"{BARE}, plain": (BARE, common.ratio(of(f"{BARE}, plain"), of(BARE))),
    }
    over = {
        "RLPD over ten of one critic": common.ratio(of(RLPD), [10 * x for x in of(ONE)]),
        "five CQL agents over five times one": common.ratio(of(FIVE), [5 * x for x in of(AGENT)]),
    }
    table, data = [], {}
    for name, ms in samples.items():
        mflop = common.MFLOP[name.removesuffix(", plain")]
        attained = median(x * rate / mflop for x, rate in zip(ms, rates, strict=True))
        other, ratio = against.get(name, ("", None))
        table.append([name, f"{median(ms):.3f}", f"{attained:.2f}", f"{ratio:.3f} x {other}" if ratio else ""])
        data[name] = {"ms": ms, "x_attained": attained, "ratio": {other: ratio} if ratio else {}}
    table += [[name, "", "", f"{ratio:.3f}"] for name, ratio in over.items()]
    data |= {name: {"ratio": ratio} for name, ratio in over.items()}
    facts = machine.report()
    columns = ["", "ms", "x attained", "against"]
    common.show(
        facts,
        f"Ensembles: ms per critic step, of agents per update, {args.rounds} rounds",
        columns,
        table,
        median(rates),
    )
    common.write(args.json, {"benchmark": "ensembles", "machine": facts, "gemm_gflops": rates, "forms": data})


if __name__ == "__main__":
    main()
