"""k of d positions in about k·(2 + log₂(d/k)) bits: Elias-Fano.

The lower ⌊log₂(d/k)⌋ bits of each position are written as they are; the upper ones, which ascend, as the places of k ones among
at most 2k + 1 zeros. Where more than a quarter of the positions are meant, one bit for each of the d is shorter. The size is
fixed, and within a bit per position of the entropy log₂ C(d, k).

Peter Elias, *Efficient storage and retrieval by content and address of static files*, Journal of the ACM 21, 1974; Robert Fano,
*On the number of bits required to implement an associative memory*, MIT Project MAC memorandum 61, 1971.
"""

import jax.numpy as jnp
from jaxtyping import Array, Int

from .bits import first_set, pack_bits, unpack_bits, words


def pack_positions(positions: Int[Array, " k"], d: int) -> dict[str, Array]:
    """The wire of `positions`, ascending and below d."""
    k = positions.shape[0]
    width, length = _shape(k, d)
    place = (positions >> width) + jnp.arange(k, dtype=jnp.int32) if width else positions
    upper = jnp.zeros(length, bool).at[place].set(True, indices_are_sorted=True, unique_indices=True)
    return {"lower": pack_bits(positions & (2**width - 1), width), "upper": words(upper)}


def unpack_positions(packed: dict[str, Array], k: int, d: int) -> Int[Array, " k"]:
    """Inverse of `pack_positions`."""
    width, _ = _shape(k, d)
    upper = first_set(packed["upper"], k)
    if not width:
        return upper
    upper = upper - jnp.arange(k, dtype=jnp.int32)
    return (upper << width) | unpack_bits(packed["lower"], width, k).astype(jnp.int32)


def _shape(k: int, d: int) -> tuple[int, int]:
    """(lower bits of each, length of the row of upper bits); without lower bits, that of a row of all positions."""
    if 4 * k > d:
        return 0, d
    width = (d // k).bit_length() - 1
    return width, k + ((d - 1) >> width)
