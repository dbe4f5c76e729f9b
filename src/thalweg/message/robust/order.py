"""Order statistics of every coordinate by itself, of those messages that arrived.

Sorting a matrix along one axis by comparisons of its entries takes a CPU a hundred times longer than reading it. Two ways that
are nothing but minima, maxima and sums of whole rows do not:

- a sorting network (Batcher's) over the rows, all of whose comparators are one pass over memory; for up to `NETWORK` rows;
- bisection on the bits of the answer, one count of the rows below per bit, over columns that fit into the cache.

Axes: `c` slots, `d` coordinates.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .base import TERMS

# Beyond as many rows a network takes seconds to compile, and XLA does not keep it in one pass.
NETWORK = 64
# Up to `TERMS` rows are counted by one compiled sum, more of them `ROWS` at a time; entries that are bisected at a time.
ROWS, BLOCK = 16, 2**18


def between(
    messages: Float[Array, "c d"], arrived: Bool[Array, " c"], low: Int[Array, ""], high: Int[Array, ""]
) -> Float[Array, " d"]:
    """The mean of the order statistics low ≤ i < high, counted from 0 among those that arrived; zero where there are none."""
    kept = jnp.maximum(high - low, 1).astype(messages.dtype)
    if len(messages) <= NETWORK:
        ranked = _sorted(_rows(messages, arrived))
        inside = [jnp.where((low <= i) & (i < high), row, 0) for i, row in enumerate(ranked)]
        return sum(inside[1:], inside[0]) / kept
    bounds = _bisected(messages, arrived, jnp.stack([low, jnp.maximum(high - 1, low)]))
    # Σ of the kept, from all of them cut to [first, last]: no outlier enters a sum that could round it away.
    first, last = bounds
    cut = jnp.where(arrived[:, None], jnp.clip(messages, first[None], last[None]), 0)
    outside = jnp.sum(arrived) - high
    total = jnp.sum(cut, axis=0) - low.astype(first.dtype) * first - outside.astype(first.dtype) * last
    return jnp.where(high > low, total / kept, 0)


def nth(messages: Float[Array, "c d"], arrived: Bool[Array, " c"], rank: Int[Array, ""]) -> Float[Array, " d"]:
    """The entry of this rank, counted from 0 among those that arrived; infinite beyond."""
    if len(messages) > NETWORK:
        return _bisected(messages, arrived, rank[None])[0]
    chosen = jnp.full_like(messages[0], jnp.inf)
    for i, row in enumerate(_sorted(_rows(messages, arrived))):
        chosen = jnp.where(rank == i, row, chosen)
    return chosen


def median(messages: Float[Array, "c d"], arrived: Bool[Array, " c"]) -> Float[Array, " d"]:
    """The middle one of those that arrived, or the mean of the two in the middle."""
    m = jnp.sum(arrived, dtype=jnp.int32)
    return between(messages, arrived, jnp.maximum(m - 1, 0) // 2, jnp.minimum(m // 2 + 1, m))


def nearest_sum(
    values: Float[Array, "c d"], distances: Float[Array, "c d"], arrived: Bool[Array, " c"], count: Int[Array, ""]
) -> Float[Array, " d"]:
    """Of every column the sum of the `count` values whose distances are least; equal ones at the edge share their places."""
    edge = nth(distances, arrived, jnp.maximum(count - 1, 0))
    weights = shares(distances, edge, arrived, count)
    return jnp.sum(jnp.where(weights > 0, weights * values, 0), axis=0)


def shares(distances: Float[Array, "c d"], edge: Float[Array, " d"], arrived: Bool[Array, " c"], count) -> Float[Array, "c d"]:
    """Column by column, one for each of the `count` least distances, whose largest is `edge`; equal ones there share."""
    below = arrived[:, None] & (distances < edge[None])
    level = arrived[:, None] & (distances == edge[None])
    room = jnp.maximum(count - jnp.sum(below, axis=0), 0)
    part = room.astype(distances.dtype) / jnp.maximum(jnp.sum(level, axis=0), 1)
    return below + level * part[None]


def _rows(messages, arrived):
    filled = jnp.where(arrived[:, None], messages, jnp.inf)
    return [filled[i] for i in range(len(messages))]


def _sorted(rows: list) -> list:
    """The rows of which the first has the least entry of every coordinate, and so on."""
    for i, j in comparators(len(rows)):
        a, b = rows[i], rows[j]
        ordered = a <= b  # there is no NaN, of which a minimum would have to think
        rows[i], rows[j] = jnp.where(ordered, a, b), jnp.where(ordered, b, a)
    return rows


@functools.cache
def comparators(n: int) -> tuple[tuple[int, int], ...]:
    """Batcher's odd-even merging network for n values: pairs (i, j), i < j, whose lesser value goes to i.

    Kenneth E. Batcher, *Sorting networks and their applications*, AFIPS 1968.
    """
    found, p = [], 1
    while p < n:
        k = p
        while k >= 1:
            for j in range(k % p, n - k, 2 * k):
                for i in range(j, j + min(k, n - j - k)):
                    if i // (2 * p) == (i + k) // (2 * p):
                        found.append((i, i + k))
            k //= 2
        p *= 2
    return tuple(found)


def _bisected(messages, arrived, ranks) -> Float[Array, "r d"]:
    """The entries of these ranks, `[r, d]`, a few columns at a time."""
    c, d = messages.shape
    width = min(max(1, BLOCK // c), d)
    count = -(-d // width)

    def columns(i, found):
        start = jnp.minimum(i * width, d - width)  # the last ones may be done twice
        block = jax.lax.dynamic_slice(messages, (0, start), (c, width))
        block = jnp.where(arrived[:, None], block, jnp.inf)
        return jax.lax.dynamic_update_slice(found, _by_bits(block, ranks), (0, start))

    return jax.lax.fori_loop(0, count, columns, jnp.zeros((len(ranks), d), messages.dtype))


def _by_bits(block, ranks):
    """The least number with more than `rank` entries at or below it, bit by bit."""
    together = len(block) if len(block) <= TERMS else ROWS
    groups = -(-len(block) // together)
    padded = jnp.pad(block, ((0, groups * together - len(block)), (0, 0)), constant_values=jnp.inf)
    padded = padded.reshape(together, groups, -1)
    whole = {2: jnp.int16, 4: jnp.int32, 8: jnp.int64}[block.dtype.itemsize]
    steps = 8 * block.dtype.itemsize
    flip = jnp.iinfo(whole).max

    def number(place):  # integers in the order of the numbers they stand for
        return jax.lax.bitcast_convert_type(jnp.where(place < 0, place ^ flip, place), block.dtype)

    def below(threshold):
        each = [(padded[r] <= threshold[None]).astype(jnp.int32) for r in range(together)]
        return jnp.sum(sum(each[1:], each[0]), axis=0)

    def step(_, interval):
        low, high = interval
        middle = (low & high) + ((low ^ high) >> 1)
        counts = jnp.stack([below(threshold) for threshold in number(middle)])
        enough = counts > ranks[:, None]
        return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

    shape = (len(ranks), block.shape[1])
    infinity = jax.lax.bitcast_convert_type(jnp.asarray(jnp.inf, block.dtype), whole)
    least = jax.lax.bitcast_convert_type(jnp.asarray(-jnp.inf, block.dtype), whole) ^ flip
    found = number(jax.lax.fori_loop(0, steps, step, (jnp.full(shape, least), jnp.full(shape, infinity)))[1])
    return jnp.where(jnp.abs(found) < jnp.finfo(block.dtype).tiny, 0, found)  # processors take what is smaller for zero
