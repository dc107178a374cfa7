"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction, arg

from segue.data_cli import Data, FileFlags, limit_memory, note
from segue.errors import ConfigError, SegueError


@dataclass
class List:
    """The methods, each in one line, and the tasks that have a name."""

    def __call__(self) -> int:
        from rich.console import Console
        from rich.table import Table

        from segue import tasks
        from segue.recipes import RECIPES

        console = Console()
        for title, rows in (
            ("methods", {name: (f.__doc__ or "").strip().splitlines()[0] for name, f in RECIPES.items()}),
            ("tasks", tasks.catalogue()),
        ):
            table = Table(title=title, title_justify="left", box=None, show_header=False, padding=(0, 2, 0, 0))
            table.add_column(style="bold", no_wrap=True)
            table.add_column()
            for name, text in rows.items():
                table.add_row(name, text)
            console.print(table)
        console.print("next: [bold]segue show METHOD TASK[/bold], then [bold]segue run METHOD TASK[/bold]")
        return 0


@dataclass
class Choice:
    method: Positional[str]
    """a method of `segue list`"""
    task: Positional[str | None] = None
    """a task of `segue list`; or leave it out and give --env, --dataset or both"""
    env: str | None = None
    """a Gymnasium id or module:Class, in place of a named task's environment"""
    dataset: str | None = None
    """a dataset (.npz, .hdf5, .csv, .parquet, a folder of Minari or minari:ID), in place of a named task's own"""
    file: OmitArgPrefixes[FileFlags] = field(default_factory=FileFlags)
    offline_steps: int | None = None
    """batches of the offline phase (default: the recipe's; 0 leaves it out)"""
    online_steps: int | None = None
    """environment steps of the online phase (default: the recipe's; 0 leaves it out)"""
    set: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="PATH=VALUE")] = ()
    """change a field that `segue show` prints, e.g. --set phases.online.learner.base.beta=5; may be repeated"""

    @property
    def given(self) -> dict[str, int]:
        """The budgets of the command line."""
        budgets = {"offline_steps": self.offline_steps, "online_steps": self.online_steps}
        return {name: steps for name, steps in budgets.items() if steps is not None}

    def resolve(self, source: Path | None = None) -> tuple[Any, tuple, dict[str, Any]]:
        """Task, phases and overrides; what is not given for the offline phases is as in the run `source`."""
        from segue import overrides, recipes

        task = self.task_()
        phases = recipes.phases_of(self.method, task, self.offline_steps, self.online_steps)
        changed, taken = dict(overrides.parse(text) for text in self.set), {}
        if source is not None and not phases[0].online:
            names = [phase.name for phase in phases]
            steps, taken = _offline_part(source, [phase.name for phase in phases if not phase.online])
            given = {overrides.named(path, names) for path in changed}
            taken = {path: value for path, value in taken.items() if path not in given}
            said = [f"--set {shlex.quote(f'{path}={json.dumps(value)}')}" for path, value in taken.items()]
            if self.offline_steps is None and steps:
                said = [f"--offline-steps {steps}", *said]
                phases = recipes.phases_of(self.method, task, steps, self.online_steps)
            try:
                for path, value in taken.items():
                    phases = overrides.apply(phases, path, value)
            except ConfigError as error:
                raise ConfigError(f"--from {source}: {error} (as that run was given)") from error
            if said:
                note(f"as in {source}: {' '.join(said)}")
        for path, value in changed.items():
            phases = overrides.apply(phases, path, value)
        return task, phases, taken | changed

    def task_(self) -> Any:
        from segue.recipes import recipe

        recipe(self.method)  # a misspelt method is named before a dataset is made
        if self.task is None and self.env is None and self.dataset is None:
            raise ConfigError("name a task (segue list), or give --env, --dataset or both")
        if self.task is not None and self.env is not None:
            raise ConfigError("give either a named task, or --env; with a named task --dataset alone replaces its data")
        return self.file.task(self.task, self.env, self.dataset)


@dataclass
class Show(Choice):
    """Every phase of a method on a task with every resolved number and where it comes from."""

    cost: bool = False
    """time a few seconds of it and predict core-hours and memory"""
    json: bool = False
    """print the configuration as JSON, as it will stand in the run's config.json"""

    def __call__(self) -> int:
        from segue.show import cost, show

        task, phases, changed = self.resolve()
        if self.json:
            from segue.runs.codec import encode

            print(json.dumps([encode(p) for p in phases], indent=1))
            return 0
        show(self.method, task, phases, changed, self.given)
        if self.cost:
            from segue.runs.compiled import kept

            with kept(note):
                cost(task, phases)
        return 0


