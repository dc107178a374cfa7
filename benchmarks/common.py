"""What the benchmarks share: the machine's header, a reference gemm, alternating rounds, one synthetic update each."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import segue  # noqa: E402, I001  (sets XLA's flags: before jax)
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from segue import phases  # noqa: E402
from segue.bonuses import Nothing  # noqa: E402
from segue.learners import CQL, IQL, SAC, TD3, Many  # noqa: E402
from segue.losses import RandomMin, ReturnBound  # noqa: E402
from segue.presets.rlpd import PAPER as RLPD  # noqa: E402
from segue.replays import Uniform  # noqa: E402
from segue.store import Affine, Store, make_store  # noqa: E402
from segue.types import Spec  # noqa: E402

OBS, ACT, ROWS, BATCH = 17, 6, 200_000, 256
SPEC = Spec(OBS, ACT)
LEARNERS = {"IQL": IQL(), "TD3": TD3(), "SAC": SAC()}
LEARNERS |= {"CQL": CQL(gap=10.0), "Cal-QL": CQL(gap=10.0, bound=ReturnBound())}  # 3 x 10 sampled actions; Lagrange
# gemms of one gradient step at these sizes, hidden 256x256. IQL: 538.8, and the second pass of V(s), which the order of
# the authors' code (`lagged_value=False`) needs
MFLOP = {"IQL": 574.7, "TD3": 413.5, "SAC": 577.1, "CQL": 7039.6, "Cal-QL": 7039.6}
ENSEMBLES = {
    "RLPD": SAC(**RLPD),
    "RLPD without LayerNorm": SAC(**RLPD | {"layer_norm": False}),
    "one critic": SAC(**RLPD | {"n_critics": 1, "backup": RandomMin(1)}),
}
AGENTS = {"five CQL agents": Many(CQL(), 5), "one CQL agent": CQL()}  # Off2OnRL's pre-training
# of one critic step and a twentieth of a policy step; the target's critics that are not drawn are not evaluated
MFLOP |= {"RLPD": 1222.8, "RLPD without LayerNorm": 1222.8, "one critic": 190.2}
MFLOP |= {"five CQL agents": 5 * MFLOP["CQL"], "one CQL agent": MFLOP["CQL"]}


def arguments(doc: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few and short rounds: shows that it runs, no numbers")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    return parser


def dataset(rows: int = ROWS, spec: Spec = SPEC) -> SimpleNamespace:
    """Synthetic columns, episodes of 1000 steps."""
    rng = np.random.default_rng(0)
    f = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    step = np.arange(rows) % 1000
    end = (step == 999).astype(np.float32)
    return SimpleNamespace(
        obs=f(rows, spec.obs_dim), action=np.tanh(f(rows, spec.act_dim)), reward=f(rows),
        next_obs=f(rows, spec.obs_dim), terminal=np.zeros(rows, np.float32), timeout=end, step=step,
    )  # fmt: skip


def offline_store(rows: int = ROWS, spec: Spec = SPEC) -> Store:
    """A store of the synthetic columns and a ring of one row."""
    return make_store(spec, dataset(rows, spec), 1)


def prepared(name: str, store: Store, spec: Spec = SPEC) -> tuple[phases.Work, phases.Parts, phases.Sums]:
    """What `update_many` takes: work, first parts, empty sums."""
    work = phases.Work((LEARNERS | ENSEMBLES | AGENTS)[name], Uniform(), Nothing(), Affine(), BATCH)
    parts = phases.Parts(work.learner.init(jax.random.key(0), spec), (), ())
    metrics = jax.eval_shape(lambda p, k: phases.update_once(work, store, p, k), parts, jax.random.key(1))[1]
    return work, parts, phases.blank_sums(metrics)


class Scanned:
    """Calling it with a number of gradient steps runs them as an offline phase does; the state goes on."""

    def __init__(self, name: str, store: Store, form: str = "auto", spec: Spec = SPEC) -> None:
        self.work, self.parts, self.sums = prepared(name, store, spec)
        self.store, self.form, self.stride, self.done = store, form, self.work.learner.stride, 0
        # a function of its own: a program of another gradient form must not be found in jit's cache
        f = lambda *a: phases.update_many.__wrapped__(self.work, phases.BLOCK, *a)
        self.program = phases.update_many if form == "auto" else jax.jit(f)
        self.static = (self.work, phases.BLOCK) if form == "auto" else ()
        self.key = jax.random.key(2)

    def __call__(self, steps: int) -> None:
        blocks = max(1, round(steps / (self.stride * phases.BLOCK)))
        with gradient_form(self.form):
            self.parts, self.sums = self.program(
                *self.static, np.int32(blocks), self.store, self.parts, self.sums, self.key, np.int32(self.done)
            )
        jax.block_until_ready(self.sums.count)
        self.done += blocks * phases.BLOCK
        self.steps = (
            blocks * phases.BLOCK * self.stride
        )  # gradient steps of this call; agents side by side step at once


def timed(name: str, store: Store, form: str, steps: int) -> Callable[[], float]:
    """A call that runs so many gradient steps and returns milliseconds a step; compiled already."""
    scanned = Scanned(name, store, form)
    scanned(1)

    def once() -> float:
        clock = time.perf_counter()
        scanned(steps)
        return (time.perf_counter() - clock) * 1e3 / scanned.steps

    return once


@contextmanager
def gradient_form(form: str) -> Iterator[None]:
    """As the library has it ("auto"), or by autodiff, of the whole batch at once ("plain")."""
    from segue import nets, optim

    parts = optim.CHUNKS
    if form == "plain":
        optim.CHUNKS = 1
    try:
        with nets.gradients(form):  # type: ignore[arg-type]
            yield
    finally:
        optim.CHUNKS = parts


class Gemm:
    """A chain of 256 x 256 x 256 products; calling it gives GF/s of this moment."""

    def __init__(self, length: int = 200) -> None:
        rng = np.random.default_rng(0)
        x, w = (jnp.asarray(rng.standard_normal((256, 256)).astype(np.float32)) / 16 for _ in range(2))
        self.length, self.x = length, x
        self.chain = jax.jit(lambda x: jax.lax.scan(lambda h, _: (h @ w, None), x, None, length=length)[0])
        self.chain(x).block_until_ready()

    def __call__(self) -> float:
        clock = time.perf_counter()
        self.chain(self.x).block_until_ready()
        return self.length * 2 * 256**3 / (time.perf_counter() - clock) / 1e9


# --------------------------------------------------------------------------------------------------------------- rounds


def rounds(
    forms: Mapping[str, Callable[[], float]], n: int, before: Callable[[], float] | None = None
) -> tuple[dict[str, list[float]], list[float]]:
    """`n` rounds of all forms, order reversed every time; and `before()` around every form (the mean per round)."""
    samples: dict[str, list[float]] = {name: [] for name in forms}
    references = []
    for r in range(n):
        reference = []
        for name in list(forms) if r % 2 == 0 else list(forms)[::-1]:
            if before:
                reference.append(before())
            samples[name].append(forms[name]())
        if before:
            reference.append(before())
            references.append(float(np.mean(reference)))
    return samples, references


def ratio(a: list[float], b: list[float]) -> float:
    """Median over rounds of a/b of the same round."""
    return median(x / y for x, y in zip(a, b, strict=True))


# -------------------------------------------------------------------------------------------------------------- machine


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def cores() -> list[int]:
    """The cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def _busy() -> float | None:
    """Seconds that the machine's cores have been busy since its start."""
    try:
        fields = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except OSError:
        return None
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


