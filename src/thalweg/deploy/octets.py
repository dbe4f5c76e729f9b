"""Payloads at the edge of compiled code: `thalweg.message.payload.pack` and its inverse, without a copy where memory allows.

Compiled code takes and gives arrays, never bytes: on the CPU, XLA puts each number together out of its octets.
"""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thalweg.message.payload import array_of, pack, payload_bytes, places

from .compiled import Held, structure_of


class Form:
    """What the payload of a message looks like.

    Args:
        like: the message, or its shapes and dtypes.

    Attributes:
        size: bytes of a payload.
    """

    def __init__(self, like: Any):
        leaves, structure = jax.tree.flatten(like)
        self._structure, self.size = structure_of(structure), payload_bytes(like)
        where = zip(jax.tree.leaves(places(like)), leaves, strict=True)
        self._arrays = [(at, np.dtype(leaf.dtype), tuple(leaf.shape)) for at, leaf in where]

    def read(self, octets: np.ndarray) -> Held:
        """The message in a payload `[b]`, or those in the rows of `[m, b]` with an axis of their own in front."""
        return Held([array_of(octets[..., at], dtype, shape) for at, dtype, shape in self._arrays], self._structure)

    def finite(self, octets: np.ndarray) -> bool:
        """Whether a payload holds numbers only where it has floating-point ones."""
        floats = [found for found in self.read(octets).leaves if jnp.issubdtype(found.dtype, jnp.inexact)]
        return all(np.isfinite(found).all() for found in floats)


def pack_rows(messages: Held, rows: Iterable[int]) -> list[bytes]:
    """The payloads of messages, each a row of all arrays."""
    leaves = [np.asarray(leaf) for leaf in messages.leaves]
    return [pack([leaf[row] for leaf in leaves]) for row in rows]
