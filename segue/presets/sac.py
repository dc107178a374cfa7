"""SAC and TD3 from scratch."""

from segue.presets import Block

BLOCKS: dict[str, Block] = {}
