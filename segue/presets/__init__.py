"""The papers' numbers, one file a method family: each block with its source.

Keyed by a task's family, with exceptions by its full name; "*" is any other task. No entry: the defaults hold.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

LEVELS = ("random", "medium", "medium-replay", "medium-expert", "expert")  # of locomotion's datasets
SPARSE_NAVIGATION = ("point-wall", "antmaze", "maze2d", "pointmaze")  # families that pay 0 or 1


class Block(NamedTuple):
    """Settings of one method on one family of tasks."""

    values: dict[str, Any]
    source: str


def block(method: str, task: Any) -> Block:
    """The block for `task` by full name, else by family, else that of any task, else an empty one."""
    blocks: dict[str, Block] = import_module(f"segue.presets.{method}").BLOCKS
    keys = (task.name, task.family, "*")
    return next((blocks[k] for k in keys if k in blocks), Block({}, "the method's defaults"))


def preset(method: str, task: Any) -> dict[str, Any]:
    """Field values of `method` for `task`."""
    return dict(block(method, task).values)


def for_each(env: str, block: Block) -> dict[str, Block]:
    """The same block for all datasets of an environment."""
    return {f"{env}-{level}": block for level in LEVELS}
