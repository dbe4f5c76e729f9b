"""QSGD: a norm, and a level for every entry."""

import math

import equinox as eqx
import jax.numpy as jnp

from thalweg.message.flow import Flow

from .base import Compressor, compressed
from .bits import pack_bits, unpack_bits
from .layout import Layout
from .quantise import rounded_up
from .randomness import seed_of, uniform


class QSGD(Compressor):
    """Every entry as one of 2s + 1 levels of the norm of the message, rounded at random.

        C(m)_i = ‖m‖₂/s · ⌊s m_i/‖m‖₂ + u_i⌋,    u_i uniform in (0, 1)

    Unbiased, with ω = d/(4s²) where √d ≤ 2s, and √d/s − 1 beyond: an entry at the fraction f of a level ‖m‖/s has variance
    (‖m‖/s)²f(1 − f), whose sum is largest for equal entries, f = s/√d if that is below ½. Theorem 3.2 of the paper has
    min(d/s², √d/s). Levels take ⌈log₂(2s + 1)⌉ bits each. Long messages have most entries at zero, which `entropy_bits` shows:
    then a coder of variable length, or `quantise` with its scale for every block, is better.

    Args:
        levels: s.

    Dan Alistarh et al., *QSGD: communication-efficient SGD via gradient quantization and encoding*, NeurIPS 2017.
    """

    levels: int = eqx.field(static=True)

    def __check_init__(self):
        if not isinstance(self.levels, int) or not 1 <= self.levels < 2**15:
            raise ValueError(f"qsgd: got levels={self.levels!r}, expected a whole number from 1 to 32767")

    def after(self, flow: Flow) -> Flow:
        return compressed("qsgd", flow, unbiased=flow.unbiased, norm=None, norm_1=None, packed=True)

    def pack(self, vector, key):
        most = jnp.max(jnp.abs(vector))  # the squares of large entries would overflow
        scaled = vector / jnp.where(most > 0, most, 1)
        norm = rounded_up(most * jnp.sqrt(jnp.sum(jnp.square(scaled))))
        inverse = jnp.where(norm > 0, self.levels / jnp.where(norm > 0, norm, 1).astype(vector.dtype), 0)
        noise = uniform(seed_of(key), vector.shape[0]).astype(vector.dtype)
        codes = jnp.clip(jnp.floor(vector * inverse + noise).astype(jnp.int32) + self.levels, 0, 2 * self.levels)
        return {"codes": pack_bits(codes, self._width), "norm": norm}

    def unpack(self, packed, like):
        codes = unpack_bits(packed["codes"], self._width, like.shape[0]).astype(jnp.int32) - self.levels
        return codes.astype(like.dtype) * (packed["norm"].astype(like.dtype) / self.levels)

    def variance(self, spec) -> float:
        """d/(4s²), or √d/s − 1 where √d > 2s."""
        root = math.sqrt(Layout.of(spec).size)
        return (root / self.levels) ** 2 / 4 if root <= 2 * self.levels else root / self.levels - 1

    def contraction(self, spec) -> float:
        """1 − ω."""
        return 1 - self.variance(spec)

    @property
    def _width(self) -> int:
        return (2 * self.levels).bit_length()


def qsgd(levels: int) -> QSGD:
    """Send every entry as one of 2·levels + 1 multiples of ‖message‖/levels, rounded at random."""
    return QSGD(levels)
