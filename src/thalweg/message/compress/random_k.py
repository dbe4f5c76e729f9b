"""Random entries of a message."""

import equinox as eqx
import jax.numpy as jnp

from thalweg.message.flow import Flow

from .base import Compressor, checked_fraction, compressed, norms
from .layout import Layout
from .randomness import chosen, seed_of
from .top_k import kept


class RandomK(Compressor):
    """k = ⌈fraction·d⌉ entries, chosen at random; a seed of 8 bytes travels in place of their positions.

        C(m)_i = (d/k) m_i  if i was chosen, else 0       unbiased, ω = d/k − 1
        C(m)_i = m_i        if i was chosen, else 0       with scale = False: E‖C(m) − m‖² = (1 − k/d)‖m‖²

    Args:
        fraction: in (0, 1].
        scale: multiply by d/k. Under `error_feedback` leave it out: it lengthens messages, and the memory would grow.

    Jakub Konečný et al., *Federated learning: strategies for improving communication efficiency*, arXiv 1610.05492, 2016;
    Sebastian Stich, Jean-Baptiste Cordonnier, Martin Jaggi, *Sparsified SGD with memory*, NeurIPS 2018.
    """

    fraction: float = eqx.field(static=True)
    scale: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        checked_fraction("random_k", self.fraction)

    def after(self, flow: Flow) -> Flow:
        if not self.scale:
            return compressed("random_k", flow)
        return compressed("random_k", flow, unbiased=flow.unbiased, **norms(flow, 1 / self.fraction))

    def pack(self, vector, key):
        (d,), seed = vector.shape, seed_of(key)
        k = kept(self.fraction, d)
        values = vector[chosen(seed, k, d)]
        return {"values": values * jnp.asarray(d / k, values.dtype) if self.scale else values, "seed": seed}

    def unpack(self, packed, like):
        places = chosen(packed["seed"], packed["values"].shape[0], like.shape[0])
        return jnp.zeros(like.shape, like.dtype).at[places].set(packed["values"].astype(like.dtype), unique_indices=True)

    @property
    def projects(self) -> bool:
        """Without scale it sends entries as they are."""
        return not self.scale

    def contraction(self, spec) -> float:
        """k/d without scale; 1 − ω with it."""
        omega = self._excess(spec)
        return 1 - omega if self.scale else 1 / (1 + omega)

    def variance(self, spec) -> float | None:
        """d/k − 1 with scale."""
        return self._excess(spec) if self.scale else None

    def _excess(self, spec) -> float:
        d = Layout.of(spec).size
        return d / kept(self.fraction, d) - 1 if d else 0.0


def random_k(fraction: float, scale: bool = True) -> RandomK:
    """Send a random part `fraction` of the entries, scaled so that it is right on average, or unscaled."""
    return RandomK(fraction, scale)
