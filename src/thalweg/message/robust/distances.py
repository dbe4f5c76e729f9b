"""Distances between messages, from one product of the matrix with itself.

Axes: `c` slots, `d` coordinates.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .order import median

# Columns that are multiplied at a time, and rows whose median is taken at a time.
COLUMNS, ROWS = 4096, 32


def gram(messages: Float[Array, "c d"]) -> Float[Array, "c c"]:
    """The inner products of the messages less a point in their midst.

    ‖m_i − m_j‖² = g_ii + g_jj − 2 g_ij rounds by about ε‖m_i − o‖² for the origin o. With the coordinate-wise median as origin
    (of medians of `ROWS` each, where there are more) the distances of honest messages keep their digits whatever others send.
    """
    c, d = messages.shape
    width = min(COLUMNS, d)

    def of(block):
        block = block - _midst(block)[None]
        return jnp.matmul(block, block.T, precision=jax.lax.Precision.HIGHEST)

    def add(i, total):
        return total + of(jax.lax.dynamic_slice(messages, (0, i * width), (c, width)))

    total = jax.lax.fori_loop(0, d // width, add, jnp.zeros((c, c), messages.dtype))
    return total + of(messages[:, d - d % width :]) if d % width else total


def squared(products: Float[Array, "c c"], arrived: Bool[Array, " c"]) -> Float[Array, "c c"]:
    """‖m_i − m_j‖² from their inner products; infinite where one of the two did not arrive, zero on the diagonal."""
    norms = jnp.diagonal(products)
    found = jnp.maximum(norms[:, None] + norms[None] - 2 * products, 0)
    found = jnp.where(jnp.isnan(found), jnp.inf, found)  # ∞ − ∞, of messages too long for their squares
    found = jnp.where(arrived[:, None] & arrived[None], found, jnp.inf)
    return jnp.where(jnp.eye(len(products), dtype=bool), 0, found)


def distances(messages: Float[Array, "c d"], arrived: Bool[Array, " c"]) -> Float[Array, "c c"]:
    """‖m_i − m_j‖², as `squared`."""
    return squared(gram(messages), arrived)


def _midst(block):
    c = len(block)
    if c <= ROWS:
        return median(block, jnp.ones(c, bool))
    groups = -(-c // ROWS)
    padded = jnp.concatenate([block, block[: groups * ROWS - c]]).reshape(ROWS, -1)
    medians = median(padded, jnp.ones(ROWS, bool)).reshape(groups, -1)
    return _midst(medians)
