"""Messages of many agents as the rows of one matrix.

Axes: `c` agents, `d` numbers of one message.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def as_rows(tree: Any) -> tuple[Float[Array, "c d"], Callable[[Array], Any], Callable[[Array], Any]]:
    """(`[c, d]`, a matrix back to such a tree, one row back to the message of one agent) of leaves `[c, ...]`.

    Leaves of different precision are computed in the widest one.

    Raises:
        TypeError: a leaf is not of a floating type.
    """
    leaves, structure = jax.tree.flatten(tree)
    for leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(f"got a message with numbers of type {leaf.dtype}, expected floating ones")
    dtype, shapes = jnp.result_type(*leaves), [leaf.shape[1:] for leaf in leaves]
    matrix = jnp.concatenate([leaf.astype(dtype).reshape(leaf.shape[0], -1) for leaf in leaves], axis=1)
    ends = [sum(leaf[0].size for leaf in leaves[: i + 1]) for i in range(len(leaves) - 1)]

    def back(values, lead):
        parts = jnp.split(values, ends, axis=-1)
        restored = [p.reshape(lead + s).astype(leaf.dtype) for p, s, leaf in zip(parts, shapes, leaves, strict=True)]
        return structure.unflatten(restored)

    return matrix, lambda values: back(values, values.shape[:1]), lambda row: back(row, ())
