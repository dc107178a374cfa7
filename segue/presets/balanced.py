"""Balanced replay."""

from segue.presets import Block

BLOCKS = {
    "locomotion": Block(
        dict(online=0.75), "Lee et al. 2021, released demonstration, and Yu & Zhang 2023, table 9: rho 0.75, T 5"
    ),
}
