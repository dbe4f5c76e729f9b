"""Random numbers for rounding, and the choice of coordinates that two ends make alike from one seed of 8 bytes.

Threefry draws 10^7 numbers in a quarter of a second, ten times what rounding them takes. Rounding needs no more than numbers
without visible structure: a hash of the position, with the seed in it. Nothing secret may rest on them.

Axes: `m` numbers.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt32

ROUNDS = 8


def seed_of(key: PRNGKeyArray) -> UInt32[Array, " 2"]:
    """Eight bytes, which may travel."""
    return jax.random.bits(key, (2,), jnp.uint32)


def hashed(seed: UInt32[Array, " 2"], values: UInt32[Array, " m"]) -> UInt32[Array, " m"]:
    """Each value mixed with the seed, twice by the bijection of Wellons and Winkler (*lowbias32*)."""
    for part in (seed[0], seed[1]):
        values = (values ^ part) + part * jnp.uint32(0x9E3779B9)
        values = (values ^ (values >> 16)) * jnp.uint32(0x21F0AAAD)
        values = (values ^ (values >> 15)) * jnp.uint32(0xD35A2D97)
        values = values ^ (values >> 15)
    return values


def bits(seed: UInt32[Array, " 2"], m: int) -> UInt32[Array, " m"]:
    """`[m]` words of random bits."""
    return hashed(seed, jax.lax.iota(jnp.uint32, m))


def uniform(seed: UInt32[Array, " 2"], m: int) -> Float[Array, " m"]:
    """`[m]` numbers in (0, 1), 2^23 of them, evenly spaced, exact in single precision."""
    return fractions(bits(seed, m))


def fractions(bits: UInt32[Array, "..."]) -> Float[Array, "..."]:
    """Numbers in (0, 1) from the upper 23 bits of each word; by way of signed numbers, which processors convert faster."""
    return ((bits >> 9).astype(jnp.int32).astype(jnp.float32) + 0.5) * jnp.float32(2.0**-23)


def chosen(seed: UInt32[Array, " 2"], k: int, d: int) -> Int[Array, " k"]:
    """`[k]` different positions below d, in O(k): the first k of a keyed permutation of d.

    A Feistel network permutes the numbers of an even number of bits; what falls at or above d is sent on until it falls below
    (cycle walking): at most four steps on average.

    John Black, Phillip Rogaway, *Ciphers with arbitrary finite domains*, CT-RSA 2002.
    """
    half = max(1, -(-(d - 1).bit_length() // 2))
    low = jnp.uint32(2**half - 1)
    keys = hashed(seed, jax.lax.iota(jnp.uint32, 2 * ROUNDS) + jnp.uint32(0x5851F42D)).reshape(ROUNDS, 2)

    def permuted(values):
        left, right = values >> half, values & low
        for i in range(ROUNDS):
            left, right = right, left ^ (hashed(keys[i], right) >> (32 - half))
        return (left << half) | right

    def walk(values):
        return jnp.where(values < d, values, permuted(values))

    start = permuted(jax.lax.iota(jnp.uint32, k))
    return jax.lax.while_loop(lambda values: jnp.any(values >= d), walk, start).astype(jnp.int32)
