"""Distances between messages, from products of the matrix with itself.

Axes: `c` slots, `d` coordinates.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .order import nth

# Of median lengths: more digits than four bits are not given away.
LONG = 4.0


def gram(messages: Float[Array, "c d"], arrived: Bool[Array, " c"]) -> Float[Array, "c c"]:
    """The inner products of the messages less a point that is not far from them.

    ‖m_i − m_j‖² = g_ii + g_jj − 2 g_ij rounds by about ε‖m_i − o‖² for the origin o. That point is zero, unless messages are longer
    than `LONG` times what they differ by: then it is the message whose median distance to the others is least (as far as the first
    products can tell: within ε‖m‖²). So distances of honest messages keep their digits whatever others send.
    """
    products = _products(messages)
    between, half = squared(products, arrived), jnp.maximum(jnp.sum(arrived, dtype=jnp.int32) - 1, 0) // 2
    middle = jnp.where(arrived, nth(between, arrived, half), jnp.inf)
    length = nth(jnp.diagonal(products)[:, None], arrived, half)[0]
    again = lambda: _products(messages - messages[jnp.argmin(middle)][None])
    return jax.lax.cond(length <= LONG**2 * jnp.min(middle), lambda: products, again)


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
