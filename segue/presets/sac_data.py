"""SAC with offline data, the baseline of Cal-QL's table: its code without the regulariser and without pre-training.

Rewards and the dataset's share are those of `cql`. Not taken over: the best of 10 next actions and the
policy's lower rate.
"""

from __future__ import annotations

from typing import Any

from segue.presets import Block
from segue.presets.cql import BLOCKS as CQL

SOURCE = "Nakamoto et al. 2023, released code: networks of its Cal-QL there, no entropy in the target"


def _block(values: dict[str, Any]) -> Block:
    sizes = {k: v for k, v in values.items() if k in ("hidden", "critic_hidden")}
    return Block(dict(backup_entropy=False) | sizes, SOURCE)


BLOCKS = {name: _block(b.values) for name, b in CQL.items()} | {"*": _block({})}
