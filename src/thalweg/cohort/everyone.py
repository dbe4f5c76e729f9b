"""Full participation."""

import equinox as eqx
import jax.numpy as jnp

from .base import Cohort, Draw


class Everyone(Cohort):
    """All clients in every round: π_i = 1."""

    normalise: bool = eqx.field(static=True, default=False)

    def slots(self, n: int) -> int:
        return n

    def init(self, registry):
        return ()

    def draw(self, state, registry, key):
        n = registry.n
        return Draw(jnp.arange(n, dtype=jnp.int32), jnp.ones(n, bool), jnp.ones(n, registry.weights.dtype))

    def learn(self, state, registry, draw, arrived, reported):
        return state


def everyone(normalise: bool = False) -> Everyone:
    """All clients in every round."""
    return Everyone(normalise)
