"""Clipped gossip: neighbours count as far as they lie near oneself."""

from typing import Any

import jax.numpy as jnp

from ..aggregate import Mixer
from .base import Real, average
from .centred import shrink


class ClippedGossip(Mixer):
    """Mixing in which a neighbour's message is drawn towards one's own until it lies within τ of it (self-centred clipping):

        m_i ← m_i + Σ_j w_ij (m_j − m_i) min(1, τ_i/‖m_j − m_i‖).

    Either τ_i = `radius`, or with `share` = δ, the weight that liars may have in a neighbourhood, the radius of theory,

        τ_i² = 1/δ Σ_{j∈N_i} w_ij ‖m_j − m_i‖²,

    over the nearest neighbours N_i that remain when those of weight δ that lie farthest are left out. The mean of the agents is
    kept only as far as nothing is clipped.

    Lie He, Sai Praneeth Karimireddy, Martin Jaggi, *Byzantine-robust decentralized learning via ClippedGossip*, arXiv 2202.01545,
    2022.
    """

    radius: Real | None = None
    share: Real | None = None

    def __check_init__(self):
        if (self.radius is None) == (self.share is None):
            raise ValueError("clipped_gossip: expected either radius=…, or share=…, the weight of liars in a neighbourhood")
        if isinstance(self.radius, int | float) and not self.radius > 0:
            raise ValueError(f"clipped_gossip(radius={self.radius!r}): expected a number > 0")
        if isinstance(self.share, int | float) and not 0 < self.share < 1:
            raise ValueError(f"clipped_gossip(share={self.share!r}): expected a number in (0, 1)")

    def check(self, neighbours):
        pass

    def mix(self, own, values, weights, self_weight, arrived):
        away = values - own[None]
        squares = jnp.sum(away**2, axis=1)
        return own + average(weights * shrink(squares, self._radius(squares, weights)), away)

    def _radius(self, squares, weights) -> Any:
        if self.radius is not None:
            return self.radius
        order = jnp.argsort(-squares)
        farther = jnp.cumsum(weights[order]) - weights[order]  # what lies farther, and is left out first
        counted = jnp.maximum(weights[order] - jnp.maximum(self.share - farther, 0), 0)
        return jnp.sqrt(jnp.sum(jnp.where(counted > 0, counted * squares[order], 0)) / self.share)


def clipped_gossip(radius: float | None = None, share: float | None = None) -> ClippedGossip:
    """Mixing with neighbours' messages drawn within `radius` of one's own, or within what a `share` of liars calls for."""
    return ClippedGossip(radius, share)
