"""`segue data`: look at datasets, check them, bring them from one format to another. What is heavy is imported late."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, Positional, UseAppendAction, arg, subcommand

from segue.errors import ConfigError, DataError, nearest
from segue.files import size_text

if TYPE_CHECKING:
    from segue.tasks import Dataset, Reading, Task

PATIENCE = 2.0  # seconds of silence
EVERY = 5.0  # seconds between lines where they cannot be redrawn
BINS, WIDTH = 10, 40  # of a histogram in the terminal
STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}


# ----------------------------------------------------------------------------------------------------------- the flags


@dataclass(frozen=True)
class FileFlags:
    """How a dataset file is to be understood. Most files need none of these: `docs/formats.md` says which one does."""

    kind: str | None = None
    """the format, where it cannot be told from the name: npz, d4rl, minari, ogbench, table"""
    columns: Annotated[tuple[str, ...], arg(metavar="OURS=THEIRS")] = ()
    """of a table, which of its columns make up ours (obs, action, reward, next_obs, terminal, timeout), quoted
    for the shell: --columns 'obs=sensor_*' 'action=u_*' reward=r"""
    episode: str | None = None
    """the column of a table that numbers the episodes"""
    action_low: Annotated[tuple[float, ...], arg(metavar="LOW")] = ()
    """the least action that the recorded machine takes, in the file's units: one number, or one per entry; actions are
    rescaled from there and --action-high to [-1, 1]"""
    action_high: Annotated[tuple[float, ...], arg(metavar="HIGH")] = ()
    """the largest action, with --action-low"""
    clip_actions: bool = False
    """clip actions outside their range (people's demonstrations) instead of refusing them"""
    rewards: str | None = None
    """what the reward of a row is: of its transition, of the observation before the step, or a count of subtasks done:
    transition, observation, count"""
    terminals: str | None = None
    """what a terminal flag is: end (of the task), or cut (of the recording)"""
    terminal_reward: float | None = None
    """a reward from which on the task has ended"""
    relabel: str | None = None
    """the single task whose rewards a file without rewards (OGBench) gets"""
    memory_limit: Annotated[str | None, arg(metavar="SIZE")] = None
    """memory that a dataset may take, such as 8GiB (default: $SEGUE_MEMORY_LIMIT, else half of the machine's); a
    folder NAME.segue that is larger stays on disk"""
    filter: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="FILTER")] = ()
    """leave rows out: truncate=20, near=x,y,radius, or a named one; may be repeated, in order"""

    @property
    def changes(self) -> dict[str, Any]:
        """The fields of `segue.tasks.Reading` that were given. Raises ``ConfigError``."""
        columns = {}
        for text in self.columns:
            ours, equals, theirs = text.partition("=")
            if not (equals and ours and theirs):
                raise ConfigError(f"--columns takes OURS=THEIRS, such as 'obs=sensor_*', not {text!r}")
            columns[ours] = theirs if ours not in columns else f"{columns[ours]},{theirs}"
        given = {
            "kind": self.kind,
            "columns": columns or None,
            "episode": self.episode,
            "action_low": self.action_low or None,
            "action_high": self.action_high or None,
            "clip_actions": self.clip_actions or None,
            "rewards": self.rewards,
            "terminals": self.terminals,
            "terminal_reward": self.terminal_reward,
            "task": self.relabel,
        }
        return {name: value for name, value in given.items() if value is not None}

    @property
    def words(self) -> list[str]:
        """The flags that were given, as the command line has them."""
        words = []
        for known in fields(FileFlags):
            flag, value = "--" + known.name.replace("_", "-"), getattr(self, known.name)
            if known.name == "filter":  # one word each
                words += [word for one in value for word in (flag, one)]
            elif value != known.default:
                words += [flag] if value is True else [flag, *map(str, value if isinstance(value, tuple) else (value,))]
        return words

    def task(self, name: str | None, env: str | None, file: str | None) -> Task:
        """The named task, or the one of `env` and `file`, its data read and filtered as the flags say.

        A named task with a file learns from the file. Raises ``ConfigError`` and ``DataError``.
        """
        from segue import tasks

        limit_memory(self.memory_limit)
        changes = self.changes
        if changes and file is None:
            raise ConfigError(f"{_flag(changes)} says how a file is read; give one, or leave it out")
        if name is None:
            task = tasks.custom_task(env, file, reading=tasks.Reading.of(changes))
        else:
            progress = counter(f"making the data of {name}")
            task = tasks.get(name, progress, note, dataset=file)
            if changes:
                reading = tasks.Reading.of({**task.reading.changes(), **changes})
                task = tasks.get(name, progress, note, dataset=file, reading=reading)
        return tasks.filtered(task, self.filter)


