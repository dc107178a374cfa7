"""PEX."""

from segue.presets import Block

BLOCKS = {
    "locomotion": Block(dict(inv_temperature=3.0), "tied to IQL's beta of the family, as the paper ties it"),
    "point-wall": Block(dict(inv_temperature=10.0), "released default, equal to IQL's beta there"),
}
