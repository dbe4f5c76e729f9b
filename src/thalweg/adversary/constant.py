"""One number everywhere: zero, a huge one, infinity, or none at all."""

from collections.abc import Sequence

import jax.numpy as jnp

from .base import Forgetful, Real, agents_field


class Constant(Forgetful):
    """Everybody who lies sends `value` in every coordinate: 0, 10³⁰, `inf` or `nan`.

    Messages that hold a number that is not finite never count for a robust rule; a mean they destroy.
    """

    agents: tuple[int, ...] = agents_field()
    value: Real = 0.0

    def lies(self, messages, bad, honest, key):
        return jnp.full_like(messages, self.value)


def constant(agents: Sequence[int], value: float) -> Constant:
    """`agents` send `value` in every coordinate; it may be huge, `inf` or `nan`."""
    return Constant(agents, value)


def zero(agents: Sequence[int]) -> Constant:
    """`agents` send zeros."""
    return Constant(agents, 0.0)