class Machine:
    """A header, and what others used of the machine between its making and `report`."""

    def __init__(self) -> None:
        self.clock, self.busy = time.perf_counter(), _busy()
        self.own = self._own()
        self.facts: dict[str, Any] = {
            "cpu": _cpu_model(), "cores": cores(), "cores_of_machine": os.cpu_count(),
            "load_before": os.getloadavg(), "python": platform.python_version(), "jax": jax.__version__,
            "device": jax.devices()[0].platform, "xla_flags": os.environ.get("XLA_FLAGS", ""),
            "segue": segue.__version__, "commit": _commit(), "date": time.strftime("%Y-%m-%d %H:%M"),
        }  # fmt: skip

    @staticmethod
    def _own() -> float:
        t = os.times()
        return t.user + t.system + t.children_user + t.children_system

    def report(self) -> dict[str, Any]:
        """Facts, with the foreign CPU use so far. Close children first: their CPU time counts once they have ended."""
        wall, busy = time.perf_counter() - self.clock, _busy()
        foreign = None
        if busy is not None and self.busy is not None:
            foreign = round(max(0.0, busy - self.busy - (self._own() - self.own)) / wall, 2)
        return self.facts | {"load_after": os.getloadavg(), "foreign_cores": foreign}


def _commit() -> str:
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def show(machine: Mapping[str, Any], title: str, columns: list[str], rows: list[list[str]], gemm: float | None) -> None:
    """The header and a table, on the terminal."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 110)
    load = " -> ".join(f"{machine[k][0]:.2f}" for k in ("load_before", "load_after"))
    rate = "" if gemm is None else f", gemm 256^3 {gemm:.0f} GF/s"
    console.print(
        f"{machine['cpu']}, cores {machine['cores']} of {machine['cores_of_machine']}, load {load}, others used "
        f"{machine['foreign_cores']} core(s){rate}\npython {machine['python']}, jax {machine['jax']}, segue "
        f"{machine['segue']} ({machine['commit']}), {machine['date']}",
        highlight=False,
    )
    if (machine["foreign_cores"] or 0) > 0.15:
        console.print("[yellow]Other processes ran: trust the ratios little and the milliseconds not at all.")
    table = Table(title=title)
    for i, c in enumerate(columns):
        table.add_column(c, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def write(path: Path | None, data: dict[str, Any]) -> None:
    if path:
        path.write_text(json.dumps(data, indent=1, default=float) + "\n")


class Child:
    """A process that answers one JSON line with one JSON line."""

    def __init__(self, command: list[str], pinned: list[int] | None = None, env: dict[str, str] | None = None) -> None:
        mine = cores()
        if pinned:  # inherited, so it holds before jax counts its cores (a preexec_fn would have to fork our threads)
            os.sched_setaffinity(0, pinned)
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        if pinned:
            os.sched_setaffinity(0, mine)

    def send(self, **request: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a child process ended with status {self.process.wait()}: {self.process.args}")
        return json.loads(line)

    def ask(self, **request: Any) -> dict[str, Any]:
        self.send(**request)
        return self.receive()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)
