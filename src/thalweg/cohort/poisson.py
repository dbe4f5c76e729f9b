"""A Poisson cohort: every client tosses its own coin."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp

from .base import Cohort, Draw, distinct


class Poisson(Cohort):
    """Every client independently with probability `rate`: π_i = rate. What amplification by sampling assumes.

    Cohorts have a static maximum of slots; a round with more participants drops some at random, with the probability
    `overflow(n)`, which a privacy account must add to δ.
    """

    rate: float = eqx.field(static=True)
    maximum: int | None = eqx.field(static=True, default=None)
    normalise: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        if not 0 < self.rate <= 1:
            raise ValueError(f"cohort poisson: got rate {self.rate!r}, expected a probability in (0, 1]")

    def slots(self, n: int) -> int:
        if self.maximum is not None:
            return min(self.maximum, n)
        mean = self.rate * n
        return min(n, math.ceil(mean + 6 * math.sqrt(mean * (1 - self.rate)) + 6))

    def overflow(self, n: int) -> float:
        """P(more clients than slots) in one round."""
        from scipy.stats import binom

        return float(binom.sf(self.slots(n), n, self.rate))

    def init(self, registry):
        return ()

    def draw(self, state, registry, key):
        n, slots = registry.n, self.slots(registry.n)
        how_many, who, order = jax.random.split(key, 3)
        # Given their number, who takes part is uniform over subsets: O(slots) in place of n coins.
        count = jnp.minimum(jax.random.binomial(how_many, n, self.rate), slots).astype(jnp.int32)
        members = jax.random.permutation(order, distinct(who, n, slots))
        valid = jnp.arange(slots) < count
        order = jnp.argsort(jnp.where(valid, members, n))  # sorted, empty slots last
        factor = jnp.full(slots, 1 / self.rate, registry.weights.dtype)
        return Draw(members[order], valid[order], factor)

    def learn(self, state, registry, draw, arrived, reported):
        return state


def poisson(rate: float, maximum: int | None = None, normalise: bool = False) -> Poisson:
    """Every client by a coin of its own, with probability `rate`."""
    return Poisson(rate, maximum, normalise)
