"""One bit for every entry."""

import jax.numpy as jnp

from thalweg.message.flow import Flow

from .base import Compressor, compressed
from .bits import pack_bits, unpack_bits
from .layout import Layout


class Sign(Compressor):
    """The signs, and the mean magnitude.

        C(m)_i = ± ‖m‖₁/d,    the sign that of m_i;    ‖C(m) − m‖² = ‖m‖² − ‖m‖₁²/d ≤ (1 − 1/d)‖m‖²

    with equality where one entry alone is not zero; if all have one magnitude nothing is lost. Biased. One bit per entry, and 4
    bytes.

    Sai Praneeth Karimireddy, Quentin Rebjock, Sebastian Stich, Martin Jaggi, *Error feedback fixes SignSGD and other gradient
    compression schemes*, ICML 2019.
    """

    def after(self, flow: Flow) -> Flow:
        # ‖C(m)‖₂ = ‖m‖₁/√d ≤ ‖m‖₂ and ‖C(m)‖₁ = ‖m‖₁: bounds stay, up to the rounding of the scale.
        return compressed("sign", flow, norm=None, norm_1=None, packed=True)

    def pack(self, vector, key):
        # Not-a-number in a message is seen in its scale.
        return {"signs": pack_bits(~(vector < 0), 1), "scale": jnp.mean(jnp.abs(vector)).astype(jnp.float32)}

    def unpack(self, packed, like):
        signs = unpack_bits(packed["signs"], 1, like.shape[0])
        scale = packed["scale"].astype(like.dtype)
        return jnp.where(signs == 1, scale, -scale)

    def contraction(self, spec) -> float:
        """1/d."""
        return 1 / max(1, Layout.of(spec).size)


def sign() -> Sign:
    """Send signs, one bit each, and the mean magnitude."""
    return Sign()
