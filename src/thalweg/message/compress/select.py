"""Which numbers of a vector are the largest, exactly, in a few passes over it.

A sort, or `jax.lax.top_k`, of 10^7 numbers takes tens of times as long as reading them. A sample gives a bound that somewhat more
than k numbers exceed; only these are looked at closely. Where the sample misleads (many equal numbers), the bound is found bit by
bit instead: always the same answer.

Axes: `d` numbers, `k` chosen ones.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .bits import WORD, count, first_set, nth_set, words

SAMPLE = 2**15


def largest(vector: Float[Array, " d"], k: int) -> Int[Array, " k"]:
    """`[k]` positions of the entries of largest magnitude, ascending; of equal ones the first. NaN counts as largest."""
    d = vector.shape[0]
    if k >= d:
        return jnp.arange(d, dtype=jnp.int32)
    size = magnitude(vector)
    sample = size[:: max(1, d // SAMPLE)]
    expected = k * sample.shape[0] / d
    rank = math.ceil(expected + 4 * math.sqrt(expected) + 8)
    room = math.ceil(d / sample.shape[0] * (expected + 8 * math.sqrt(expected) + 16))
    if d <= 2 * SAMPLE or room >= d // 2:
        return _largest(size, k, jnp.asarray(True))
    above = words(size >= _bisected(sample, rank, jnp.asarray(True)))
    found = count(above)
    enough = (found >= k) & (found <= room)

    def of_few():
        places = first_set(above, room)
        few = jnp.where(places < d, size[jnp.minimum(places, d - 1)], 0)
        return places[_largest(few, k, jnp.asarray(True))]

    return jax.lax.cond(enough, of_few, lambda: _largest(size, k, ~enough))


def _largest(size: Array, k: int, wanted: Bool[Array, ""]) -> Int[Array, " k"]:
    """`[k]` positions of the largest of `size`; anything where it is not wanted."""
    bound = _bisected(size, k, wanted)
    above, equal = words(size > bound), words(size == bound)
    last = nth_set(equal, (k - count(above) - 1)[None])
    before = jnp.arange(above.shape[0], dtype=jnp.int32) * WORD
    reach = jnp.clip(last - before + 1, 0, WORD).astype(jnp.uint32)
    kept = jnp.where(reach == WORD, jnp.uint32(0xFFFFFFFF), (jnp.uint32(1) << reach) - jnp.uint32(1))
    return first_set(above | (equal & kept), k)


def magnitude(numbers: Float[Array, "..."]) -> Array:
    """`[...]` whole numbers in the order of the magnitudes: a float's bits without its sign."""
    bits = 8 * numbers.dtype.itemsize
    kind = jnp.dtype(f"uint{bits}")
    return jax.lax.bitcast_convert_type(numbers, kind) & jnp.asarray(2 ** (bits - 1) - 1, kind)


def _bisected(size: Array, k: int, wanted: Bool[Array, ""]) -> Array:
    """The largest bound that at least k of `size` reach, bit by bit; 0 at once where it is not wanted.

    Under `vmap` both branches of a `cond` are done, but this loop ends at once if nobody wants it.
    """
    top = 8 * np.dtype(size.dtype).itemsize - 2

    def on(carry):
        return (carry[1] >= 0) & wanted

    def step(carry):
        bound, bit = carry
        higher = bound | (jnp.ones((), size.dtype) << bit.astype(size.dtype))
        return jnp.where(count(words(size >= higher)) >= k, higher, bound), bit - 1

    return jax.lax.while_loop(on, step, (jnp.zeros((), size.dtype), jnp.asarray(top, jnp.int32)))[0]
