"""Small whole numbers side by side in bytes, and finding what stands in a row of bits.

Axes: `m` numbers, `b` bytes, `w` words of 32 bits.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt8, UInt32

WORD = 32


def pack_bits(codes: Array, width: int) -> UInt8[Array, " b"]:
    """`codes` `[m]`, each below 2^width, in ⌈m·width/8⌉ bytes, the lowest bits first; width ≤ 24.

    Eight numbers fill `width` bytes. Bits never overlap, so that a sum, which XLA vectorises, stands for the or of them.
    """
    m = codes.shape[0]
    groups = _rows(codes, 8)
    columns = []
    for byte in range(width):
        members = range(8 * byte // width, min(8, -(-8 * (byte + 1) // width)))
        shifts = [i * width - 8 * byte for i in members]
        part = groups[:, members.start : members.stop].astype(jnp.uint32)
        left = jnp.asarray([[max(s, 0) for s in shifts]], jnp.uint32)
        right = jnp.asarray([[max(-s, 0) for s in shifts]], jnp.uint32)
        columns.append((jnp.sum(part << left >> right, axis=1, dtype=jnp.uint32) & 255).astype(jnp.uint8))
    return jnp.stack(columns, axis=1).reshape(-1)[: -(-m * width // 8)] if width else jnp.zeros(0, jnp.uint8)


def unpack_bits(packed: UInt8[Array, " b"], width: int, m: int) -> UInt32[Array, " m"]:
    """Inverse of `pack_bits`."""
    if not width:
        return jnp.zeros(m, jnp.uint32)
    mask = jnp.uint32(2**width - 1)
    if 8 % width == 0:
        shifts = jnp.arange(0, 8, width, dtype=jnp.uint32)
        return (packed[:, None].astype(jnp.uint32) >> shifts[None] & mask).reshape(-1)[:m]
    groups = _rows(packed, width)
    columns = []
    for i in range(8):
        members = range(i * width // 8, -(-(i + 1) * width // 8))
        shifts = [8 * byte - i * width for byte in members]
        part = groups[:, members.start : members.stop].astype(jnp.uint32)
        left = jnp.asarray([[max(s, 0) for s in shifts]], jnp.uint32)
        right = jnp.asarray([[max(-s, 0) for s in shifts]], jnp.uint32)
        columns.append(jnp.sum(part << left >> right, axis=1, dtype=jnp.uint32) & mask)
    return jnp.stack(columns, axis=1).reshape(-1)[:m]


def words(mask: Bool[Array, " m"]) -> UInt32[Array, " w"]:
    """The bits of `mask`, 32 to a word."""
    bits = _rows(mask, WORD).astype(jnp.uint32)
    return jnp.sum(bits << jnp.arange(WORD, dtype=jnp.uint32)[None], axis=1, dtype=jnp.uint32)


def count(bits: UInt32[Array, " w"]) -> Int[Array, ""]:
    """How many bits are set."""
    return jnp.sum(jax.lax.population_count(bits), dtype=jnp.int32)


def first_set(bits: UInt32[Array, " w"], k: int) -> Int[Array, " k"]:
    """`[k]` positions of the first k set bits, ascending; beyond the last one, some position at or past the end."""
    each = jax.lax.population_count(bits).astype(jnp.int32)
    ends = jnp.cumsum(each)
    rank = jnp.arange(k, dtype=jnp.int32)
    word = jnp.searchsorted(ends, rank, side="right").astype(jnp.int32)
    inside = jnp.minimum(word, bits.shape[0] - 1)
    rank = rank - (ends - each)[inside]
    value, place = bits[inside], jnp.zeros(k, jnp.uint32)
    for half in (16, 8, 4, 2, 1):
        below = jax.lax.population_count(value >> place & jnp.uint32(2**half - 1)).astype(jnp.int32)
        upper = rank >= below
        rank, place = rank - jnp.where(upper, below, 0), place + jnp.where(upper, jnp.uint32(half), jnp.uint32(0))
    return jnp.where(word < bits.shape[0], word * WORD + place.astype(jnp.int32), bits.shape[0] * WORD)


def _rows(values: Array, width: int) -> Array:
    return jnp.pad(values, (0, -values.shape[0] % width)).reshape(-1, width)