@dataclass
class Chosen:
    """A named task or a file, as `info`, `check` and `export` take them."""

    name: Annotated[Positional[str | None], arg(metavar="NAME-OR-FILE")] = None
    """a task of `segue data list`, a file (.npz, .hdf5, .csv, .parquet), a folder of Minari, or minari:ID"""
    task: str | None = None
    """for a file: the named task that it is data of, whose environment and peculiarities hold"""
    env: str | None = None
    """for a file: the environment (Gymnasium id or module:Class) whose action bounds and time limit it has"""
    file: OmitArgPrefixes[FileFlags] = field(default_factory=FileFlags)

    def chosen(self, verb: str) -> tuple[str, str | None]:
        """The name, and the file if it is one. Raises ``ConfigError`` for flags that do not go with it."""
        from segue import tasks

        if self.name is None:
            raise ConfigError(f"segue data {verb} takes a name or a file; see `segue data list`")
        file = self.name if is_file(self.name) else None
        if file is None and self.name not in (known := tasks.names()):
            raise ConfigError(
                f"{self.name!r} is neither a named task nor a file that is there{nearest(self.name, known)}"
            )
        if file is None and self.env is not None:
            raise ConfigError(f"segue data {verb}: --env goes with `segue data {verb} FILE`; a named task has its own")
        if file is None and self.task is not None:
            raise ConfigError(f"segue data {verb}: --task goes with a file; {self.name!r} is a name of its own")
        if self.env is not None and self.task is not None:
            raise ConfigError(f"segue data {verb}: a file has the bounds of --env or of --task; give one of them")
        return self.name, file

    def resolved(self, verb: str) -> Task:
        """The task whose data are meant."""
        name, file = self.chosen(verb)
        with waiting(f"reading {name}"):
            return self.file.task(name if file is None else self.task, self.env, file)

    def findings(self, verb: str) -> list[Any]:
        """What is the matter with it; what its reader refuses for reasons of its own is an error too."""
        from segue import tasks
        from segue.tasks.dataset import COLUMNS
        from segue.tasks.formats import read_columns
        from segue.tasks.lint import Finding, lint

        name, file = self.chosen(verb)
        limit_memory(self.file.memory_limit)
        if file is None or self.file.filter:
            dataset = _loaded(self.resolved(verb))
            columns = {column: getattr(dataset, column) for column in COLUMNS}
            return lint(columns, own=True, progress=counter(f"checking {name}"))
        reading, bounds, limit = self._surroundings()
        with waiting(f"reading {name}"):
            raw = read_columns(file, reading)
        given = None if raw.own else reading.bounds(*bounds or ())
        low, high = given or raw.bounds or (None, None)
        findings = lint(
            raw.columns,
            own=raw.own,
            action_low=low,
            action_high=high,
            clip_actions=reading.clip_actions,
            terminals=reading.terminals,
            max_episode_steps=limit,
            ignored=raw.info.get("ignored_columns", ()),
            progress=counter(f"checking {name}"),
        )
        del raw
        if not any(finding.severity == "error" for finding in findings):
            try:
                dataset = _loaded(self.resolved(verb))
                if isinstance(dataset, tasks.formats.disk.DiskDataset):
                    with waiting(f"comparing the hash of {name}"):
                        dataset.verify()
            except DataError as error:
                findings.insert(0, Finding("error", "refused", "", 0, (), str(error), ""))
        return findings

    def _task(self) -> Task:
        """The task of --task or --env, without the file."""
        from segue import tasks

        return tasks.custom_task(self.env, None) if self.task is None else tasks.get(self.task, message=note)

    def _surroundings(self) -> tuple[Reading, tuple[Any, Any] | None, int | None]:
        """How the file is read, the action bounds and the time limit that hold for it."""
        from segue import tasks

        changes = self.file.changes
        if self.task is None and self.env is None:
            return tasks.Reading.of(changes), None, None
        task = self._task()
        if self.task is not None:
            reading = tasks.Reading.of({**task.reading.changes(), **changes})
            reading.bounds(-1.0, 1.0)  # the box of every named task
            return reading, None, task.horizon
        door = task.make_env()
        try:
            return tasks.Reading.of(changes), (door.action_low, door.action_high), task.horizon
        finally:
            door.close()


