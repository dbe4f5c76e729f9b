"""The opposite of the truth."""

from collections.abc import Sequence

from .base import Forgetful, Real, agents_field


class SignFlip(Forgetful):
    """Everybody who lies sends −`scale` times what it should.

    Liping Li, Wei Xu, Tianyi Chen, Georgios B. Giannakis, Qing Ling, *RSA: Byzantine-robust stochastic aggregation methods for
    distributed learning from heterogeneous datasets*, AAAI 2019.
    """

    agents: tuple[int, ...] = agents_field()
    scale: Real = 1.0

    def lies(self, messages, bad, honest, key):
        return -self.scale * messages


def sign_flip(agents: Sequence[int], scale: float = 1.0) -> SignFlip:
    """`agents` send −`scale` times what they should."""
    return SignFlip(agents, scale)
