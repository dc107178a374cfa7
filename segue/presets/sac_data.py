"""SAC with offline data, the baseline of Cal-QL's table: its code without the regulariser and without pre-training.

Rewards and the dataset's share are those of `cql`. Not taken over: the best of 10 next actions, the policy's lower
rate, all steps from the same parameters, the critics' small last layer. Ours: the uniform actions at the start.
"""

from __future__ import annotations

from segue.presets import Block
from segue.presets.cql import BLOCKS as CQL

LOSSES = dict(backup_entropy=False, entropy_by_log=True)
CODE = "Nakamoto et al. 2023, released code: no entropy in the target, the logarithm's loss of the temperature"


def _block(cql: Block) -> Block:
    sizes = {k: v for k, v in cql.values.items() if k in ("hidden", "critic_hidden")}
    return Block(LOSSES | sizes, f"{CODE}; networks of CQL ({cql.source})" if sizes else CODE)


BLOCKS = {name: _block(block) for name, block in CQL.items()} | {"*": Block(LOSSES, CODE)}