# -------------------------------------------------------------------------------------------------------- the commands


@dataclass
class DataList:
    """The tasks that have data, and what the cache holds, with sizes.

    Next: `segue data info NAME` shows what a dataset holds, `segue data make NAME` makes one now.
    """

    def __call__(self) -> int:
        from rich.console import Console

        from segue import tasks
        from segue.files import cache_root

        console = Console()
        with_data, without = [], []
        for name, line in tasks.catalogue().items():
            (with_data if tasks.get(name).load_dataset is not None else without).append((name, line))
        for title, rows in (
            ("tasks with data, made when they are first needed", with_data),
            ("tasks without: give --dataset FILE", without),
        ):
            if rows:
                console.print(f"{title}:", style="bold")
                _table(console, [(f"[bold]{name}[/bold]", line) for name, line in rows])
        root = cache_root() / "datasets"
        kept = sorted(path for path in root.rglob("*.npz") if not path.name.startswith("."))
        if kept:
            sizes = [path.stat().st_size for path in kept]
            console.print(f"in the cache, {root} ({size_text(sum(sizes))}):", style="bold", soft_wrap=True)
            rows = [
                (path.relative_to(root).with_suffix("").as_posix(), _cached_rows(path), size_text(size))
                for path, size in zip(kept, sizes, strict=True)
            ]
            _table(console, rows, right=(1, 2))
        else:
            console.print(f"nothing is in the cache yet ({root})", soft_wrap=True)
        console.print("next: [bold]segue data info NAME[/bold], or [bold]segue data check FILE[/bold] of your own")
        return 0


@dataclass
class DataMake:
    """Make the dataset of a named task now, and keep it in the cache. Runs make what they need by themselves."""

    name: Annotated[Positional[str | None], arg(metavar="NAME")] = None
    """a task of `segue data list`"""
    force: bool = False
    """make it again even where it is cached"""

    def __call__(self) -> int:
        from rich.console import Console

        from segue import tasks

        if self.name is None:
            raise ConfigError("segue data make takes a name; see `segue data list`")
        if self.name not in tasks.names() and is_file(self.name):
            raise ConfigError(f"segue data make takes a named task; look at a file with: segue data info {self.name}")
        task = tasks.get(self.name, counter(f"making {self.name}"), note, force=self.force)
        console = Console()
        _manifest(console, tasks.manifest(task.dataset, task.score_reference))
        _next(console, f"segue data info {self.name} --picture {self.name}.png")
        return 0


@dataclass
class DataInfo(Chosen):
    """What a dataset holds: counts, episodes, ranges, everything that was done to its rows, histograms of its returns
    and lengths; and a picture of it, if you name a file for that.

    A dataset of a named task is made first if it is not cached. Of a file of yours say with --env which environment it
    is from, so that its actions are in that one's units.
    """

    picture: Path | None = None
    """where a picture of coverage and histograms goes (.png, .pdf or .svg)"""
    json: bool = False
    """print the manifest as JSON, and nothing else"""

    def __call__(self) -> int:
        from rich.console import Console

        from segue import tasks

        task = self.resolved("info")
        dataset = _loaded(task)
        told = tasks.manifest(dataset, task.score_reference)
        if self.picture is not None:
            from segue.tasks import pictures

            with waiting(f"drawing {self.picture}"):
                pictures.save(pictures.overview(dataset, pictures.ground(task.name)), self.picture)
        if self.json:
            print(json.dumps(told, indent=1))
            return 0
        console = Console()
        _manifest(console, told)
        for line in bars(dataset.returns, "return", console.encoding):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        for line in bars(dataset.lengths, "length", console.encoding):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        if self.picture is not None:
            console.print(f"drawn: {self.picture}", soft_wrap=True, markup=False)
        return 0


