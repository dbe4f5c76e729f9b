"""What a peer makes of its neighbours' messages coordinate by coordinate: a trimmed mean, or a median."""

import jax.numpy as jnp

from ..aggregate import Mixer
from .base import Liars, check_liars, check_majority, heard, liars
from .order import between, median


class NeighbourTrimmedMean(Mixer):
    """Of every coordinate the mean of one's own and of the neighbours' without the f greatest and the f least of them:

        m_ik ← (m_ik + Σ_{f < j ≤ d_i − f} m_(j)k)/(d_i − 2f + 1),    m_(1)k ≤ … ≤ m_(d_i)k of the d_i neighbours.

    `f` is a whole number, or a fraction of the neighbours whose message arrived. Mixing weights do not count, and the mean of the
    agents is not kept.

    Cheng Fang, Zhixiong Yang, Waheed U. Bajwa, *BRIDGE: Byzantine-resilient decentralized gradient descent*, IEEE Transactions on
    Signal and Information Processing over Networks 2022.
    """

    f: Liars

    def __check_init__(self):
        check_liars("neighbour_trimmed_mean", self.f)

    def check(self, neighbours):
        check_majority(self, neighbours, who="neighbours of an agent")

    def mix(self, own, values, weights, self_weight, arrived):
        m = heard(arrived)
        f = liars(self.f, m)
        kept = (m - 2 * f).astype(own.dtype)
        theirs = between(values, arrived, f, m - f)
        return jnp.where(m > 0, (own + kept * theirs) / (kept + 1), own)


class NeighbourMedian(Mixer):
    """Of every coordinate the median of one's own and of the neighbours':

        m_ik ← median(m_ik, m_jk of the neighbours j).

    Mixing weights do not count, and the mean of the agents is not kept.

    Cheng Fang, Zhixiong Yang, Waheed U. Bajwa, *BRIDGE: Byzantine-resilient decentralized gradient descent*, IEEE Transactions on
    Signal and Information Processing over Networks 2022.
    """

    def check(self, neighbours):
        pass

    def mix(self, own, values, weights, self_weight, arrived):
        return median(jnp.concatenate([own[None], values]), jnp.concatenate([jnp.ones(1, bool), arrived]))


def neighbour_trimmed_mean(f: int | float) -> NeighbourTrimmedMean:
    """Of every coordinate the mean of one's own and the neighbours' without the `f` greatest and the `f` least of theirs."""
    return NeighbourTrimmedMean(f)


def neighbour_median() -> NeighbourMedian:
    """Of every coordinate the median of one's own and the neighbours'."""
    return NeighbourMedian()
