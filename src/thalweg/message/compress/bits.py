"""Small whole numbers side by side in bytes, and finding what stands in a row of bits.

Axes: `m` numbers, `b` bytes, `w` words of 32 bits.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt8, UInt32

from .layout import in_rows

WORD = 32


def pack_bits(codes: Array, width: int) -> UInt8[Array, " b"]:
    """`codes` `[m]`, each below 2^width, in ⌈m/p⌉·p·width/8 bytes, p = 8/gcd(8, width); width ≤ 24.

    The codes are cut into p planes. The first codes of all planes make one row of bits, lowest bits first, the second ones the
    next; on the wire the first bytes of all rows come first. So every step is a pass over contiguous memory.
    """
    if not width:
        return jnp.zeros(0, jnp.uint8)
    planes, size = _planes(width)
    rows = in_rows(codes, planes).reshape(planes, -1).astype(_kind(size))
    if size == 1:  # as a sum, what computes the codes is compiled once and not for every plane
        return jnp.sum(rows << (width * jnp.arange(planes, dtype=jnp.uint8))[:, None], axis=0, dtype=jnp.uint8)
    found = []
    for byte in range(size):
        members = range(8 * byte // width, -(-8 * (byte + 1) // width))
        parts = [_shifted(rows[i], i * width - 8 * byte) for i in members]
        found.append(functools.reduce(jnp.bitwise_or, parts).astype(jnp.uint8))
    return jnp.concatenate(found)


def unpack_bits(packed: UInt8[Array, " b"], width: int, m: int) -> UInt32[Array, " m"]:
    """Inverse of `pack_bits`."""
    if not width:
        return jnp.zeros(m, jnp.uint32)
    planes, size = _planes(width)
    rows, mask = packed.reshape(size, -1).astype(_kind(size)), _kind(size)(2**width - 1)
    found = []
    for i in range(planes):
        members = range(i * width // 8, -(-(i + 1) * width // 8))
        parts = [_shifted(rows[byte], 8 * byte - i * width) for byte in members]
        found.append(functools.reduce(jnp.bitwise_or, parts) & mask)
    return jnp.concatenate(found)[:m].astype(jnp.uint32)


def words(mask: Bool[Array, " m"]) -> UInt32[Array, " w"]:
    """The bits of `mask`, 32 to a word."""
    bits = in_rows(mask, WORD).astype(jnp.uint32)
    return jnp.sum(bits << jnp.arange(WORD, dtype=jnp.uint32)[None], axis=1, dtype=jnp.uint32)


def count(bits: UInt32[Array, " w"]) -> Int[Array, ""]:
    """How many bits are set."""
    return jnp.sum(jax.lax.population_count(bits), dtype=jnp.int32)


def first_set(bits: UInt32[Array, " w"], k: int) -> Int[Array, " k"]:
    """`[k]` positions of the first k set bits, ascending; beyond the last one, the position past the end."""
    return nth_set(bits, jnp.arange(k, dtype=jnp.int32))


def nth_set(bits: UInt32[Array, " w"], rank: Int[Array, " k"]) -> Int[Array, " k"]:
    """`[k]` positions of the set bits with these ranks, counted from 0."""
    each = jax.lax.population_count(bits).astype(jnp.int32)
    ends = jnp.cumsum(each)
    word = jnp.searchsorted(ends, rank, side="right").astype(jnp.int32)
    inside = jnp.minimum(word, bits.shape[0] - 1)
    rank = rank - (ends - each)[inside]
    value, place = bits[inside], jnp.zeros(rank.shape, jnp.uint32)
    for half in (16, 8, 4, 2, 1):
        below = jax.lax.population_count(value >> place & jnp.uint32(2**half - 1)).astype(jnp.int32)
        upper = rank >= below
        rank, place = rank - jnp.where(upper, below, 0), place + jnp.where(upper, jnp.uint32(half), jnp.uint32(0))
    return jnp.where(word < bits.shape[0], word * WORD + place.astype(jnp.int32), bits.shape[0] * WORD)


def _planes(width: int) -> tuple[int, int]:
    """(planes, bytes of a row)."""
    common = math.gcd(8, width)
    return 8 // common, width // common


def _kind(size: int):
    """Where a row is one byte all can be done in bytes, a quarter of the memory."""
    return jnp.uint8 if size == 1 else jnp.uint32


def _shifted(values: Array, left: int) -> Array:
    return values << left if left >= 0 else values >> -left
