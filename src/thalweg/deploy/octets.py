"""Payloads inside compiled code: the bytes that `thalweg.message.payload.pack` writes, as arrays of uint8 (`b` bytes)."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from thalweg.message.payload import payload_bytes


def as_bytes(tree: Any) -> UInt8[Array, " b"]:
    """The payload of a message."""
    parts = [_bytes_of(leaf) for leaf in jax.tree.leaves(tree)]
    return jnp.concatenate(parts) if parts else jnp.zeros(0, jnp.uint8)


def from_bytes(row: UInt8[Array, " b"], like: Any) -> Any:
    """Inverse of `as_bytes`, for a message of these shapes and dtypes."""
    leaves, structure = jax.tree.flatten(like)
    found, offset = [], 0
    for leaf in leaves:
        size = payload_bytes(leaf)
        found.append(_read(row[offset : offset + size], jnp.dtype(leaf.dtype)).reshape(leaf.shape))
        offset += size
    return jax.tree.unflatten(structure, found)


def float_places(like: Any) -> Iterator[tuple[int, np.dtype, int]]:
    """(offset, dtype, count) of the floating-point arrays in the payload of such a message."""
    offset = 0
    for leaf in jax.tree.leaves(like):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            yield offset, np.dtype(leaf.dtype), math.prod(leaf.shape)
        offset += payload_bytes(leaf)


def finite(row: np.ndarray, places: Iterable[tuple[int, np.dtype, int]]) -> bool:
    """Whether a payload holds numbers only, at these places."""
    return all(np.isfinite(np.frombuffer(row, dtype, count, offset)).all() for offset, dtype, count in places)


def _bytes_of(leaf) -> UInt8[Array, " b"]:
    if leaf.dtype == bool:
        return leaf.astype(jnp.uint8).reshape(-1)
    return jax.lax.bitcast_convert_type(leaf, jnp.uint8).reshape(-1)


def _read(octets, dtype):
    if dtype.kind == "b":
        return octets != 0
    return jax.lax.bitcast_convert_type(octets if dtype.itemsize == 1 else octets.reshape(-1, dtype.itemsize), dtype)
