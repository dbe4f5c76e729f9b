"""Random numbers."""

from collections.abc import Sequence

import jax

from .base import Forgetful, Real, agents_field


class Noise(Forgetful):
    """Everybody who lies sends normal random numbers of standard deviation `scale`, others in every round.

    Peva Blanchard, El Mahdi El Mhamdi, Rachid Guerraoui, Julien Stainer, *Machine learning with adversaries: Byzantine tolerant
    gradient descent*, NeurIPS 2017.
    """

    agents: tuple[int, ...] = agents_field()
    scale: Real = 1.0

    def lies(self, messages, bad, honest, key):
        return self.scale * jax.random.normal(key, messages.shape, messages.dtype)


def noise(agents: Sequence[int], scale: float = 1.0) -> Noise:
    """`agents` send normal random numbers of standard deviation `scale`."""
    return Noise(agents, scale)
