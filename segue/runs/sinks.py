"""Copies of the metrics for other programs' eyes; ``metrics.jsonl`` stays the truth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from segue.errors import ConfigError, nearest


class Sink(Protocol):
    def write(self, names: dict[str, float], step: int) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Event files in the run's folder ``tensorboard``."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ConfigError("--log tensorboard needs its extra: pip install 'segue[tensorboard]'") from error
        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def write(self, names: dict[str, float], step: int) -> None:
        for name, number in names.items():
            self._writer.add_scalar(name, number, step)

    def close(self) -> None:
        self._writer.close()


class Wandb:
    """A Weights & Biases run; it works offline where no login is at hand (``WANDB_MODE=offline``)."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        try:
            import wandb  # type: ignore[import-not-found]
        except ImportError as error:
            raise ConfigError("--log wandb needs its extra: pip install 'segue[wandb]'") from error
        name = f"{config['method']}-{config['task']['name']}-{config['seed']}"
        run_id = f"{config['digest']}-{config['seed']}"
        self._run = wandb.init(project="segue", name=name, id=run_id, resume="allow", dir=str(folder), config=config)

    def write(self, names: dict[str, float], step: int) -> None:
        self._run.log(names, step=step)

    def close(self) -> None:
        self._run.finish()


SINKS: dict[str, type] = {"tensorboard": TensorBoard, "wandb": Wandb}


def open_sinks(folder: Path, config: dict[str, Any]) -> list[Sink]:
    """The sinks that the run asks for (``--log``). Raises `ConfigError` for one that is unknown or misses its extra."""
    for name in config["log"]:
        if name not in SINKS:
            raise ConfigError(f"no log is called {name!r}{nearest(str(name), SINKS)}")
    return [SINKS[name](folder, config) for name in config["log"]]


def scalars(row: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Names and numbers of a row of metrics: ``critic/td``, ``eval/score``, ``episode/return``."""
    if row["kind"] in ("train", "refit"):
        yield from row["metrics"].items()
    elif row["kind"] == "evaluation":
        prefix = "eval" if row["mode"] == "greedy" else "eval_acting"
        for name in ("score", "return", "length"):
            yield f"{prefix}/{name}", row[name]
        yield from ((f"{prefix}/{name}", number) for name, number in row["extras"].items())
    elif row["kind"] == "episode":
        yield from ((f"episode/{name}", row[name]) for name in ("return", "length", "score"))
