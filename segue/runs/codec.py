"""Configurations and states as JSON and arrays, and back: data only, no code travels in a file.

A class is written as ``module:Name`` and looked up among segue's own modules (and those that a caller allowed); a name
from anywhere else is an error, nothing is ever imported on a file's word.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import jax
import numpy as np

from segue.errors import CheckpointError
from segue.types import Module

PACKAGES = ("segue.learners", "segue.replays", "segue.bonuses")
ROOMS = "nets", "dynamics", "transformer", "types", "store", "losses", "phases", "transitions", "runs.run"
MODULES = {f"segue.{name}" for name in ROOMS}
OPTAX = {"optax:ScaleByAdamState"}
ALLOWED: set[str] = set()  # modules of the caller's own classes, see `allow`


@cache
def _own_modules() -> frozenset[str]:
    names = set(MODULES)
    for package in PACKAGES:
        path = importlib.import_module(package).__path__
        names |= {f"{package}.{m.name}" for m in pkgutil.iter_modules(path)}
    for name in names:
        importlib.import_module(name)
    return frozenset(names)


def class_name(cls: type) -> str:
    """``module:Name`` of a class that files may name."""
    if cls.__name__ == "ScaleByAdamState":
        return "optax:ScaleByAdamState"
    return f"{cls.__module__}:{cls.__qualname__}"


def class_of(name: str) -> type:
    """The class of that name. Raises `CheckpointError` for any that is not segue's own or allowed."""
    if name in OPTAX:
        import optax

        return getattr(optax, name.partition(":")[2])
    module, _, attribute = name.partition(":")
    if module in _own_modules() | ALLOWED:
        cls = getattr(sys.modules.get(module), attribute, None)
        if isinstance(cls, type) and (dataclasses.is_dataclass(cls) or hasattr(cls, "_fields")):
            return cls
    raise CheckpointError(
        f"the file names the class {name!r}, which this version of segue does not have; "
        "import the module that defines it and allow it, or use the version that wrote the file"
    )


def allow(value: Any) -> None:
    """Let files name the classes of this configuration's modules: the caller has imported and made them already."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        ALLOWED.add(type(value).__module__)
        for f in dataclasses.fields(value):
            allow(getattr(value, f.name))
    elif isinstance(value, tuple):
        for v in value:
            allow(v)


# ------------------------------------------------------------------------------------------------------ configurations


def encode(value: Any) -> Any:
    """A frozen dataclass of numbers, strings, tuples and further dataclasses as JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"@": class_name(type(value)), **fields}
    if isinstance(value, tuple | list):
        return [encode(v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a configuration holds numbers, strings, tuples and dataclasses, not {type(value).__name__}")


def decode(value: Any) -> Any:
    """The inverse of `encode`; lists come back as tuples. Raises `CheckpointError` for unknown classes or fields."""
    if isinstance(value, Mapping):
        cls = class_of(value["@"])
        fields = {k: decode(v) for k, v in value.items() if k != "@"}
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := fields.keys() - known:
            raise CheckpointError(f"{value['@']} has no field {sorted(unknown)}; the file is of another version")
        return cls(**fields)
    return tuple(decode(v) for v in value) if isinstance(value, list) else value


# -------------------------------------------------------------------------------------------------------------- states


def flatten(value: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    """JSON that describes a tree of Modules, tuples, dicts and arrays; its arrays go to `arrays` under their paths."""
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        arrays[path] = np.asarray(value)
        return {"array": path, "host": not isinstance(value, jax.Array)}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    if isinstance(value, dict):
        return {"dict": {k: flatten(v, f"{path}.{k}", arrays) for k, v in value.items()}}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        fields = zip(value._fields, value, strict=True)  # type: ignore[attr-defined]
        return {"class": class_name(type(value)), "fields": {k: flatten(v, f"{path}.{k}", arrays) for k, v in fields}}
    if isinstance(value, tuple | list):
        return {"tuple": [flatten(v, f"{path}.{i}", arrays) for i, v in enumerate(value)]}
    if isinstance(value, Module):
        fields = {
            f.name: flatten(getattr(value, f.name), f"{path}.{f.name}", arrays) for f in dataclasses.fields(value)
        }
        return {"class": class_name(type(value)), "fields": fields}
    raise TypeError(f"{path}: a state holds arrays, tuples, dicts and Modules, not {type(value).__name__}")


def unflatten(spec: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    """The inverse of `flatten`."""
    if "array" in spec:
        array = arrays[spec["array"]]
        if not spec["host"]:
            return jax.numpy.array(array)
        return array if array.ndim else array[()]
    if "value" in spec:
        return spec["value"]
    if "dict" in spec:
        return {k: unflatten(v, arrays) for k, v in spec["dict"].items()}
    if "tuple" in spec:
        return tuple(unflatten(v, arrays) for v in spec["tuple"])
    return class_of(spec["class"])(**{k: unflatten(v, arrays) for k, v in spec["fields"].items()})


def leaves(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Paths and values of an encoded configuration."""
    if isinstance(config, Mapping):
        for k, v in config.items():
            yield from leaves(v, f"{path}.{k}" if path else k)
    elif isinstance(config, list) and any(isinstance(v, Mapping) for v in config):
        for i, v in enumerate(config):
            yield from leaves(v, f"{path}.{i}" if path else str(i))
    else:
        yield path, config


def dumps(value: Any) -> str:
    """JSON with keys in order, the same for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
