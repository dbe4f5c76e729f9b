"""Payloads at the edge of compiled code: `thalweg.message.payload.pack` and its inverse, without a copy where memory allows.

Compiled code takes and gives arrays, never bytes: on the CPU, XLA puts each number together out of its octets.
"""

import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thalweg.message.payload import pack

from .compiled import Held, structure_of


class Layout:
    """Where the arrays of a message stand in its payload.

    Args:
        like: the message, or its shapes and dtypes.

    Attributes:
        size: bytes of a payload.
    """

    def __init__(self, like: Any):
        leaves, structure = jax.tree.flatten(like)
        self._structure, self._places, self.size = structure_of(structure), [], 0
        for leaf in leaves:
            dtype = np.dtype(leaf.dtype)
            end = self.size + math.prod(leaf.shape) * dtype.itemsize
            self._places.append((slice(self.size, end), dtype, tuple(leaf.shape)))
            self.size = end

    def read(self, octets: np.ndarray) -> Held:
        """The message in a payload `[b]`, or those in the rows of `[m, b]` with an axis of their own in front."""
        return Held([_array(octets[..., at], dtype, shape) for at, dtype, shape in self._places], self._structure)

    def finite(self, octets: np.ndarray) -> bool:
        """Whether a payload holds numbers only where it has floating-point ones."""
        floats = [place for place in self._places if jnp.issubdtype(place[1], jnp.inexact)]
        return all(np.isfinite(_array(octets[at], dtype, shape)).all() for at, dtype, shape in floats)


def pack_rows(messages: Held, rows: Iterable[int]) -> list[bytes]:
    """The payloads of messages, each a row of all arrays."""
    leaves = [np.asarray(leaf) for leaf in messages.leaves]
    return [pack([leaf[row] for leaf in leaves]) for row in rows]


def _array(octets: np.ndarray, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    if dtype.kind == "b":
        return (octets != 0).reshape(octets.shape[:-1] + shape)
    found = octets.view(dtype.newbyteorder("<")).reshape(octets.shape[:-1] + shape)
    return found.astype(dtype, copy=False)
