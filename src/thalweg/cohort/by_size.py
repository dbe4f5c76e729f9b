"""A cohort that favours clients with much weight."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .base import Cohort, Draw, check_size, merged


class BySize(Cohort):
    """`size` draws with replacement, client i with probability w_i; a client drawn twice works once and counts twice.

    Its factor is (times drawn)/(size·w_i), so that every draw has the same share: scheme I of Xiang Li, Kaixuan Huang,
    Wenhao Yang, Shusen Wang, Zhihua Zhang, *On the convergence of FedAvg on non-IID data*, ICLR 2020.
    """

    size: int = eqx.field(static=True)
    normalise: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        check_size("by_size", self.size)

    def slots(self, n: int) -> int:
        return self.size

    def init(self, registry):
        return jnp.cumsum(registry.weights)

    def draw(self, state, registry, key):
        uniform = jax.random.uniform(key, (self.size,), state.dtype) * state[-1]
        drawn = jnp.clip(jnp.searchsorted(state, uniform, side="right"), 0, registry.n - 1).astype(jnp.int32)
        members, first, times = merged(drawn)
        weights = jnp.maximum(registry.weights[members], jnp.finfo(state.dtype).tiny)
        return Draw(members, first, times.astype(state.dtype) / (self.size * weights))

    def learn(self, state, registry, draw, arrived, reported):
        return state


def by_size(size: int, normalise: bool = False) -> BySize:
    """`size` draws with replacement, each client with probability w_i."""
    return BySize(size, normalise)
