"""The mean around the median, coordinate by coordinate."""

import jax.numpy as jnp

from .base import Liars, Rule, check_liars, check_majority, heard, liars
from .order import median, nearest_sum


class MeanAroundMedian(Rule):
    """Of every coordinate the mean of the n − f that are nearest to its median (MeaMed):

        A(m)_j = 1/(n − f) Σ_{i∈N_j} m_ij,    N_j the n − f least |m_ij − median_j|; equal ones at the edge share the last places.

    `f` is a whole number, or a fraction of what arrived. κ is not known.

    Cong Xie, Oluwasanmi Koyejo, Indranil Gupta, *Generalized Byzantine-tolerant SGD*, arXiv 1802.10116, 2018.
    """

    f: Liars

    def __check_init__(self):
        check_liars("mean_around_median", self.f)

    def check(self, n):
        check_majority(self, n)

    def kappa(self, n, f):
        return None

    def aggregate(self, messages, arrived):
        m = heard(arrived)
        count = m - liars(self.f, m)
        away = jnp.abs(messages - median(messages, arrived)[None])
        return nearest_sum(messages, away, arrived, count) / jnp.maximum(count, 1).astype(messages.dtype)


def mean_around_median(f: int | float) -> MeanAroundMedian:
    """Of every coordinate the mean of all but the `f` farthest from its median (MeaMed)."""
    return MeanAroundMedian(f)
