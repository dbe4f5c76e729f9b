"""The wire format of a message, and its size before anything runs.

A message is a pytree of arrays whose structure, shapes and dtypes both ends know. On the wire it is the leaves in
tree order, little-endian and row-major, without padding. A fixed-size header in front carries the round, the epoch,
a sequence number and the stop flags; its bytes are counted apart from the payload.
"""

import itertools
import math
import sys
from typing import Any

import jax
import numpy as np

# round (u4), epoch (u4), sequence (u4), stop flags (u1) and, for the distributed stop rule, the smallest and largest
# of PROJECTIONS digests of the estimate (f8 each): see engine/stop.py.
PROJECTIONS = 4
HEADER_BYTES = 4 + 4 + 4 + 1 + 2 * 8 * PROJECTIONS
_LITTLE = sys.byteorder == "little"


def payload_bytes(message: Any) -> int:
    """Bytes of one message, from shapes alone (arrays or `jax.ShapeDtypeStruct`)."""
    return sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(message))


def pack(message: Any) -> bytes:
    """The payload of one message."""
    return b"".join(_little_endian(leaf).tobytes() for leaf in jax.tree.leaves(message))


def unpack(payload: bytes, like: Any) -> Any:
    """Inverse of `pack`, for a message of the structure, shapes and dtypes of `like`.

    Raises:
        ValueError: the payload has another length than such a message.
    """
    expected = payload_bytes(like)
    if len(payload) != expected:
        raise ValueError(f"got a payload of {len(payload)} bytes, expected {expected} for a message of this shape")
    octets = np.frombuffer(payload, np.uint8)
    return jax.tree.map(lambda leaf, at: array_of(octets[at], leaf.dtype, leaf.shape).copy(), like, places(like))


def places(like: Any) -> Any:
    """Where the arrays of such a message stand in its payload: a tree of slices."""
    leaves, structure = jax.tree.flatten(like)
    ends = list(itertools.accumulate([payload_bytes(leaf) for leaf in leaves], initial=0))
    return jax.tree.unflatten(structure, [slice(*pair) for pair in itertools.pairwise(ends)])


def array_of(octets: np.ndarray, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    """An array from its bytes `[b]`, or several from `[m, b]`, stacked; a view of them where memory allows."""
    dtype, shape = np.dtype(dtype), octets.shape[:-1] + tuple(shape)
    if dtype.kind == "b":
        return (octets != 0).reshape(shape)
    found = octets.view(dtype).reshape(shape)
    return found if _LITTLE else found.byteswap()


def _little_endian(leaf) -> np.ndarray:
    array = np.asarray(leaf)
    if _LITTLE and array.dtype.isnative:
        return array
    return array.astype(array.dtype.newbyteorder("<"), copy=False)
