"""Rows in proportion to their priorities: a binary tree of sums, one array ``[2L]`` for L leaves, a power of two.

Node i has the children 2i and 2i + 1; the root is 1, row j the leaf L + j. Every inner node is the sum of its two
children, however often and in whatever order they were written: the tree is a function of its leaves.

A row is found by walking down, with a new uniform number at every node. No running sum over all rows is formed, in
which float32 would lose small priorities, and no single number has to tell a million rows apart. The number is compared
with the share of the smaller side: that of a side far below the other's rounding is still taken, a sum of 0 never. A
share is met up to 2^-23, the step of the numbers: a side smaller than that is drawn a little too often.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from segue.types import Key


def build(priority: Float[Array, " N"]) -> Float[Array, " 2L"]:
    """The tree of these priorities, 0 or more; leaves without a row are 0."""
    n = priority.shape[0]
    level = jnp.zeros(1 << max(n - 1, 0).bit_length()).at[:n].set(priority)
    levels = [level]
    while level.shape[0] > 1:
        level = level[0::2] + level[1::2]  # XLA would merge the sums of two `sum`s, in another order
        levels.append(level)
    return jnp.concatenate([jnp.zeros(1), *levels[::-1]])


def leaves(tree: Float[Array, " 2L"]) -> Float[Array, " L"]:
    """The priorities of all rows, and zeros."""
    return tree[tree.shape[0] // 2 :]


def _depth(tree: Array) -> int:
    return tree.shape[0].bit_length() - 2


def draw(tree: Float[Array, " 2L"], key: Key, n: int) -> Int[Array, " n"]:
    """`n` rows with replacement, each in proportion to its priority. Their sum must be over 0."""

    def down(node: Array, u: Array) -> tuple[Array, None]:
        left, right = tree.reshape(-1, 2)[node].T
        smaller = u * (left + right) < jnp.minimum(left, right)
        return 2 * node + (smaller == (right < left)), None

    root = jnp.ones(n, jnp.int32)
    return jax.lax.scan(down, root, jax.random.uniform(key, (_depth(tree), n)))[0] - tree.shape[0] // 2


def write(tree: Float[Array, " 2L"], rows: Int[Array, " n"], priority: Float[Array, " n"]) -> Float[Array, " 2L"]:
    """The tree with these priorities at these rows; a row that is named twice gets the largest of its own."""
    if rows.shape[0] == 1:  # XLA makes a write of one row another operation, and copies the tree for it at every level
        rows, priority = jnp.repeat(rows, 2), jnp.repeat(priority, 2)
    node = tree.shape[0] // 2 + rows
    tree = tree.at[node].set(0).at[node].max(priority)  # in any order of writing the same

    def up(_: int, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        tree, node = carry
        node = node // 2
        left, right = tree.reshape(-1, 2)[node].T
        return tree.at[node].set(left + right), node

    return jax.lax.fori_loop(0, _depth(tree), up, (tree, node))[0]
