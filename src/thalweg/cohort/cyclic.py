"""A cohort that goes round: every client once in a cycle, always in the same order."""

import equinox as eqx
import jax.numpy as jnp

from .base import Cohort, Draw, check_size


class Cyclic(Cohort):
    """Clients in blocks of `size`, block k mod n/size in round k: no client takes part twice within n/size rounds.

    Not sampling: no amplification of privacy, and what correlated noise (`tw.message.noisy_mean(bands=…)`) needs. The mean over the
    cohort, scaled by n/size, is unbiased over a cycle only.
    """

    size: int = eqx.field(static=True)
    normalise: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        check_size("cyclic", self.size)

    def slots(self, n: int) -> int:
        check_size("cyclic", self.size, n)
        if n % self.size:
            raise ValueError(f"cohort cyclic: got {self.size} of {n} clients, expected a divisor of their number")
        return self.size

    def init(self, registry):
        return jnp.zeros((), jnp.int32)

    def draw(self, state, registry, key):
        blocks = registry.n // self.size
        members = (state % blocks) * self.size + jnp.arange(self.size, dtype=jnp.int32)
        factor = jnp.full(self.size, blocks, registry.weights.dtype)
        return Draw(members, jnp.ones(self.size, bool), factor)

    def learn(self, state, registry, draw, arrived, reported):
        return state + 1


def cyclic(size: int, normalise: bool = False) -> Cyclic:
    """Blocks of `size` clients, one after another, round and round."""
    return Cyclic(size, normalise)
