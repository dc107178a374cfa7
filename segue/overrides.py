"""Changing a field of a resolved method by its path: ``phases.online.learner.base.beta=5``."""

from __future__ import annotations

import dataclasses
import json
import math
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

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
    i = _index(which, names)
    if i is None:
        raise ConfigError(f"--set {path}: no phase {which!r}{nearest(which, names)} (or 0..{len(phases) - 1})")
    return (*phases[:i], _exchange(phases[i], fields, value, path), *phases[i + 1 :])


def named(path: str, names: list[str]) -> str:
    """`path` with the phase's name in place of its number; `names` are those of all phases."""
    first, _, rest = path.partition(".")
    which, dot, fields = rest.partition(".")
    i = _index(which, names)
    return path if i is None else f"{first}.{names[i]}{dot}{fields}"


def _index(which: str, names: list[str]) -> int | None:
    if which in names:
        return names.index(which)
    return int(which) if which.isdigit() and int(which) < len(names) else None


def _exchange(node: Any, fields: list[str], value: Any, path: str) -> Any:
    name, *rest = fields
    known = [f.name for f in dataclasses.fields(node)] if dataclasses.is_dataclass(node) else []
    if name not in known:
        raise ConfigError(f"--set {path}: {type(node).__name__} has no field {name!r}{nearest(name, known)}")
    old = getattr(node, name)
    new = _exchange(old, rest, value, path) if rest else _fit(get_type_hints(type(node))[name], old, value, path)
    try:
        return dataclasses.replace(node, **{name: new})  # type: ignore[type-var]
    except (ValueError, TypeError) as error:
        raise ConfigError(f"--set {path}: {error}") from error


def _fit(kind: Any, old: Any, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(old):
        inner = ", ".join(f.name for f in dataclasses.fields(old))
        raise ConfigError(
            f"--set {path}: holds a {type(old).__name__}; set one of its fields: {inner or 'it has none'}"
        )
    fitted = _as(kind, value)
    if fitted is UNFIT:
        choices = get_args(kind) if get_origin(kind) is Literal else ()
        if isinstance(value, str) and choices:
            raise ConfigError(
                f"--set {path}: takes one of {', '.join(choices)}, not {value!r}{nearest(value, choices)}"
            )
        raise ConfigError(f"--set {path}: takes {_in_words(kind)} like {old!r}, not {value!r}")
    return fitted


UNFIT = object()


def _as(kind: Any, value: Any) -> Any:
    """`value` as the type that a field is declared with, or `UNFIT`."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return next((v for v in (_as(k, value) for k in inner) if v is not UNFIT), UNFIT)
    if origin is Literal:
        return value if value in inner else UNFIT
    if origin is tuple and isinstance(value, list):
        kinds = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        items = tuple(_as(k, v) for k, v in zip(kinds, value, strict=False))
        return items if len(items) == len(value) and UNFIT not in items else UNFIT
    if kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
        return float(value) if number else UNFIT
    if kind is NoneType or (isinstance(kind, type) and type(value) is kind):
        return value if kind is not NoneType or value is None else UNFIT
    return UNFIT


def _in_words(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind)
