"""Centred clipping: messages count as far as they lie near the last aggregate."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .base import Real, Robust, average, heard


class CentredClipping(Robust):
    """The mean of the messages, each drawn towards the last aggregate v until it lies within `radius` of it:

        v ← v + 1/n Σ_i (m_i − v) min(1, radius/‖m_i − v‖),    `iterations` times,    A = v, remembered; v = 0 at first.

    How many liars it withstands depends on the radius; κ is not known for a fixed one.

    Sai Praneeth Karimireddy, Lie He, Martin Jaggi, *Learning from history for Byzantine robust optimization*, ICML 2021.
    """

    radius: Real
    iterations: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        if isinstance(self.radius, int | float) and not self.radius > 0:
            raise ValueError(f"centred_clipping(radius={self.radius!r}): expected a number > 0")
        if self.iterations < 1:
            raise ValueError(f"centred_clipping(iterations={self.iterations!r}): expected a whole number ≥ 1")

    def check(self, n):
        pass

    def kappa(self, n, f):
        return None

    def init(self, d, dtype):
        return jnp.zeros(d, dtype)

    def combine(self, state, messages, weights, arrived, key):
        m = jnp.maximum(heard(arrived), 1).astype(messages.dtype)

        def nearer(_, centre):
            away = messages - centre[None]
            return centre + average(jnp.where(arrived, shrink(jnp.sum(away**2, axis=1), self.radius), 0) / m, away)

        centre = jax.lax.fori_loop(0, self.iterations, nearer, state)
        return centre, jnp.where(jnp.any(arrived), centre, jnp.zeros_like(centre))


def shrink(squares, radius):
    """min(1, radius/‖·‖), of squared norms."""
    norms = jnp.sqrt(squares)
    return jnp.where(norms > radius, radius / jnp.where(norms > 0, norms, 1), 1).astype(squares.dtype)


def centred_clipping(radius: float, iterations: int = 1) -> CentredClipping:
    """The mean of the messages, each drawn within `radius` of the last aggregate."""
    return CentredClipping(radius, iterations)
