"""Inner-product manipulation: the mean turned round, not made longer."""

from collections.abc import Sequence

from .base import Forgetful, Real, agents_field, mean_of, to_all


class InnerProduct(Forgetful):
    """All liars send −`scale` times the honest mean, so that the inner product of aggregate and truth may become negative.

    Cong Xie, Oluwasanmi Koyejo, Indranil Gupta, *Fall of empires: breaking Byzantine-tolerant SGD by inner product manipulation*,
    UAI 2019.
    """

    agents: tuple[int, ...] = agents_field()
    scale: Real = 0.5

    def lies(self, messages, bad, honest, key):
        return to_all(-self.scale * mean_of(messages, honest), messages)


def inner_product(agents: Sequence[int], scale: float = 0.5) -> InnerProduct:
    """`agents` send −`scale` times the mean of the honest ones."""
    return InnerProduct(agents, scale)
