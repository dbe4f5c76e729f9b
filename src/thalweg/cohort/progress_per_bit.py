"""A cohort of the clients that move the model most for what they cost."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .base import Cohort, Draw, check_size, remembered


class ProgressPerBit(Cohort):
    """The `size` clients with the largest w_i d_i/t_i: how far their local steps took the model when they last took part, over
    the expected duration of a round on their device. Without a fleet, where t_i = 1, that is progress per bit, since all clients
    send equally many; with one whose time goes into communication, it is progress per bit and bandwidth.

    A greedy rule of thumb without a theorem. Drift is not progress on Σ w_i f_i: it is large where a client disagrees with the
    others. It is stale: a client that moved little stays out until those chosen move less than it did then. Clients that
    never reported come first, in random order. Biased towards clients that differ and have fast devices.
    """

    size: int = eqx.field(static=True)
    normalise: bool = eqx.field(static=True, default=True)

    unbiased: ClassVar[bool] = False
    reports: ClassVar[tuple[str, ...]] = ("drift",)

    def __check_init__(self):
        check_size("progress_per_bit", self.size)

    def slots(self, n: int) -> int:
        check_size("progress_per_bit", self.size, n)
        return self.size

    def init(self, registry):
        return jnp.full_like(registry.weights, jnp.inf)

    def draw(self, state, registry, key):
        tiny = jnp.finfo(state.dtype).tiny
        # Infinite where nothing is known, and not 0·∞ where there is no weight.
        worth = jnp.where(jnp.isfinite(state), registry.weights * state / jnp.maximum(registry.seconds, tiny), jnp.inf)
        ties = jax.random.uniform(key, state.shape, state.dtype)
        members = jnp.lexsort((ties, -worth))[: self.size].astype(jnp.int32)
        return Draw(jnp.sort(members), jnp.ones(self.size, bool), jnp.ones(self.size, state.dtype))

    def learn(self, state, registry, draw, arrived, reported):
        return remembered(state, draw, arrived, reported["drift"])


def progress_per_bit(size: int) -> ProgressPerBit:
    """The `size` clients whose last local steps went farthest for the time (or the bits) that they take."""
    return ProgressPerBit(size)
