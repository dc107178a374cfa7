"""Tasks by name, tasks of the user's own, and their data. Importing this loads neither jax nor a simulator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from segue.errors import ConfigError, nearest
from segue.tasks import locomotion
from segue.tasks import point_wall as _point_wall
from segue.tasks.custom import custom_task
from segue.tasks.dataset import Dataset, dataset_from_arrays, read, write_npz
from segue.tasks.environment import Environment, Step
from segue.tasks.task import Reference, Task

__all__ = [
    "Dataset",
    "Environment",
    "Reference",
    "Step",
    "Task",
    "catalogue",
    "custom_task",
    "dataset_from_arrays",
    "describe",
    "from_source",
    "get",
    "make_dataset",
    "names",
    "read",
    "write_npz",
]


def catalogue() -> dict[str, str]:
    """One line on each named task."""
    return {**_point_wall.CATALOGUE, **locomotion.catalogue()}


def names() -> list[str]:
    """The named tasks."""
    return list(catalogue())


def get(
    name: str,
    progress: Callable[[int, int], None] | None = None,
    message: Callable[[str], None] | None = None,
) -> Task:
    """A named task. `progress(done, total)` counts rows while its dataset is made; `message` takes what is to be said
    about the cache (default: a Python warning). Raises ``ConfigError`` for an unknown name.
    """
    if name in _point_wall.CATALOGUE:
        return _point_wall.point_wall(name)
    if name in locomotion.catalogue():
        return locomotion.locomotion(name, progress=progress, message=message)
    raise ConfigError(f"unknown task {name!r}{nearest(name, names())}")


def from_source(
    source: Mapping[str, Any],
    progress: Callable[[int, int], None] | None = None,
    message: Callable[[str], None] | None = None,
) -> Task:
    """The task whose ``source`` this is. Raises ``ConfigError`` if it is none."""
    kind = source.get("kind") if isinstance(source, Mapping) else None
    if kind == "named" and isinstance(source.get("name"), str):
        return get(source["name"], progress, message)
    if kind == "custom" and all(isinstance(source.get(key), str | None) for key in ("env", "dataset", "name")):
        return custom_task(source.get("env"), source.get("dataset"), source.get("name"))
    raise ConfigError(f"not the source of a task: {source!r}; known kinds: custom, named")


def make_dataset(
    name: str,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
    message: Callable[[str], None] | None = None,
) -> Dataset:
    """The dataset of a named task, made if it is not cached, or in any case with `force`."""
    if force and name in locomotion.catalogue():
        return locomotion.remake(name, progress=progress, message=message)
    return get(name, progress, message).dataset


def describe(dataset: Dataset) -> dict[str, Any]:
    """Counts, episode returns and lengths, ends, range of the actions, hash and info; JSON-able."""
    returns, lengths = dataset.returns, dataset.lengths
    return {
        "name": dataset.name,
        "rows": dataset.size,
        "episodes": len(lengths),
        "obs_dim": dataset.obs_dim,
        "act_dim": dataset.act_dim,
        "return": {"min": float(returns.min()), "mean": float(returns.mean()), "max": float(returns.max())},
        "length": {"min": int(lengths.min()), "mean": float(lengths.mean()), "max": int(lengths.max())},
        "terminals": int(dataset.terminal.sum()),
        "timeouts": int(dataset.timeout.sum()),
        "action": {"min": float(dataset.action.min()), "max": float(dataset.action.max())},
        "hash": dataset.hash,
        "info": dataset.info,
    }
