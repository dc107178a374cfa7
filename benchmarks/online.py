"""Cost of one online step against its parts, and of a ring of a million rows.

    python benchmarks/online.py --json online.json            # an environment that costs nothing
    python benchmarks/online.py --env Hopper-v5

1. The real loop, `segue.phases.run` with an online phase (one gradient step per environment step, a dataset of 200,000
   rows, a ring of a million rows, all bookkeeping), against the update alone plus the environment's step alone, in
   alternating rounds: the update as a call of its own that is waited for, as online learning makes it, and scanned, as
   offline learning does. A TD3 update is two critic steps, so there the loop updates after every second step.
2. Writing one row into a donated ring and gathering a batch from it, at 1000 and at 1,000,000 rows, and whether the
   ring's memory is the same before and after. Written in place, both cost the same and well below 0.5 ms; a copy of the
   large ring alone would take tens of milliseconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from types import SimpleNamespace
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np

from segue import phases
from segue.replays import Uniform
from segue.store import Affine, make_store
from segue.tasks import Environment, Step
from segue.types import Spec

RING = 1_000_000


class Nothing:
    """An environment that costs nothing: constant observations, episodes of 200 steps."""

    obs_dim, act_dim, horizon = common.OBS, common.ACT, 200

    def __init__(self) -> None:
        self.obs, self.t = np.zeros(self.obs_dim, np.float32), 0

    def reset(self, seed: int) -> np.ndarray:
        self.t = 0
        return self.obs

    def step(self, action: np.ndarray) -> Step:
        self.t += 1
        return Step(self.obs, 0.0, False, self.t == self.horizon, {})

    def close(self) -> None:
        pass


def make_env(name: str) -> Any:
    if name == "nothing":
        return Nothing()
    import gymnasium

    return Environment(gymnasium.make(name), name)


class Loop:
    """The real loop, `steps` environment steps a call (the spacing of its rows, where it comes up for air)."""

    def __init__(self, name: str, env: str, data: Any, spec: Spec, steps: int) -> None:
        phase = phases.Phase("online", common.LEARNERS[name], RING, online=True, batch_size=common.BATCH)
        task = SimpleNamespace(spec=spec, make_env=lambda: make_env(env), score=float)
        state, fixed = phases.start(0, (phase,), spec, data)
        settings = phases.Settings(eval_every=RING, eval_episodes=0, log_every=steps)
        self.stream, self.steps = phases.run((phase,), task, state, fixed, settings), steps
        self.step, self.updates = 0, 0

    def __call__(self) -> float:
        """Milliseconds per environment step; the last update of the call is waited for."""
        target, clock = self.step + self.steps, time.perf_counter()
        while self.step < target:
            state, _ = next(self.stream)
            self.step, self.updates = state.step, state.calls
        jax.block_until_ready(state.parts)
        return (time.perf_counter() - clock) * 1e3 / self.steps


class Called:
    """One update a call, drawn from the store, its metrics summed; `steps` gradient steps, each call waited for."""

    def __init__(self, name: str, store: Any, spec: Spec, steps: int) -> None:
        self.work, *state = common.prepared(name, store, spec)
        self.parts, self.sums = jax.tree.map(jnp.copy, tuple(state))  # donated, so each array must be one of its own
        self.store, self.calls, self.done = store, steps // self.work.learner.slices, 0
        self.steps, self.key = steps, jax.random.key(2)

        @partial(jax.jit, donate_argnums=(1, 2))
        def update(store: Any, parts: Any, sums: Any, key: Any, i: Any) -> tuple[Any, Any]:
            parts, metrics = phases.update_once(self.work, store, parts, jax.random.fold_in(key, i))
            return parts, phases.add_metrics(sums, metrics)

        self.update = update
        self()

    def __call__(self) -> float:
        """Milliseconds per gradient step."""
        clock = time.perf_counter()
        for _ in range(self.calls):
            self.parts, self.sums = self.update(self.store, self.parts, self.sums, self.key, np.int32(self.done))
            jax.block_until_ready(self.sums.count)
            self.done += 1
        return (time.perf_counter() - clock) * 1e3 / self.steps


def environment_alone(name: str, steps: int) -> Callable[[], float]:
    env, rng = make_env(name), np.random.default_rng(0)
    env.reset(0)
    actions = rng.uniform(-1, 1, (steps, env.act_dim)).astype(np.float32)

    def once() -> float:
        clock = time.perf_counter()
        for i in range(steps):
            step = env.step(actions[i])
            if step.terminal or step.timeout:
                env.reset(i)
        return (time.perf_counter() - clock) * 1e3 / steps

    return once


@partial(jax.jit, donate_argnums=1)
def write_and_sample(fixed: Any, ring: Any, row: Any, key: Any) -> tuple[Any, Any]:
    ring = ring.add(row)
    store = phases.whole(fixed, ring)
    indices, weight = Uniform().indices((), store, key, common.BATCH)
    return ring, jax.tree.map(jnp.sum, store.at(indices, Affine(), weight))


def ring_form(capacity: int, steps: int) -> tuple[Callable[[], float], dict[str, bool]]:
    store = make_store(common.SPEC, common.dataset(1000), capacity)
    fixed, held, key = phases.fixed_half(store), [store.ring], jax.random.key(0)
    held[0] = held[0].__class__(held[0].rows, held[0].mc_return, jnp.int32(capacity))  # full: all rows are drawn from
    row, facts = np.zeros(store.layout.width, np.float32), {"in_place": True}

    def once() -> float:
        before, clock = held[0].rows.unsafe_buffer_pointer(), time.perf_counter()
        for _ in range(steps):
            held[0], sums = write_and_sample(fixed, held[0], row, key)
            jax.block_until_ready(sums)
        ms = (time.perf_counter() - clock) * 1e3 / steps
        facts["in_place"] &= held[0].rows.unsafe_buffer_pointer() == before
        return ms

    once()
    return once, facts


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--learners", nargs="+", choices=common.LEARNERS, default=["IQL", "TD3", "SAC"])
    parser.add_argument("--env", default="nothing", help='"nothing" (default) or a Gymnasium name such as Hopper-v5')
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=400, help="environment steps per round (default 400)")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.steps = 2, 40

    machine, gemm = common.Machine(), common.Gemm()
    env = make_env(args.env)
    spec = Spec(env.obs_dim, env.act_dim, env.horizon)
    data, store = common.dataset(spec=spec), common.offline_store(spec=spec)
    alone = environment_alone(args.env, args.steps)

    table, results = [], {}
    for name in args.learners:
        scanned, loop = common.Scanned(name, store, spec=spec), Loop(name, args.env, data, spec, args.steps)
        scanned(1)
        warm = 0
        while warm < min(env.horizon or 200, 1000) + args.steps:  # an episode's end compiles too
            loop()
            warm += args.steps

        def updates(scanned: common.Scanned = scanned) -> float:
            clock = time.perf_counter()
            scanned(args.steps)
            return (time.perf_counter() - clock) * 1e3 / scanned.steps

        called = Called(name, store, spec, args.steps)
        forms = {"online": loop, "called": called, "scanned": updates, "env": alone}
        samples, rates = common.rounds(forms, args.rounds, before=gemm)
        ratios = {}
        for form in ("called", "scanned"):
            parts = [u + e for u, e in zip(samples[form], samples["env"], strict=True)]
            ratios[form] = common.ratio(samples["online"], parts)
        results[name] = {"ms": samples, "gemm_gflops": rates, "online_over": ratios}
        table.append([name, *(f"{median(samples[k]):.3f}" for k in forms), *(f"{r:.3f}" for r in ratios.values())])
        loop.stream.close()
        del loop, scanned, called

    rings, facts = {}, {}
    for capacity in (1000, RING):
        rings[str(capacity)], facts[str(capacity)] = ring_form(capacity, 20 if args.quick else 500)
    ring_ms, _ = common.rounds(rings, args.rounds)
    report = machine.report()
    columns = ["", "online step", "update called", "update scanned", "environment"]
    columns += ["online / (called + env)", "online / (scanned + env)"]
    common.show(report, f"Online: ms per environment step, {args.env}, {args.rounds} rounds", columns, table, None)
    rows = []
    for k in rings:
        ms = median(ring_ms[k])
        rows.append([f"{int(k):,}", f"{ms:.4f}", *("yes" if x else "NO" for x in (facts[k]["in_place"], ms < 0.5))])
    title = "Ring: ms to write one row and gather 256"
    common.show(report, title, ["rows", "ms", "written in place", "below 0.5 ms"], rows, None)
    ring = {k: {"ms": ring_ms[k], **facts[k]} for k in rings}
    common.write(
        args.json, {"benchmark": "online", "env": args.env, "machine": report, "learners": results, "ring": ring}
    )


if __name__ == "__main__":
    main()
