"""Tasks by name, tasks of the user's own, and their data. Importing this loads neither jax nor a simulator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from segue.errors import ConfigError, nearest
from segue.tasks import adroit, antmaze, filters, formats, kitchen, locomotion, maze2d, ogbench, point_wall, pointmaze
from segue.tasks.custom import custom_task
from segue.tasks.dataset import Dataset, dataset_from_arrays
from segue.tasks.environment import Environment, Step
from segue.tasks.formats import Reading, located, manifest, read, write, write_npz
from segue.tasks.made import Making, Message, Progress
from segue.tasks.task import Reference, Task

__all__ = [
    "Dataset",
    "Environment",
    "Reading",
    "Reference",
    "Step",
    "Task",
    "catalogue",
    "custom_task",
    "dataset_from_arrays",
    "filtered",
    "formats",
    "from_source",
    "get",
    "make_dataset",
    "manifest",
    "names",
    "read",
    "write",
    "write_npz",
]

# each: catalogue() -> {name: line}, task(name, making) -> Task
FAMILIES = (point_wall, maze2d, pointmaze, locomotion, antmaze, adroit, kitchen, ogbench)


def catalogue() -> dict[str, str]:
    """One line on each named task."""
    return {name: line for family in FAMILIES for name, line in family.catalogue().items()}


def names() -> list[str]:
    """The named tasks."""
    return list(catalogue())


def get(
    name: str,
    progress: Progress | None = None,
    message: Message | None = None,
    *,
    dataset: str | Path | None = None,
    reading: Reading | None = None,
    force: bool = False,
) -> Task:
    """A named task. `progress(done, total)` counts rows while its dataset is made; `message` takes what is to be said
    about the cache (default: a Python warning); `force` makes the dataset anew. With `dataset` (a file) the task keeps
    its environment and its reference, and learns from those rows; `reading` says how the file is to be understood, by
    default as the task's ``reading`` has it. Raises ``ConfigError`` for an unknown name, and bounds of actions that are
    not the task's.
    """
    for family in FAMILIES:
        if name in family.catalogue():
            task = family.task(name, Making(progress, message, force))
            break
    else:
        raise ConfigError(f"unknown task {name!r}{nearest(name, names())}")
    if dataset is None:
        return task
    path, how = located(dataset), task.reading if reading is None else reading
    how.bounds(-1.0, 1.0)  # the box of every named task
    rows = lambda: read(path, max_episode_steps=task.horizon, reading=how)
    load = rows if (relabel := task.relabel) is None else lambda: relabel(rows())
    source = {**task.source, "dataset": str(path)} | ({} if reading is None else {"reading": reading.changes()})
    return replace(task, source=source, load_dataset=load, reading=how)


def from_source(source: Mapping[str, Any], progress: Progress | None = None, message: Message | None = None) -> Task:
    """The task whose ``source`` this is. Raises ``ConfigError`` if it is none."""
    fields = dict(source) if isinstance(source, Mapping) else {}
    changes, words = fields.pop("reading", {}), fields.pop("filters", [])
    listed = isinstance(words, list) and all(isinstance(word, str) for word in words)
    if listed and all(isinstance(x, str | None) for x in fields.values()):
        reading, file = Reading.of(changes), fields.get("dataset")
        if fields.get("kind") == "named" and fields.get("name"):
            how = reading if "reading" in source else None
            return filtered(get(fields["name"], progress, message, dataset=file, reading=how), words)
        if fields.get("kind") == "custom":
            return filtered(custom_task(fields.get("env"), file, fields.get("name"), reading), words)
    raise ConfigError(f"not the source of a task: {source!r}; known kinds: custom, named")


def filtered(task: Task, words: Iterable[str]) -> Task:
    """The task with its data filtered, one word of `segue.tasks.filters` after another: ``["truncate=20"]``. Its
    ``source`` says so. Raises ``ConfigError`` for an unknown filter, or a task without data.
    """
    parsed = [filters.parse(word) for word in words]
    if not parsed:
        return task
    load = task.load_dataset
    if load is None:
        raise ConfigError(f"task {task.name!r} has no dataset to filter; give a file with --dataset")
    source = {**task.source, "filters": [*task.source.get("filters", []), *(one.text for one in parsed)]}
    return replace(task, source=source, load_dataset=lambda: filters.apply(load(), parsed))


def make_dataset(
    name: str, force: bool = False, progress: Progress | None = None, message: Message | None = None
) -> Dataset:
    """The dataset of a named task, made if it is not cached, or in any case with `force`."""
    return get(name, progress, message, force=force).dataset
