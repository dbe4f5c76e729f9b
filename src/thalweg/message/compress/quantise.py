"""Few bits for every entry, with a scale for every block."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp

from thalweg.message.flow import Flow

from .base import Compressor, compressed
from .bits import pack_bits, unpack_bits
from .layout import Layout, in_rows
from .randomness import seed_of, uniform
from .select import magnitude

LANES = 16


class Quantise(Compressor):
    """Every entry as a whole number of `bits` bits, rounded at random; the largest of each block has the largest number.

        C(m)_i = s ⌊m_i/s + u_i⌋,    s = max_{j in the block of i} |m_j| / L,    L = 2^(bits−1) − 1,    u_i uniform in (0, 1)

    Unbiased. With blocks of B entries ω = ½(√(1 + (B − 1)/L²) − 1), which a block with one large entry among equal ones of the
    worst size attains: an entry at the fraction f of a level has variance s²f(1 − f), and the ratio
    (B − 1) f(1 − f) / (L² + (B − 1)f²) is largest at f = √(a² + a) − a, a = L²/(B − 1).

    Numbers of 4 bits are packed two to a byte, of 2 bits four; each block adds a scale of 4 bytes, rounded up, and values beyond
    single precision become infinite.

    Args:
        bits: 8, 4 or 2.
        block: B.

    Dan Alistarh et al., *QSGD: communication-efficient SGD via gradient quantization and encoding*, NeurIPS 2017 (buckets,
    scaled by their largest entry).
    """

    bits: int = eqx.field(static=True, default=8)
    block: int = eqx.field(static=True, default=256)

    def __check_init__(self):
        if self.bits not in (2, 4, 8):
            raise ValueError(f"quantise: got bits={self.bits!r}, expected 8, 4 or 2")
        if not isinstance(self.block, int) or self.block < 1:
            raise ValueError(f"quantise: got block={self.block!r}, expected a whole number ≥ 1, the entries that share a scale")

    @property
    def levels(self) -> int:
        """L."""
        return 2 ** (self.bits - 1) - 1

    def after(self, flow: Flow) -> Flow:
        return compressed("quantise", flow, unbiased=flow.unbiased, norm=None, norm_1=None, packed=True)

    def pack(self, vector, key):
        (d,) = vector.shape
        rows = in_rows(vector, self.block)
        scale = rounded_up(largest_of_rows(rows) / self.levels)
        inverse = jnp.where(scale > 0, 1 / jnp.where(scale > 0, scale, 1).astype(vector.dtype), 0)
        # One for each entry, not rows of entries: the message is read where it lies, and not copied to be filled up.
        each = jnp.broadcast_to(inverse[:, None], rows.shape).reshape(-1)[:d]
        codes = jnp.floor(vector * each + uniform(seed_of(key), d).astype(vector.dtype)).astype(jnp.int32) + self.levels
        codes = jnp.clip(codes, 0, 2 * self.levels).astype(jnp.uint8)
        return {"codes": codes if self.bits == 8 else pack_bits(codes, self.bits), "scale": scale}

    def unpack(self, packed, like):
        (d,) = like.shape
        codes = packed["codes"] if self.bits == 8 else unpack_bits(packed["codes"], self.bits, d)
        codes = in_rows(codes.astype(jnp.int32) - self.levels, self.block)
        return (codes.astype(like.dtype) * packed["scale"][:, None].astype(like.dtype)).reshape(-1)[:d]

    def variance(self, spec) -> float:
        """½(√(1 + (B − 1)/L²) − 1), B at most d."""
        size = min(self.block, Layout.of(spec).size)
        return 0.5 * (math.sqrt(1 + max(0, size - 1) / self.levels**2) - 1)

    def contraction(self, spec) -> float:
        """1 − ω."""
        return 1 - self.variance(spec)


def largest_of_rows(rows):
    """The largest magnitude of every row; NaN counts as largest.

    Bits of floats without their signs are compared, as whole numbers, first along an axis that is not the last and then, in a
    step of its own, along the last: half the time of `jnp.max(jnp.abs(rows), axis=1)` on CPU.
    """
    lanes = math.gcd(rows.shape[1], LANES)
    most = jnp.max(magnitude(rows).reshape(rows.shape[0], -1, lanes), axis=1)
    return jax.lax.bitcast_convert_type(jnp.max(jax.lax.optimization_barrier(most), axis=1), rows.dtype)


def rounded_up(scale):
    """`scale` in single precision and not below it, so that no entry exceeds its largest level."""
    single = scale.astype(jnp.float32)
    return jnp.where(single.astype(scale.dtype) < scale, jnp.nextafter(single, jnp.float32(jnp.inf)), single)


def quantise(bits: int = 8, block: int = 256) -> Quantise:
    """Send every entry with 8, 4 or 2 bits, rounded at random, and a scale for every `block` of them."""
    return Quantise(bits, block)
