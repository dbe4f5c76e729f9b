"""The largest entries of a message."""

import math

import equinox as eqx
import jax.numpy as jnp

from thalweg.message.flow import Flow

from .base import Compressor, checked_fraction, compressed
from .layout import Layout
from .positions import pack_positions, unpack_positions
from .select import largest


class TopK(Compressor):
    """The k = ⌈fraction·d⌉ entries of largest magnitude, as they are; the others are zero.

        C(m)_i = m_i  if |m_i| is among the k largest, else 0;    ‖C(m) − m‖² ≤ (1 − k/d)‖m‖²

    with equality where all entries have one magnitude. Biased: without `error_feedback` what is small is never sent. Positions
    take about 2 + log₂(d/k) bits each (Elias-Fano): at one entry in a hundred, 8.7 and not 32. Another stage behind it, as in
    `chain(top_k(0.01), quantise(8))`, acts on the values that are sent.

    Args:
        fraction: in (0, 1].

    Dan Alistarh et al., *The convergence of sparsified gradient methods*, NeurIPS 2018; Sebastian Stich, Jean-Baptiste
    Cordonnier, Martin Jaggi, *Sparsified SGD with memory*, NeurIPS 2018.
    """

    fraction: float = eqx.field(static=True)

    def __check_init__(self):
        checked_fraction("top_k", self.fraction)

    def after(self, flow: Flow) -> Flow:
        return compressed("top_k", flow)

    def pack(self, vector, key):
        places = largest(vector, kept(self.fraction, vector.shape[0]))
        return {"values": vector[places], **pack_positions(places, vector.shape[0])}

    def unpack(self, packed, like):
        (d,) = like.shape
        places = unpack_positions(packed, packed["values"].shape[0], d)
        return spread(packed["values"], places, like)

    @property
    def projects(self) -> bool:
        """It sends entries as they are."""
        return True

    def contraction(self, spec) -> float:
        """k/d."""
        d = Layout.of(spec).size
        return kept(self.fraction, d) / d if d else 1.0


def kept(fraction: float, d: int) -> int:
    """⌈fraction·d⌉, rounding forgiven."""
    return min(d, max(1, math.ceil(fraction * d - 1e-9)))


def spread(values, places, like):
    """`like`, with `values` at ascending `places` and zeros elsewhere."""
    zeros = jnp.zeros(like.shape, like.dtype)
    return zeros.at[places].set(values.astype(like.dtype), indices_are_sorted=True, unique_indices=True)


def top_k(fraction: float) -> TopK:
    """Send the part `fraction` of the entries that is largest in magnitude."""
    return TopK(fraction)