@dataclass
class DataCheck(Chosen):
    """Look for what is wrong with a dataset: cells that are no number, actions outside their range or in other units,
    repeated rows, terminal flags at time limits, jumps inside episodes, rewards of an odd scale, and more.

    An error is what segue refuses; a warning is what it takes, and what is usually a fault of the recording; a note
    is good to know. Rows are counted from 0. The exit code is 1 if there is an error, else 0.
    """

    def __call__(self) -> int:
        from rich.console import Console

        name, file = self.chosen("check")
        console = Console()
        findings = self.findings("check")
        show_findings(console, findings, name)
        if any(finding.severity == "error" for finding in findings):
            return 1
        given = f"--task {self.task}" if self.task else f"--env {self.env}" if self.env else ""
        words = [*given.split(), *self.file.words, "--out", f"{_stem(name)}-segue.npz"]
        way_on = shlex.join(["segue", "data", "import", name, *words])
        if file is None:
            way_on = f"segue data info {name}"
        elif Path(name).suffix == ".segue":
            way_on = shlex.join(
                ["segue", "run", "METHOD", self.task or given or "TASK", "--dataset", name, *self.file.words]
            )
        _next(console, way_on)
        return 0


@dataclass
class DataImport(Chosen):
    """Read a file of any format that segue knows, check it, and write it in segue's own: checked once, fast to read,
    the actions in [-1, 1], with a record of everything that was done to it.

    Data larger than the memory go into a folder NAME.segue, from which runs train without holding them; a D4RL HDF5
    file, or another such folder, is brought there piece by piece, for a task and through filters too.

    A table needs to know which columns are what:
    segue data import logs.csv --out logs.npz --columns 'obs=sensor_*' 'action=u_*' reward=r --episode run

    Findings are shown as `segue data check` does; with an error nothing is written, and the exit code is 1.
    """

    out: Path | None = None
    """the file to write, ending in .npz, or a folder ending in .segue"""
    licence: str | None = None
    """the licence of the data, where the file does not say it: its SPDX name, such as CC-BY-4.0, or a text"""
    force: bool = False
    """replace that file if it exists"""

    def __call__(self) -> int:
        from rich.console import Console

        from segue import tasks

        name, file = self.chosen("import")
        if file is None:
            raise ConfigError(f"segue data import takes a file, and {name!r} is a named task: segue data make {name}")
        out = _free(self.out, "import", name, self.force, ".npz")
        if out.suffix.lower() not in (".npz", ".segue"):
            raise ConfigError(f"--out {out}: import writes .npz or .segue; for other formats: segue data export {name}")
        if self.licence is not None and not self.licence.strip():
            raise ConfigError("--licence is empty; give the licence's SPDX name, such as CC-BY-4.0, or leave it out")
        console = Console()
        limit_memory(self.file.memory_limit)
        if out.suffix == ".segue" and not tasks.formats.fits(tasks.formats.held(file, self._surroundings()[0])):
            return self._in_pieces(console, name, file, out)
        findings = self.findings("import")
        show_findings(console, findings, name)
        if any(finding.severity == "error" for finding in findings):
            console.print("nothing was written", style="bold")
            return 1
        dataset = self._licensed(_loaded(self.resolved("import")))
        with waiting(f"writing {out}"), _set_aside(out):
            tasks.write(dataset, out)
        _written(console, dataset, out)
        self._run_next(console, out)
        return 0

    def _in_pieces(self, console: Any, name: str, file: str, out: Path) -> int:
        """The file into a folder of ours, a piece held at a time."""
        from segue import tasks

        filters = [tasks.filters.parse(word) for word in self.file.filter]
        reading, bounds, limit = self._surroundings()
        low, high = bounds or (None, None)
        task = None if self.task is None and self.env is None else self._task()
        pieces = tasks.formats.read_pieces(
            file,
            action_low=low,
            action_high=high,
            max_episode_steps=limit,
            reading=reading,
            goes_on=None if task is None else task.goes_on,
            progress=counter(f"importing {name}"),
        )
        relabel = None if task is None else task.relabel
        if out.resolve() == tasks.located(file).resolve():
            raise ConfigError(f"--out {out}: it is read in pieces while the new one is written; choose another name")

        def fitting() -> Iterator[Dataset]:
            for number, piece in enumerate(pieces):
                if task is not None:
                    task.fitting(piece)
                part = piece if relabel is None else relabel(piece)
                yield part if number else self._licensed(part)  # the first one's info is that of all

        with _set_aside(out):
            tasks.formats.disk.write_pieces(tasks.filters.through(tasks.filters.caught(fitting()), filters), out)
        _written(console, tasks.read(out), out)
        _next(console, f"segue data check {shlex.quote(str(out))}", "read in pieces; look at all of it with")
        self._run_next(console, out)
        return 0

    def _licensed(self, dataset: Dataset) -> Dataset:
        """The dataset under the licence that was given, else under its own."""
        from segue.tasks.dataset import licensed

        if self.licence is None:
            return dataset
        before = dataset.info.get("licence")
        if before not in (None, self.licence):
            note(f"the licence was {before!r} and is now {self.licence!r}")
        return licensed(dataset, self.licence)

    def _run_next(self, console: Any, out: Path) -> None:
        task = self.task or (f"--env {self.env}" if self.env else "TASK")
        limit = f" --memory-limit {self.file.memory_limit}" if self.file.memory_limit else ""
        _next(console, f"segue run METHOD {task} --dataset {shlex.quote(str(out))}{limit}")


