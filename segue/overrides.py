"""Changing a field of a resolved method by its path: ``phases.online.learner.base.beta=5``."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from segue.errors import ConfigError, nearest
from segue.phases import Phase


def parse(text: str) -> tuple[str, Any]:
    """``path=value``; the value is JSON, or else a string."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise ConfigError(f"--set takes path=value, not {text!r}; e.g. --set phases.0.learner.beta=5")
    try:
        return path.strip(), json.loads(value)
    except ValueError:
        return path.strip(), value


def apply(phases: tuple[Phase, ...], path: str, value: Any) -> tuple[Phase, ...]:
    """`phases` with the field at `path` exchanged.

    Phases go by number or name. Raises `ConfigError` naming the part of the path that does not exist, or the types
    that do not fit.
    """
    first, *rest = path.split(".")
    if first != "phases" or len(rest) < 2:
        raise ConfigError(f"--set {path}: a path is phases.NUMBER-OR-NAME.field..., e.g. phases.0.learner.beta")
    names = [p.name for p in phases]
    which, fields = rest[0], rest[1:]
    if which in names:
        i = names.index(which)
    elif which.isdigit() and int(which) < len(phases):
        i = int(which)
    else:
        raise ConfigError(f"--set {path}: no phase {which!r}{nearest(which, names)} (or 0..{len(phases) - 1})")
    return (*phases[:i], _exchange(phases[i], fields, value, path), *phases[i + 1 :])


def _exchange(node: Any, fields: list[str], value: Any, path: str) -> Any:
    name, *rest = fields
    known = [f.name for f in dataclasses.fields(node)] if dataclasses.is_dataclass(node) else []
    if name not in known:
        raise ConfigError(f"--set {path}: {type(node).__name__} has no field {name!r}{nearest(name, known)}")
    old = getattr(node, name)
    new = _exchange(old, rest, value, path) if rest else _fit(old, value, path)
    try:
        return dataclasses.replace(node, **{name: new})
    except (ValueError, TypeError) as error:
        raise ConfigError(f"--set {path}: {error}") from error


def _fit(old: Any, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(old):
        inner = ", ".join(f.name for f in dataclasses.fields(old))
        raise ConfigError(
            f"--set {path}: holds a {type(old).__name__}; set one of its fields: {inner or 'it has none'}"
        )
    if old is None or (value is None and old is None):
        return value
    if isinstance(old, bool) or isinstance(value, bool):
        fits = isinstance(old, bool) and isinstance(value, bool)
    elif isinstance(old, float):
        fits, value = isinstance(value, int | float), float(value) if isinstance(value, int | float) else value
    elif isinstance(old, tuple):
        fits, value = isinstance(value, list), tuple(value) if isinstance(value, list) else value
    else:
        fits = isinstance(value, type(old))
    if not fits:
        raise ConfigError(f"--set {path}: takes a {type(old).__name__} like {old!r}, not {value!r}")
    return value
