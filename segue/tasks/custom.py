"""Tasks of the user's own: a Gymnasium id or ``module:Class``, a dataset file, or both."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from segue.errors import ConfigError, EnvironmentFault
from segue.tasks.dataset import Dataset
from segue.tasks.environment import Environment
from segue.tasks.formats import PLAIN, Reading, located, read
from segue.tasks.task import Task


def custom_task(env: str | None, dataset: str | Path | None, name: str | None = None, reading: Reading = PLAIN) -> Task:
    """A task from an environment (a Gymnasium id, or ``module:Class`` called without arguments) and a dataset file.

    Either may be None; `reading` says how the file is to be understood. With an environment, its dimensions and action
    bounds hold for the dataset; without one, the actions of the file must lie in [-1, 1], or in the bounds that
    `reading` gives them. Such a task is not replayable and has no reference.

    Raises ``ConfigError`` for an environment that cannot be made or does not fit, ``DataError`` for the file.
    """
    if env is None and dataset is None:
        raise ConfigError("a task of one's own needs an environment, a dataset, or both")
    path = None if dataset is None else located(dataset)
    file = None if path is None else str(path)
    source: dict[str, Any] = {"kind": "custom", "env": env, "dataset": file, "name": name}
    if reading.changes():
        source["reading"] = reading.changes()
    if env is None:
        assert path is not None
        data = read(path, reading=reading)
        title = name or path.stem

        def no_env() -> Environment:
            raise ConfigError(f"task {title!r} has only a dataset; name its environment to interact or evaluate")

        return Task(title, "custom", source, no_env, lambda: data, None, False, data.obs_dim, data.act_dim)

    title = name or env
    make = _maker(env)
    probe = _probe(make, env)

    def load() -> Dataset:
        assert path is not None
        return read(
            path,
            action_low=probe.action_low,
            action_high=probe.action_high,
            max_episode_steps=probe.horizon,
            reading=reading,
        )

    return Task(
        name=title,
        family="custom",
        source=source,
        make_env=lambda: Environment(make(), title),
        load_dataset=None if path is None else load,
        reference=None,
        replayable=False,
        obs_dim=probe.obs_dim,
        act_dim=probe.act_dim,
        horizon=probe.horizon,
    )


def _probe(make: Callable[[], Any], env: str) -> Environment:
    """One environment, closed again: it has been reset and stepped once, so a wrong interface shows here."""
    import numpy as np

    made = make()
    door = Environment(made, env)
    try:
        parameters = inspect.signature(made.reset).parameters.values()
    except (TypeError, ValueError):  # written in another language
        parameters = None
    if parameters is not None and not any(p.name == "seed" or p.kind is p.VAR_KEYWORD for p in parameters):
        raise ConfigError(f"environment {env!r}: reset takes no `seed`; segue needs Gymnasium's reset(seed=...)")
    try:
        door.reset(seed=0)
        door.step(np.zeros(door.act_dim, np.float32))
    except EnvironmentFault as error:
        raise ConfigError(f"environment {env!r} failed its first step: {error}") from error
    finally:
        door.close()
    return door


def _maker(env: str) -> Callable[[], Any]:
    if ":" in env:
        factory = _factory(env)

        def from_class() -> Any:
            try:
                return factory()
            except Exception as error:
                raise ConfigError(
                    f"environment {env!r}: calling it without arguments raised {type(error).__name__}: {error}"
                ) from error

        return from_class

    def from_id() -> Any:
        import gymnasium

        try:
            return gymnasium.make(env, disable_env_checker=True)
        except gymnasium.error.DependencyNotInstalled as error:
            raise ConfigError(f"environment {env!r} needs a package that is not installed: {error}") from error
        except gymnasium.error.Error as error:
            raise ConfigError(
                f"environment {env!r} cannot be made by Gymnasium: {error} (an id of Gymnasium, or `module:Class`)"
            ) from error
        except Exception as error:
            raise ConfigError(f"environment {env!r}: making it raised {type(error).__name__}: {error}") from error

    return from_id


def _factory(env: str) -> Callable[[], Any]:
    """The class or function behind ``module:name``. Only a class or function of that module, never the stdlib."""
    module_name, _, attribute = env.partition(":")
    if not (all(part.isidentifier() for part in module_name.split(".")) and attribute.isidentifier()):
        raise ConfigError(f"environment {env!r} is not of the form `package.module:Class`")
    if module_name.partition(".")[0] in sys.stdlib_module_names:
        raise ConfigError(f"environment {env!r}: {module_name!r} is a module of Python itself")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ConfigError(
            f"environment {env!r}: importing {module_name!r} raised {type(error).__name__}: {error}; "
            "is its folder on PYTHONPATH?"
        ) from error
    factory = getattr(module, attribute, None)
    if factory is None:
        raise ConfigError(f"environment {env!r}: module {module_name!r} has no {attribute!r}")
    is_env_class = inspect.isclass(factory) and hasattr(factory, "reset") and hasattr(factory, "step")
    if not (is_env_class or (inspect.isfunction(factory) and factory.__module__ == module_name)):
        raise ConfigError(
            f"environment {env!r}: {attribute!r} is neither a class with reset and step "
            f"nor a function of {module_name!r}"
        )
    return factory