@dataclass
class DataExport(Chosen):
    """Write the dataset of a task or a file in another format, with filters if you like:

    segue data export NAME --out data.hdf5 --filter truncate=20

    The rows are written as segue holds them, actions in [-1, 1]; what was done to them goes along where the
    format can hold it, and nothing is done twice when segue reads the file again.
    """

    out: Path | None = None
    """the file to write; its ending says the format: .npz, .hdf5, .csv, .parquet, or a folder NAME-v0 for Minari"""
    format: str | None = None
    """the format, where the ending does not say it: npz, d4rl, minari, table"""
    force: bool = False
    """replace the file if it exists"""

    def __call__(self) -> int:
        from rich.console import Console

        from segue import tasks

        name, _ = self.chosen("export")
        out = _free(self.out, "export", name, self.force, ".hdf5")
        dataset = _loaded(self.resolved("export"))
        with waiting(f"writing {out}"), _set_aside(out):
            tasks.write(dataset, out, self.format)
        console = Console()
        _written(console, dataset, out)
        _next(console, f"segue data info {shlex.quote(str(out))}")
        return 0


@dataclass
class Data:
    """Datasets: list them, make one, look at one, check one, bring one from one format to another.

    Each has more to say: segue data check --help
    """

    what: OmitSubcommandPrefixes[
        Annotated[DataList, subcommand("list")]
        | Annotated[DataMake, subcommand("make")]
        | Annotated[DataInfo, subcommand("info")]
        | Annotated[DataCheck, subcommand("check")]
        | Annotated[DataImport, subcommand("import")]
        | Annotated[DataExport, subcommand("export")]
    ]

    def __call__(self) -> int:
        return self.what()


# ---------------------------------------------------------------------------------------------------- what they share


def is_file(name: str) -> bool:
    """Whether NAME-OR-FILE is a file: a named task goes before a file of its name (``./hopper`` is the file)."""
    from segue import tasks

    return name not in tasks.names() and bool(Path(name).suffix or ":" in name or Path(name).expanduser().exists())


def _free(out: Path | None, verb: str, name: str, force: bool, suffix: str) -> Path:
    """Where to write. Raises ``ConfigError`` where nothing is named, or something lies there."""
    if out is None:
        raise ConfigError(
            f"segue data {verb} takes --out FILE: segue data {verb} {name} --out {_stem(name)}-new{suffix}"
        )
    out = out.expanduser()
    if out.exists() and not force:
        raise ConfigError(f"--out {out}: exists; choose another name, or replace it with --force")
    return out


def limit_memory(size: str | None) -> None:
    """For this process and those that it starts. Raises ``ConfigError``."""
    if size is not None:
        from segue.tasks.formats.memory import bytes_of

        os.environ["SEGUE_MEMORY_LIMIT"] = str(bytes_of(size))


