"""The wire format of a message, and its size before anything runs.

A message is a pytree of arrays whose structure, shapes and dtypes both ends know. On the wire it is the leaves in
tree order, little-endian and row-major, without padding. A fixed-size header in front carries the round, the epoch,
a sequence number and the stop flags; its bytes are counted apart from the payload.
"""

import math
from typing import Any

import jax
import numpy as np

# round (u4), epoch (u4), sequence (u4), stop flags (u1) and, for the distributed stop rule, the smallest and largest
# of PROJECTIONS digests of the estimate (f8 each): see engine/stop.py.
PROJECTIONS = 4
HEADER_BYTES = 4 + 4 + 4 + 1 + 2 * 8 * PROJECTIONS


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
    leaves, structure = jax.tree.flatten(like)
    arrays, offset = [], 0
    for leaf in leaves:
        dtype = np.dtype(leaf.dtype).newbyteorder("<")
        count = math.prod(leaf.shape)
        arrays.append(np.frombuffer(payload, dtype, count, offset).reshape(leaf.shape).astype(leaf.dtype))
        offset += count * dtype.itemsize
    return jax.tree.unflatten(structure, arrays)


def _little_endian(leaf) -> np.ndarray:
    array = np.asarray(leaf)
    return array.astype(array.dtype.newbyteorder("<"), copy=False)
