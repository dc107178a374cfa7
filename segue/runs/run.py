"""One run in one directory: configuration, metrics, checkpoints, signals. What a loop does not do itself.

config.json        everything that decides the run, with versions, commit, threads and the dataset's hash
metrics.jsonl      rows of the loop, one JSON object a line
checkpoints/       see ``segue.runs.checkpoint``
phases/            the state at the end of each phase, for other runs to start from (``--from``)
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import platform
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import segue
from segue.errors import CheckpointError, ConfigError, DataError, Diverged, EnvironmentFault
from segue.evaluate import seed_of
from segue.phases import TRAINING, Parts, Phase, RunState, Settings, reenter, run, start
from segue.runs import group, trust
from segue.runs.checkpoint import Checkpoints
from segue.runs.codec import decode, dumps, encode, leaves
from segue.runs.files import pack_state, read_json, read_verified, sha256, unpack_state, write_atomically
from segue.runs.sinks import Sink, open_sinks, scalars
from segue.store import Layout, Ring, close_episode
from segue.tasks import from_source
from segue.tasks.formats.memory import left_on_disk
from segue.tasks.task import Task

FORMAT = 1
SAVE_EVERY = 60.0  # seconds between checkpoints, or more where saving would take over 3 % of the time
SAVE_SHARE = 0.03
KEEP_SHARE = 0.01  # of the time goes into copies of the last finite state
DECISIVE = ("method", "task", "phases", "settings", "dataset")  # what a run's numbers depend on, beside its seed
FIELDS: dict[str, Any] = {name: dict for name in ("task", "settings", "overrides", "versions")}
FIELDS |= {"method": str, "phases": list, "dataset": dict | None, "digest": str}
FIELDS |= {"seed": int, "log": list, "commit": str | None, "threads": int}
Say = Callable[[str], None]


# ------------------------------------------------------------------------------------------------------- configuration


def versions() -> dict[str, str]:
    """Versions of everything that can move a number."""
    found = {"segue": segue.__version__, "python": platform.python_version()}
    for name in ("jax", "jaxlib", "equinox", "optax", "numpy", "gymnasium", "mujoco"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The commit of segue's own checkout, with ``+`` where files are changed; None outside a checkout."""
    here = Path(segue.__file__)
    git = ["git", "-C", str(here.parent)]
    try:
        tracked = subprocess.run([*git, "ls-files", "--error-unmatch", here.name], capture_output=True, timeout=10)
        if tracked.returncode:  # no checkout, or somebody else's around an installed segue
            return None
        found = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, timeout=10)
        changed = subprocess.run([*git, "status", "--porcelain", "--", "."], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() + ("+" if changed.stdout.strip() else "") if found.returncode == 0 else None


def machine() -> str:
    """Processor and accelerator, in words."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    return f"{name}, {os.cpu_count()} cores, {jax.default_backend()}"


def make_config(
    method: str,
    task: Task,
    phases: tuple[Phase, ...],
    seed: int,
    settings: Settings,
    command: list[str],
    overrides: dict[str, Any] | None = None,
    log: tuple[str, ...] = (),
    cores: int | None = None,
) -> dict[str, Any]:
    """A run's configuration as JSON; ``digest`` covers what decides its numbers, apart from the seed.

    `log` names further sinks of the metrics (`segue.runs.sinks`); `cores` is the number that the run will have
    (default: all that this process may use). An environment is made once: what is missing shows before training.
    """
    if settings.eval_episodes or any(p.online for p in phases):
        try:
            task.make_env().close()
        except ConfigError as error:
            raise ConfigError(f"{error}; or train offline only: --online-steps 0 --eval-episodes 0") from error
    dataset, reference = None, task.score_reference
    if any(not p.online for p in phases) or task.load_dataset is not None:
        d = task.dataset
        dataset = {"name": d.name, "hash": d.hash, "size": d.size, "episodes": len(d.starts)}
        dataset |= {"on_disk": True} if hasattr(d, "disk") else {}
        dataset |= {"return_mean": float(np.mean(d.returns)), "return_max": float(np.max(d.returns))}
        dataset["score_mean"] = float(np.mean(d.returns if reference is None else reference.scores(d)))
    decisive = {
        "method": method,
        "task": {"name": task.name, "family": task.family, "source": task.source},
        "phases": [encode(p) for p in phases],
        "settings": asdict(settings),
        "dataset": dataset,
    }
    return {
        "format": FORMAT,
        **decisive,
        "digest": _digest(decisive),
        "seed": seed,
        "reference": None if reference is None else asdict(reference),
        "overrides": overrides or {},
        "log": list(log),
        "versions": versions(),
        "commit": commit(),
        "threads": cores or len(group.cores()),
        "machine": machine(),
        "command": command,
    }


def _digest(config: dict[str, Any]) -> str:
    return sha256(dumps({name: config[name] for name in DECISIVE}).encode())[:16]


def _sealed(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with a checksum over all of it."""
    rest = {name: value for name, value in config.items() if name != "sha256"}
    return rest | {"sha256": sha256(dumps(rest).encode())}


def create(folder: Path, config: dict[str, Any], source: Path | None = None) -> None:
    """Make a run's directory; where it holds the same run already, leave it as it is.

    `source` is a run whose finished first phases serve this one too (``--from``). Raises `ConfigError` where the
    folder holds another run, or the source does not fit.
    """
    file = folder / "config.json"
    if file.exists():
        there = read_config(folder)
        origin = None if source is None else read_config(source)["digest"]
        if (there["digest"], there["seed"]) == (config["digest"], config["seed"]):
            if there.get("from", {}).get("digest") != origin:
                raise ConfigError(f"{folder} holds this run with another --from; choose another --out")
            if more := set(config["log"]) - set(there["log"]):
                raise ConfigError(
                    f"{folder} holds this run, begun without --log {' '.join(sorted(more))}; leave that out to go on, "
                    "or choose another --out"
                )
            return
        mine, theirs = (dict(leaves({k: c[k] for k in (*DECISIVE, "seed")})) for c in (config, there))
        differ = sorted(k for k in mine.keys() | theirs.keys() if mine.get(k) != theirs.get(k))
        raise ConfigError(
            f"{folder} holds another run ({there['method']} on {there['task']['name']}, seed {there['seed']}; "
            f"differs in {', '.join(differ[:5])}); choose another --out"
        )
    if trust.names_code(config):
        config = config | {"signature": trust.sign(config)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be made ({error.strerror}); choose another --out") from error
    if source is not None:
        config = config | {"from": _take_over(folder, config, source)}
    elif not (folder / "metrics.jsonl").exists():
        write_atomically(folder / "metrics.jsonl", b"")
    write_atomically(file, json.dumps(_sealed(config), indent=1).encode())


def read_config(folder: Path) -> dict[str, Any]:
    """A run's configuration. Raises `CheckpointError` where the folder is no run or the file is not as it was written.

    Runs begun before there was a checksum over the whole file are guarded by ``digest`` and the fields' types alone.
    """
    file = folder / "config.json"
    if not file.exists():
        raise CheckpointError(
            f"{folder} is no run: it has no config.json; `segue run METHOD TASK --out {folder}` makes one"
        )
    config = read_json(file)
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise CheckpointError(f"{file}: not a run's configuration of format {FORMAT}")
    way_out = "bring the old file back, or start a new run"
    for name, kinds in FIELDS.items():
        if name not in config or not isinstance(config[name], kinds):
            raise CheckpointError(f"{file}: its field {name!r} is missing or damaged; {way_out}")
    if config["digest"] != _digest(config) or config.get("sha256") not in (None, _sealed(config)["sha256"]):
        raise CheckpointError(f"{file}: changed since the run began; {way_out}")
    return config


# -------------------------------------------------------------------------------------------- finished phases of a run


class Finished(NamedTuple):
    """The end of a phase."""

    parts: Parts
    score: float | None
    wall: float


def phase_file(folder: Path, index: int, name: str) -> Path:
    return folder / "phases" / f"{index}-{name}.safetensors"


def read_finished(path: Path) -> Finished:
    """The end of a phase from its file. Raises `CheckpointError` where it is damaged."""
    record = read_json(path.with_suffix(".json"))
    if not isinstance(record, dict) or not isinstance(record.get("sha256"), str):
        raise CheckpointError(f"{path.with_suffix('.json')}: damaged, it holds no checksum")
    finished = unpack_state(read_verified(path, record["sha256"]), path)
    if not isinstance(finished, Finished):
        raise CheckpointError(f"{path}: holds no end of a phase")
    return finished


def _keep_phase(folder: Path, config: dict[str, Any], index: int, state: RunState) -> None:
    """Write the end of phase `index` for other runs."""
    name = config["phases"][index]["name"]
    path = phase_file(folder, index, name)
    path.parent.mkdir(exist_ok=True)
    data = pack_state(Finished(state.parts, state.score, state.wall))
    write_atomically(path, data)
    write_atomically(path.with_suffix(".json"), json.dumps({"sha256": sha256(data)}).encode())


def _take_over(folder: Path, config: dict[str, Any], source: Path) -> dict[str, Any]:
    """Begin behind the finished phases that `source` shares with this run: its rows and its last such state."""
    if not (source / "config.json").exists():
        raise ConfigError(f"--from {source}: no run lies there; a run's directory holds config.json")
    theirs = read_config(source)
    if theirs["seed"] != config["seed"]:
        raise ConfigError(
            f"--from {source}: it is seed {theirs['seed']}, this run is seed {config['seed']}; seeds that share one "
            "pre-training would not be independent. Name a directory that holds the same seeds"
        )
    for what in ("task", "settings"):
        if theirs[what] != config[what] and not (what == "task" and theirs["dataset"] != config["dataset"]):
            a, b = dict(leaves(config[what])), dict(leaves(theirs[what]))
            differ = [f"{k} ({b.get(k)!r} there, {a.get(k)!r} here)" for k in sorted(a | b) if a.get(k) != b.get(k)]
            raise ConfigError(f"--from {source}: its {what} and this run's differ: {'; '.join(differ[:4])}")
    if theirs["dataset"] != config["dataset"]:
        raise ConfigError(
            f"--from {source}: it was trained on {_data_name(theirs)}, this run is for {_data_name(config)}; "
            "start from a run on the same data"
        )
    shared = 0
    for mine, other in zip(config["phases"], theirs["phases"], strict=False):
        if mine != other or mine["online"]:
            break
        shared += 1
    if shared == 0:
        a, b = dict(leaves(config["phases"][0])), dict(leaves(theirs["phases"][0]))
        differ = [
            f"{k} ({b.get(k)!r} there, {a.get(k)!r} here)" for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)
        ]
        reason = (
            "its first phase is online" if config["phases"][0]["online"] else f"it differs in {'; '.join(differ[:4])}"
        )
        raise ConfigError(f"--from {source}: its first phase is not that of this run: {reason}")
    name = config["phases"][shared - 1]["name"]
    path = phase_file(source, shared - 1, name)
    if not path.exists():
        raise ConfigError(f"--from {source}: its phase {name!r} is not finished; first: segue resume {source}")
    read_finished(path)
    rows = _rows_of(source, {p["name"] for p in config["phases"][:shared]})
    (folder / "phases").mkdir(exist_ok=True)
    for index in range(shared):
        file = phase_file(source, index, config["phases"][index]["name"])
        for f in (file, file.with_suffix(".json")):
            write_atomically(folder / "phases" / f.name, f.read_bytes())
    write_atomically(folder / "metrics.jsonl", rows)
    origin = {"method": theirs["method"], "seed": theirs["seed"], "digest": theirs["digest"]}
    return {"phases": shared, **origin, "metrics_bytes": len(rows)}


def _rows_of(source: Path, names: set[str]) -> bytes:
    """The rows of these phases in the metrics of the run `source`, but a last one that a kill has torn."""
    file = source / "metrics.jsonl"
    try:
        lines = file.read_bytes().split(b"\n")[:-1]
        return b"".join(line + b"\n" for line in lines if json.loads(line)["phase"] in names)
    except OSError as error:
        raise CheckpointError(
            f"--from {source}: {file} cannot be read ({error.strerror}); bring it back, or pre-train anew"
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"--from {source}: {file} is damaged ({type(error).__name__}: {error}); bring it back, or pre-train anew"
        ) from error


def _data_name(config: dict[str, Any]) -> str:
    d = config["dataset"]
    return "no dataset" if d is None else f"{d['name']} ({d['hash'][:12]})"


def _begin_behind(folder: Path, config: dict[str, Any], state: RunState) -> RunState:
    """The first state of a run that starts behind another's phases."""
    names, shared = [p["name"] for p in config["phases"]], config["from"]["phases"]
    wanted = {p["source"] for p in config["phases"][shared:]}
    ends = {
        i: read_finished(phase_file(folder, i, names[i]))
        for i in range(shared)
        if i == shared - 1 or names[i] in wanted
    }
    snapshots = {names[i]: end.parts.learner for i, end in ends.items() if names[i] in wanted}
    last = ends[shared - 1]
    return state._replace(phase=shared, parts=last.parts, score=last.score, wall=last.wall, snapshots=snapshots)


# ------------------------------------------------------------------------------------------------------------- running


class Stop:
    """Whether a signal asked to stop: the first asks, a second one ends the process at once."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self) -> bool:
        return self.signal is not None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGTERM, SIGINT and SIGUSR1 while the block runs (in the main thread; elsewhere nothing is taken)."""

        def ask(number: int, frame: Any) -> None:
            if self.signal is not None:
                os._exit(128 + number)
            self.signal = number

        try:
            before = {s: signal.signal(s, ask) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
        except ValueError:  # not the main thread
            yield
            return
        try:
            yield
        finally:
            for s, handler in before.items():
                signal.signal(s, handler)


@dataclass(frozen=True)
class Progress:
    """What a display is told."""

    phase: Phase
    state: RunState
    rows: list[dict[str, Any]]


def task_of(config: dict[str, Any], say: Say = print) -> Task:
    """The run's task; its dataset must be the one that the run began with. Raises `DataError` otherwise."""
    task = from_source(config["task"]["source"], message=say)
    recorded = config["dataset"]
    if recorded is None:
        return task
    on_disk = bool(recorded.get("on_disk"))
    with left_on_disk(on_disk):
        dataset = task.dataset
    if hasattr(dataset, "disk") and not on_disk:
        say("note: begun with the dataset in memory, goes on with it on disk: online not bit for bit the same")
    if dataset.hash != recorded["hash"]:
        raise DataError(
            f"the dataset {recorded['name']} has changed since the run began (hash {task.dataset.hash[:12]}, then "
            f"{recorded['hash'][:12]}); bring the old file back, or start a new run"
        )
    return task


def load_run(
    folder: Path, say: Say = print, confirmed: str | None = None
) -> tuple[dict[str, Any], tuple[Phase, ...], Settings, Task]:
    """Configuration, phases, settings and task of a run's directory; `confirmed` vouches for code that it names."""
    config = read_config(folder)
    trust.check(config, confirmed)
    try:
        phases = tuple(decode(p) for p in config["phases"])
        return config, phases, Settings(**config["settings"]), task_of(config, say)
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / 'config.json'}: damaged ({type(error).__name__}: {error})") from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """This process alone works on the run. Raises `CheckpointError` where another one does."""
    file = folder / ".lock"
    with ExitStack() as stack:
        try:
            fcntl.flock(stack.enter_context(open(file, "w")), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CheckpointError(f"{folder}: another process works on this run; wait for it or stop it") from error
        except OSError as error:
            raise CheckpointError(
                f"{file}: cannot be locked ({error.strerror}); make the run's directory writable, or copy it to where "
                "you may write"
            ) from error
        yield


def execute(
    folder: Path,
    show: Callable[[Progress], None] | None = None,
    say: Say = print,
    stop: Stop | None = None,
    save_every: float = SAVE_EVERY,
    confirmed: str | None = None,
) -> tuple[RunState, bool]:
    """Run or continue the run in `folder` to its end; the last state, and whether the end was reached.

    Raises what the loop and `show` raise; the last finite state is then on disk.
    """
    stop = stop or Stop()
    config, phases, settings, task = load_run(folder, say, confirmed)
    with stop.listening(), locked(folder):
        _announce(config, say)
        state, fixed = start(config["seed"], phases, task.spec, None if config["dataset"] is None else task.dataset)
        checkpoints, metrics = Checkpoints(folder / "checkpoints"), folder / "metrics.jsonl"
        envs: dict[str, Any] = {}
        if checkpoints.exists():
            state, length, notice = checkpoints.load()
            if notice:
                say(f"warning: {notice}")
            _cut(metrics, length)
            fixed = reenter(phases, state, fixed)
            state, envs, rows = _reenter_episode(task, state, checkpoints, phases, say)
            _append(metrics, rows)
        elif any(f.stem != "state-1" for f in (folder / "checkpoints").glob("state-*.safetensors")):
            raise CheckpointError(
                f"{folder / 'checkpoints'}: both manifests are gone, and states are there; bring a manifest back, "
                "or start a new run (--out)"
            )
        elif "from" in config:
            _cut(metrics, config["from"]["metrics_bytes"])
            state = _begin_behind(folder, config, state)
        else:
            _cut(metrics, 0)
        with _copied(open_sinks(folder, config), phases, show or (lambda _: None), say) as shown:
            loop = run(phases, task, state, fixed, settings, stop, envs)
            return _follow(loop, state, folder, config, phases, checkpoints, shown, stop, save_every)


def _announce(config: dict[str, Any], say: Say) -> None:
    """Say what keeps the continued run from being bit for bit the uninterrupted one."""
    if config["threads"] != (cores := len(group.cores())):
        say(f"note: begun with {config['threads']} core(s), goes on with {cores}: not bit for bit the same")
    for name, number in (versions() | {"commit": commit()}).items():
        before = config["commit"] if name == "commit" else config["versions"].get(name, number)
        if before != number:
            say(f"note: begun with {name} {before}, goes on with {number}: perhaps not bit for bit the same")


@contextmanager
def _copied(
    sinks: list[Sink], phases: tuple[Phase, ...], show: Callable[[Progress], None], say: Say
) -> Iterator[Callable[[Progress], None]]:
    """`show` that copies every row to the sinks, at the steps of all phases one after the other."""
    before = dict(zip((p.name for p in phases), np.cumsum([0, *(p.steps for p in phases)]).tolist(), strict=False))

    def both(progress: Progress) -> None:
        for row in progress.rows:
            for sink in list(sinks):
                try:
                    sink.write(dict(scalars(row)), before[row["phase"]] + row["step"])
                except Exception as error:  # another program's trouble does not end a training
                    say(f"warning: {type(sink).__name__} failed and is left out from here on: {error}")
                    sinks.remove(sink)
        show(progress)

    try:
        yield both
    finally:
        for sink in sinks:
            sink.close()


def _follow(
    loop: Any,
    last: RunState,
    folder: Path,
    config: dict[str, Any],
    phases: tuple[Phase, ...],
    checkpoints: Checkpoints,
    show: Callable[[Progress], None],
    stop: Stop,
    save_every: float,
) -> tuple[RunState, bool]:
    """Write down what the loop yields, save now and then, stop when asked to, keep the last finite state."""
    metrics = folder / "metrics.jsonl"
    saved, cost, unsaved, at = time.monotonic(), 0.0, False, ""
    kept, kept_at, keeping = None, 0.0, 0.0

    def save(state: RunState, length: int) -> None:
        nonlocal saved, cost, unsaved, at, kept
        clock = time.monotonic()
        check_arrays(state, phases)  # what is on disk is always finite
        with _writing(metrics):
            os.fsync(log.fileno())
            checkpoints.save(state, length)
        at = f" (phase {_name(state, phases)!r}, step {state.step})"
        saved, cost, unsaved, kept = time.monotonic(), time.monotonic() - clock, False, None

    def keep(state: RunState) -> None:
        """Check and copy the state where that has little share of the time: a later one may not be finite."""
        nonlocal kept, kept_at, keeping
        clock = time.monotonic()
        if clock - kept_at >= keeping / KEEP_SHARE:
            check_arrays(state, phases)
            kept = (_copy(state), log.tell())
            kept_at, keeping = time.monotonic(), time.monotonic() - clock

    def rescue() -> None:
        """Save the last state, or the last that was kept if that one is not finite."""
        if unsaved:
            try:
                save(last, log.tell())
            except Diverged:
                if kept is not None:
                    state, length = kept
                    ring = last.ring and Ring(last.ring.rows, state.ring.mc_return, state.ring.written)
                    save(state._replace(ring=ring), length)

    with _writing(metrics):
        log = metrics.open("ab")
    try:
        with closing(loop):
            for state, rows in loop:
                check_rows(rows)
                with _writing(metrics):
                    log.write(b"".join(json.dumps(row).encode() + b"\n" for row in rows if row["kind"] != "progress"))
                    log.flush()
                moved, left = (state.phase, state.entered) != (last.phase, last.entered), state.phase > last.phase
                last, unsaved = state, True
                if left:
                    check_arrays(state, phases)
                    with _writing(metrics):
                        _keep_phase(folder, config, state.phase - 1, state)
                if moved or stop() or time.monotonic() - saved > max(save_every, cost / SAVE_SHARE):
                    save(state, log.tell())
                else:
                    keep(state)
                try:
                    show(Progress(phases[min(state.phase, len(phases) - 1)], state, rows))
                except Exception:  # the caller's own code
                    rescue()
                    raise
            if unsaved:
                save(last, log.tell())
    except Diverged as error:
        rescue()
        raise Diverged(f"{error}. The last checkpoint{at} is finite; the steps after it are lost") from error
    except EnvironmentFault:
        rescue()
        raise
    finally:
        with suppress(OSError):  # a full disk shows again; it has been said
            log.close()
    return last, last.phase == len(phases)


@contextmanager
def _writing(metrics: Path) -> Iterator[None]:
    """Raises `CheckpointError` where the disk refuses what the block writes."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or metrics}: cannot be written ({error.strerror}); the last checkpoint is whole. "
            f"Make room or rights, then: segue resume {metrics.parent}"
        ) from error


