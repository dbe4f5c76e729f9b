"""Distances between messages, from products of the matrix with itself.

Axes: `c` slots, `d` coordinates.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .order import nth


def gram(messages: Float[Array, "c d"], arrived: Bool[Array, " c"]) -> Float[Array, "c c"]:
    """The inner products of the messages less the one in their midst.

    ‖m_i − m_j‖² = g_ii + g_jj − 2 g_ij rounds by about ε‖m_i − o‖² for the origin o. As they stand, o is zero, which may be far
    from all; but good enough to find a message o whose median distance to the others is least, within ε‖m‖², and with it as
    origin the distances of honest messages keep their digits whatever others send.
    """
    between = squared(_products(messages), arrived)
    middle = nth(between, arrived, jnp.maximum(jnp.sum(arrived, dtype=jnp.int32) - 1, 0) // 2)
    return _products(messages - messages[jnp.argmin(jnp.where(arrived, middle, jnp.inf))][None])


def squared(products: Float[Array, "c c"], arrived: Bool[Array, " c"]) -> Float[Array, "c c"]:
    """‖m_i − m_j‖² from their inner products; infinite where one of the two did not arrive, zero on the diagonal."""
    norms = jnp.diagonal(products)
    found = jnp.maximum(norms[:, None] + norms[None] - 2 * products, 0)
    found = jnp.where(jnp.isnan(found), jnp.inf, found)  # ∞ − ∞, of messages too long for their squares
    found = jnp.where(arrived[:, None] & arrived[None], found, jnp.inf)
    return jnp.where(jnp.eye(len(products), dtype=bool), 0, found)


def distances(messages: Float[Array, "c d"], arrived: Bool[Array, " c"]) -> Float[Array, "c c"]:
    """‖m_i − m_j‖², as `squared`."""
    return squared(gram(messages, arrived), arrived)


def _products(messages):
    found = jnp.matmul(messages, messages.T, precision=jax.lax.Precision.HIGHEST)
    return (found + found.T) / 2  # as far from i to j as from j to i
