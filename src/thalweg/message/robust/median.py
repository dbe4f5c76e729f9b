"""The coordinate-wise median."""

from .base import Rule, majority_ratio
from .order import median


class CoordinateMedian(Rule):
    """Of every coordinate the median of what was sent:

        A(m)_j = median(m_1j, …, m_nj),

    the mean of the two in the middle where n is even. κ = 4 (1 + f/(n − 2f))².

    Dong Yin, Yudong Chen, Kannan Ramchandran, Peter Bartlett, *Byzantine-robust distributed learning: towards optimal statistical
    rates*, ICML 2018; κ of all rules here: Youssef Allouah et al., *Fixing by mixing*, AISTATS 2023.
    """

    def check(self, n):
        pass

    def kappa(self, n, f):
        return 4 * (1 + majority_ratio(n, f)) ** 2

    def aggregate(self, messages, arrived):
        return median(messages, arrived)


def coordinate_median() -> CoordinateMedian:
    """Of every coordinate the median of what was sent; withstands any minority."""
    return CoordinateMedian()
