"""Powers of two."""

import jax
import jax.numpy as jnp

from thalweg.message.flow import Flow

from .base import Compressor, compressed
from .bits import pack_bits, unpack_bits
from .randomness import bits, seed_of

MANTISSA = 23


class Natural(Compressor):
    """Every entry is rounded at random to one of the two powers of two around it: its sign and its exponent travel, 9 bits.

        C(m)_i = sign(m_i)·2^e with probability 2 − |m_i|/2^e, else sign(m_i)·2^(e+1),    e = ⌊log₂|m_i|⌋

    Unbiased, ω = 1/8, attained at |m_i| = 4/3·2^e. A random mantissa is added to a number in single precision, and what does not
    carry into the exponent is dropped. Values of double precision are rounded to single precision first, those beyond its range
    become infinite.

    Samuel Horváth et al., *Natural compression for distributed deep learning*, MSML 2022 (arXiv 1905.10988, 2019).
    """

    def after(self, flow: Flow) -> Flow:
        return compressed("natural", flow, unbiased=flow.unbiased, norm=None, norm_1=None, packed=True)

    def pack(self, vector, key):
        number = jax.lax.bitcast_convert_type(vector.astype(jnp.float32), jnp.uint32)
        mantissa = bits(seed_of(key), vector.shape[0]) >> (32 - MANTISSA)
        exponent = ((number & jnp.uint32(0x7FFFFFFF)) + mantissa) >> MANTISSA
        return {"exponents": exponent.astype(jnp.uint8), "signs": pack_bits(number >> 31, 1)}

    def unpack(self, packed, like):
        sign = unpack_bits(packed["signs"], 1, like.shape[0]) << 31
        number = sign | (packed["exponents"].astype(jnp.uint32) << MANTISSA)
        return jax.lax.bitcast_convert_type(number, jnp.float32).astype(like.dtype)

    def variance(self, spec) -> float:
        """1/8."""
        return 0.125

    def contraction(self, spec) -> float:
        """7/8."""
        return 0.875


def natural() -> Natural:
    """Send signs and exponents, rounded at random to powers of two."""
    return Natural()