@dataclass
class Run(Choice):
    """Pre-train, hand over, fine-tune: one run for each seed, each in a directory from which it can be resumed.

    The same command given again goes on where it stopped.
    """

    seeds: tuple[int, ...] = (0,)
    """one run for each; several run side by side, one process per core"""
    eval_every: int = 5000
    """steps between evaluations"""
    eval_episodes: int = 10
    """episodes of an evaluation; 0 for none (no environment is then needed offline)"""
    log_every: int = 500
    """steps between rows of metrics"""
    out: Path | None = None
    """the directory (default: runs/METHOD-TASK); seeds go to seed-0, seed-1, ... below it"""
    from_: Annotated[Path | None, arg(name="from", metavar="RUN")] = None
    """start at the hand-over from another run's pre-trained state: one pre-training serves many methods.
    --offline-steps and --set of the offline phase default to that run's. A directory of seeds serves seed by seed"""
    jobs: int | None = None
    """processes at a time (default: one per core)"""
    log: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """copies of the metrics for other viewers; metrics.jsonl is always written"""

    def __call__(self) -> int:
        from segue.phases import Settings, start
        from segue.runs.group import resume_all
        from segue.runs.run import create, make_config

        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"--seeds takes different numbers from 0 on, not {list(self.seeds)}")
        _check_jobs(self.jobs)
        task, phases, changed = self.resolve(None if self.from_ is None else _source(self.from_, self.seeds[0]))
        settings = Settings(eval_every=self.eval_every, eval_episodes=self.eval_episodes, log_every=self.log_every)
        group = self.out or Path("runs") / f"{self.method}-{task.name.replace('/', '-').replace(':', '-')}"
        # nothing is left behind of phases that do not fit
        if not all((group / f"seed-{seed}" / "config.json").exists() for seed in self.seeds):
            start(self.seeds[0], phases, task.spec, None if task.load_dataset is None else task.dataset)
        folders = []
        cores = 1 if len(self.seeds) > 1 else None
        for seed in self.seeds:
            config = make_config(self.method, task, phases, seed, settings, sys.argv, changed, self.log, cores)
            folder = group / f"seed-{seed}"
            create(folder, config, None if self.from_ is None else _source(self.from_, seed))
            folders.append(folder)
        code = _execute(folders[0]) if len(folders) == 1 else resume_all(folders, self.jobs)
        if code == 0:
            _report([group], None)
        return code


@dataclass
class Resume:
    """Continue a stopped run, or all runs of a directory, exactly as they were: no setting is asked for again."""

    folder: Positional[Path]
    """a run, or a directory of runs"""
    jobs: int | None = None
    """processes at a time (default: one per core)"""
    env: str | None = None
    """confirms the module:Class that a run made elsewhere names; never needed for your own runs"""
    memory_limit: Annotated[str | None, arg(metavar="SIZE")] = None
    """memory that the dataset may take, such as 8GiB"""

    def __call__(self) -> int:
        from segue.runs.group import resume_all, runs_in, stop_with_parent

        stop_with_parent()
        _check_jobs(self.jobs)
        limit_memory(self.memory_limit)
        folders = runs_in(self.folder)
        return _execute(folders[0], self.env) if len(folders) == 1 else resume_all(folders, self.jobs, self.env)


@dataclass
class Report:
    """A table of runs and one self-contained page with pictures: was the hand-over safe?"""

    folders: Positional[tuple[Path, ...]]
    """runs, or directories of runs; several arms are drawn together"""
    html: Path | None = None
    """where the page goes (default: report.html in the first directory)"""

    def __call__(self) -> int:
        if not self.folders:
            raise ConfigError("name one or more directories of runs: segue report runs/pex-point-wall")
        _report(list(self.folders), self.html)
        return 0


def _report(folders: list[Path], html: Path | None) -> None:
    from rich.console import Console

    from segue.runs.report import report

    report(folders, html, Console())


def _source(source: Path, seed: int) -> Path:
    """The run that seed starts from: `source` itself, or its folder of that seed."""
    if (source / "config.json").exists():
        return source
    if (source / f"seed-{seed}" / "config.json").exists():
        return source / f"seed-{seed}"
    raise ConfigError(
        f"--from {source}: no run lies there for seed {seed} (neither config.json nor seed-{seed}/config.json)"
    )


def _offline_part(source: Path, wanted: list[str]) -> tuple[int, dict[str, Any]]:
    """Steps of the `wanted` of the offline phases that a run begins with, and its overrides of them, by name."""
    from itertools import takewhile

    from segue import overrides
    from segue.runs.run import read_config

    config = read_config(source)
    first = takewhile(lambda phase: not phase["online"], config["phases"])
    steps = {phase["name"]: phase["steps"] for phase in first if phase["name"] in wanted}
    names = [phase["name"] for phase in config["phases"]]
    changed = {overrides.named(path, names): value for path, value in config["overrides"].items()}
    return sum(steps.values()), {path: value for path, value in changed.items() if path.split(".")[1] in steps}


def _check_jobs(jobs: int | None) -> None:
    if jobs is not None and jobs < 1:
        raise ConfigError(f"--jobs is at least 1, not {jobs}")


def _execute(folder: Path, confirmed: str | None = None) -> int:
    from segue.errors import Diverged
    from segue.runs.compiled import kept
    from segue.runs.group import pin
    from segue.runs.progress import Display
    from segue.runs.run import Progress, Stop, execute, read_config

    config = read_config(folder)
    pin(config["threads"])  # equal numbers of cores: equal bits
    display = Display(f"{config['method']} {config['task']['name']} seed {config['seed']}")
    stop = Stop()
    try:
        with kept(display.say) as publish:

            def show(progress: Progress) -> None:
                display(progress)
                if any(row["kind"] in ("handover", "evaluation") for row in progress.rows):
                    publish()

            _, finished = execute(folder, show, display.say, stop, confirmed=confirmed)
    except Diverged as error:
        raise Diverged(f"{error}\nthe run lies in {folder}") from error
    except SegueError as error:
        raise type(error)(f"{error}\nthe run lies in {folder}; once mended: segue resume {folder}") from error
    finally:
        display.close()
    if not finished:
        display.say(f"stopped and saved; go on with: segue resume {folder}")
        return 128 + (stop.signal or 0)
    display.say(f"finished; see it with: segue report {folder}")
    return 0


COMMANDS = {"list": List, "show": Show, "run": Run, "resume": Resume, "report": Report, "data": Data}


def main() -> None:
    """Entry point: one clear line for anything that the user can mend."""
    try:
        command = tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="segue",
            description="Offline-to-online reinforcement learning: pre-train on data, hand over, improve without first "
            "getting worse.\n\nTry: segue run pex point-wall --offline-steps 5000 --online-steps 5000",
        )
        sys.exit(command())
    except SegueError as error:
        print(f"segue: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:  # before a run began; a run saves and says so
        print("segue: stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
