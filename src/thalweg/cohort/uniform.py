"""A uniform cohort."""

import equinox as eqx
import jax.numpy as jnp

from .base import Cohort, Draw, check_size, distinct


class Uniform(Cohort):
    """`size` different clients, every subset equally likely: π_i = size/n."""

    size: int = eqx.field(static=True)
    normalise: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        check_size("uniform", self.size)

    def slots(self, n: int) -> int:
        check_size("uniform", self.size, n)
        return self.size

    def init(self, registry):
        return ()

    def draw(self, state, registry, key):
        members = jnp.sort(distinct(key, registry.n, self.size))
        factor = jnp.full(self.size, registry.n / self.size, registry.weights.dtype)
        return Draw(members, jnp.ones(self.size, bool), factor)

    def learn(self, state, registry, draw, arrived, reported):
        return state


def uniform(size: int, normalise: bool = False) -> Uniform:
    """`size` different clients in every round, every subset equally likely."""
    return Uniform(size, normalise)