def _copy(state: RunState) -> RunState:
    """`state` with copies of all arrays that the loop overwrites, but the ring's rows: more are added to those."""
    ring = state.ring and (state.ring.mc_return, state.ring.written)
    parts, sums, act_sums, ring = jax.tree.map(
        lambda x: jnp.copy(x) if isinstance(x, jax.Array) else x, (state.parts, state.sums, state.act_sums, ring)
    )
    ring = ring and Ring(state.ring.rows, *ring)
    return state._replace(parts=parts, sums=sums, act_sums=act_sums, ring=ring)


def _name(state: RunState, phases: tuple[Phase, ...]) -> str:
    return phases[min(state.phase, len(phases) - 1)].name


def check_rows(rows: list[dict[str, Any]]) -> None:
    """Raises `Diverged` naming the first metric of `rows` that is not finite."""
    for row in rows:
        for name, number in row.get("metrics", {}).items():
            if not math.isfinite(number):
                raise _diverged(row["phase"], row["step"], f"the metric {name!r} is {number}")


def check_arrays(state: RunState, phases: tuple[Phase, ...]) -> None:
    """Raises `Diverged` naming the first array of the learner that is not finite."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.learner):
        if not np.isfinite(np.asarray(leaf)).all():
            what = f"the array {jax.tree_util.keystr(path).lstrip('.')} of the learner is not finite"
            raise _diverged(_name(state, phases), state.step, what)


def _diverged(phase: str, step: int, what: str) -> Diverged:
    return Diverged(
        f"phase {phase!r}, step {step}: {what}. Look at the data (segue data info), the reward's scale and the "
        "learning rate (segue show names the paths for --set), and start again with another --out"
    )


def _cut(metrics: Path, length: int) -> None:
    """Cut the metrics back to those of the checkpoint."""
    with _writing(metrics):
        metrics.touch()
        if metrics.stat().st_size < length:
            raise CheckpointError(f"{metrics}: shorter than its checkpoint knew it; bring the file back")
        with open(metrics, "r+b") as f:
            f.truncate(length)


def _append(metrics: Path, rows: list[dict[str, Any]]) -> None:
    with _writing(metrics), open(metrics, "ab") as f:
        f.write(b"".join(json.dumps(row).encode() + b"\n" for row in rows))


def _reenter_episode(
    task: Task, state: RunState, checkpoints: Checkpoints, phases: tuple[Phase, ...], say: Say
) -> tuple[RunState, dict[str, Any], list[dict[str, Any]]]:
    """Lead a fresh environment back into the open episode; where that cannot be, close it as by a time limit.

    Returns the state, the environments to go on with, and the row of an episode that had to be closed.
    """
    if state.live is None or state.phase >= len(phases):
        return state, {}, []
    if task.replayable:
        env = task.make_env()
        if _replay(env, task, state):
            return state, {"training": env}, []
        env.close()
    length = state.live.length
    if length == 0:
        return state._replace(live=None), {}, []
    say(
        f"note: the episode that was open ({length} steps) cannot be entered again in this environment; "
        "it is closed as by a time limit and a new one begins"
    )
    phase, ring, live = phases[state.phase], state.ring, state.live
    last = (state.env_steps - 1) % ring.capacity
    timeout = ring.rows.shape[1] - 2  # obs | action | next_obs | reward, terminal, timeout, step
    ring = Ring(ring.rows.at[last, timeout].set(1.0), ring.mc_return, ring.written)
    checkpoints.rewrite_from(state.env_steps - 1)
    score = float(task.score(live.return_))
    row = {"kind": "episode", "phase": phase.name, "step": state.step, "episode": len(state.episodes.start)}
    row |= {"return": live.return_, "length": length, "score": score, "cut": True, "wall": round(state.wall, 3)}
    start = state.env_steps - length
    state = state._replace(
        ring=close_episode(ring, length, phase.reward, phase.learner.discount),
        parts=state.parts._replace(replay=phase.replay.close(state.parts.replay, start, length)),
        episodes=state.episodes.add(start, length, live.return_, score),
        live=None,
    )
    return state, {}, [row]


def _replay(env: Any, task: Task, state: RunState) -> bool:
    """Whether reset and actions led to the same observations, one by one, as the ring holds."""
    ring, length = state.ring, state.live.length
    if length > ring.capacity:
        return False
    layout = Layout(task.obs_dim, task.act_dim)
    slots = np.arange(state.env_steps - length, state.env_steps) % ring.capacity
    c = layout.columns(np.asarray(ring.rows)[slots])  # type: ignore[arg-type]
    obs = env.reset(seed_of(state.seed, TRAINING, len(state.episodes.start)))
    for i in range(length):
        if not np.array_equal(obs, c["obs"][i]):
            return False
        obs = env.step(c["action"][i]).obs
    return np.array_equal(obs, state.live.obs)