@contextmanager
def _set_aside(out: Path) -> Iterator[None]:
    """A folder that is to be replaced goes aside while the new one is written, and comes back if that fails.

    Raises ``ConfigError`` for a folder that holds anything but a dataset, ``DataError`` where the disk refuses.
    """
    if not out.is_dir():
        yield
        return
    from segue.tasks.formats.disk import FILES

    held = {path.relative_to(out).as_posix() for path in out.rglob("*")}
    if held not in ({"manifest.json", *FILES}, {"data", "data/main_data.hdf5", "data/metadata.json"}):
        raise ConfigError(f"--out {out}: a folder that holds other files than a dataset's; choose another name")
    aside = out.with_name(f".{out.name}.{secrets.token_hex(8)}.tmp")
    try:
        out.rename(aside)
        try:
            yield
        except BaseException:
            if not out.exists():
                aside.rename(out)
            raise
        shutil.rmtree(aside)
    except OSError as error:
        raise DataError(
            f"{out}: cannot be replaced ({error.strerror or error}); the old one lies in {aside}"
        ) from error


def _stem(name: str) -> str:
    return Path(name.replace(":", "-")).stem


def _flag(changes: dict[str, Any]) -> str:
    name = next(iter(changes))
    return "--relabel" if name == "task" else f"--{name.replace('_', '-')}"


def _loaded(task: Task) -> Dataset:
    """The task's data; their making has its own progress."""
    with waiting(f"reading the data of {task.name}") if task.source.get("dataset") else nullcontext():
        return task.dataset


def _written(console: Any, dataset: Dataset, out: Path) -> None:
    size = sum(p.stat().st_size for p in out.rglob("*") if p.is_file()) if out.is_dir() else out.stat().st_size
    console.print(
        f"written: {out}, {dataset.size:,} rows in {len(dataset.lengths):,} episodes, {size_text(size)}",
        soft_wrap=True,
        markup=False,
    )


def show_findings(console: Any, findings: list[Any], name: str) -> None:
    """A table of findings, and their numbers."""
    from rich.markup import escape
    from rich.table import Table

    if findings:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 1, 0))
        table.add_column("what", no_wrap=True)
        table.add_column("column")
        table.add_column("rows", max_width=18)
        table.add_column("what is there, and what to do")
        for finding in findings:
            rows = ", ".join(map(str, finding.rows)) + (", ..." if finding.count > len(finding.rows) > 0 else "")
            table.add_row(
                f"[{STYLES[finding.severity]}]{finding.severity}[/]\n{finding.rule}",
                escape(finding.column),
                rows,
                escape(";\n".join(filter(None, (finding.text, finding.way_out)))),
            )
        console.print(table)
    counts = [sum(finding.severity == severity for finding in findings) for severity in STYLES]
    words = [f"{n} {word}{'' if n == 1 else 's'}" for n, word in zip(counts, STYLES, strict=True)]
    console.print(
        f"{name}: {', '.join(words)}" if findings else f"{name}: nothing found",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )


def _next(console: Any, command: str, word: str = "next") -> None:
    """The command that comes next."""
    from rich.markup import escape

    console.print(f"{word}: [bold]{escape(command)}[/bold]", soft_wrap=True, highlight=False)


def _manifest(console: Any, told: dict[str, Any]) -> None:
    """The manifest, a line a field."""

    def line(key: str, text: str) -> None:
        console.print(f"{key:14}{text}", highlight=False, markup=False, soft_wrap=True)

    spread = lambda x: (
        f"{_number(x['min'])} to {_number(x['max'])}, mean {_number(x['mean'])}, median {_number(x['median'])}"
    )
    for key in ("name", "source", "format"):
        if told[key] is not None and (key != "source" or told[key] != told["name"]):
            line(key, str(told[key]))
    line("licence", told["licence"] or "not recorded; --licence names it at import")
    for key in ("rows", "episodes", "terminals", "timeouts"):
        line(key, f"{told[key]:,}")
    for key in ("return", "length"):
        line(key, spread(told[key]))
    reference = told["reference"]
    if reference is not None and reference["score"] is not None:
        scale = f": 0 = {_number(reference['minimum'])}, 100 = {_number(reference['maximum'])}"
        scale = (
            f": episodes with a step that pays {_number(reference['solved'])}"
            if reference["solved"] is not None
            else scale
        )
        line("score", f"{reference['score']:.1f} ({reference['name']}{scale})")
    line("reward", f"{_number(told['reward']['min'])} to {_number(told['reward']['max'])}")
    for key in ("observation", "action"):
        space = told[key]
        line(key, f"{space['dim']} entries, {_number(min(space['low']))} to {_number(max(space['high']))}")
    for number, done in enumerate(told["transforms"], 1):
        words = ", ".join(f"{k} {_plain(v)}" for k, v in done.items() if k != "kind")
        line(f"transform {number}", f"{done.get('kind', '')} {words}".strip())
    line("hash", told["hash"])
    line("versions", _plain(told["versions"]))
    for key, value in told["info"].items():
        if key == "record" and isinstance(value, dict) and isinstance(value.get("levels"), dict):
            for level, measured in value["levels"].items():
                line("level", f"{level}: {_plain(measured)}")
        elif value is not None and key not in told:
            line(key, _plain(value))


