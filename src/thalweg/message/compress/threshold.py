"""Entries that are not small beside the largest one."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from thalweg.message.flow import Flow

from .base import Compressor, checked_fraction, compressed
from .layout import Layout
from .positions import pack_positions, unpack_positions
from .select import largest
from .top_k import kept, spread


class Threshold(Compressor):
    """Entries of at least `level` times the largest magnitude, at most the part `at_most` of all; the others are zero.

        C(m)_i = m_i  if |m_i| ≥ level·max_j |m_j|, else 0;    ‖C(m) − m‖² ≤ (1 − 1/d)‖m‖²

    How many these are differs from message to message. Encodings have a fixed size: there is room for ⌈at_most·d⌉, the largest
    if more reach the level, and room that is not used holds zeros; `wire["packed"]["count"]` says how much is, and
    `entropy_bits(wire)` what a coder of variable length would make of it.

    Args:
        level: in (0, 1].
        at_most: in (0, 1].

    Nikko Strom, *Scalable distributed DNN training using commodity GPU cloud computing*, Interspeech 2015 (a fixed level).
    """

    level: float | Float[Array, ""]
    at_most: float = eqx.field(static=True)

    def __check_init__(self):
        checked_fraction("threshold at_most", self.at_most)
        if isinstance(self.level, float) and not 0 < self.level <= 1:
            raise ValueError(
                f"threshold: got level {self.level!r}, expected a number in (0, 1], a part of the largest magnitude"
            )

    def after(self, flow: Flow) -> Flow:
        return compressed("threshold", flow)

    def pack(self, vector, key):
        places = largest(vector, kept(self.at_most, vector.shape[0]))
        values = vector[places]
        bound = jnp.asarray(self.level, vector.dtype) * jnp.max(jnp.abs(values))
        reaching = ~(jnp.abs(values) < bound)
        return {
            "values": jnp.where(reaching, values, 0),
            "count": jnp.sum(reaching, dtype=jnp.uint32),
            **pack_positions(places, vector.shape[0]),
        }

    def unpack(self, packed, like):
        places = unpack_positions(packed, packed["values"].shape[0], like.shape[0])
        return spread(packed["values"], places, like)

    @property
    def projects(self) -> bool:
        """It sends entries as they are."""
        return True

    def contraction(self, spec) -> float:
        """1/d: the largest entry is sent."""
        return 1 / max(1, Layout.of(spec).size)


def threshold(level: float, at_most: float) -> Threshold:
    """Send entries of at least `level` times the largest magnitude, at most the part `at_most` of all."""
    return Threshold(level, at_most)
