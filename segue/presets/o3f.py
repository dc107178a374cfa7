"""O3F: what its CQL has in other numbers."""

from segue.presets import Block

BLOCKS = {"*": Block(dict(n_critics=5, layer_norm=True), "a third party's configuration: 5 critics with LayerNorm")}