def bars(values: Any, what: str, encoding: str = "utf-8") -> Iterator[str]:
    """A histogram of the episodes' returns or lengths [E] as lines of text; whole numbers in bins of whole width."""
    import numpy as np

    values = np.asarray(values)
    yield f"\n{what} of {len(values):,} episode{'' if len(values) == 1 else 's'}"
    low, high = values.min(), values.max()
    if low == high:
        yield f"  all {_number(low)}"
        return
    if (values == np.rint(values)).all():
        width = -(-int(high - low + 1) // BINS)
        edges = np.arange(low, high + width + 1, width)
        labels = [_number(a) if width == 1 else f"{_number(a)} to {_number(a + width - 1)}" for a in edges[:-1]]
    else:
        edges = np.linspace(low, high, BINS + 1)
        labels = [f"{_number(a)} to {_number(b)}" for a, b in pairwise(edges)]
    counts, _ = np.histogram(values, edges)
    wide = max(map(len, labels))
    block = "█" if encoding.lower().startswith("utf") else "#"
    for label, count in zip(labels, counts.tolist(), strict=True):
        bar = block * max(round(WIDTH * count / counts.max()), count > 0)
        yield f"  {label:>{wide}}  {f'{bar} {count:,}' if count else ''}".rstrip()


def _table(console: Any, rows: list[tuple[str, ...]], right: tuple[int, ...] = ()) -> None:
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for i in range(len(rows[0])):
        table.add_column(no_wrap=i == 0, justify="right" if i in right else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _cached_rows(path: Path) -> str:
    """Rows as the manifest beside a cached set says, or nothing."""
    try:
        rows = json.loads(path.with_suffix(".json").read_text())["rows"]
    except (OSError, ValueError, KeyError, TypeError):
        return "no manifest"
    return f"{rows:,} rows" if isinstance(rows, int) else ""


def _number(x: float) -> str:
    return f"{x:,.4g}" if abs(x) < 1e5 else f"{x:,.0f}"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
    if isinstance(value, list):
        return f"[{', '.join(map(_plain, value))}]"
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def note(text: str) -> None:
    """A line on stderr."""
    print(f"note: {text}", file=sys.stderr)


def counter(label: str) -> Callable[[int, int], None]:
    """A callback that draws done / total with rate and time left, once it takes more than `PATIENCE` seconds."""
    from segue.runs.progress import clock

    began, live = time.monotonic(), sys.stderr.isatty()
    due, told = began + PATIENCE, False

    def progress(done: int, total: int) -> None:
        nonlocal due, told
        now = time.monotonic()
        if now < due and (done < total or not told):
            return
        due, told = now + (0.2 if live else EVERY), True
        rate = done / max(now - began, 1e-9)
        line = f"{label}: {done:,}/{total:,}  {rate:,.0f}/s  {clock((total - done) / max(rate, 1e-9))} left"
        begin, end = ("\r\x1b[2K", "\n" if done >= total else "") if live else ("", "\n")
        print(f"{begin}{line}", end=end, file=sys.stderr, flush=True)

    return progress


@contextmanager
def waiting(label: str) -> Iterator[None]:
    """Says on stderr what is going on and for how long, once it takes more than `PATIENCE` seconds."""
    began, over, live = time.monotonic(), threading.Event(), sys.stderr.isatty()

    def tell() -> None:
        pause = PATIENCE
        while not over.wait(pause):
            seconds = time.monotonic() - began
            print(
                f"\r\x1b[2K{label}: {seconds:.0f} s" if live else f"{label}: {seconds:.0f} s",
                file=sys.stderr,
                end="" if live else "\n",
                flush=True,
            )
            pause = 0.5 if live else EVERY
        if live and pause != PATIENCE:
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
