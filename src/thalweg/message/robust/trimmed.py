"""The trimmed mean, coordinate by coordinate."""

from .base import Liars, Rule, check_liars, check_majority, heard, liars, majority_ratio
from .order import between


class TrimmedMean(Rule):
    """Of every coordinate the mean of what is left without the f greatest and the f least:

        A(m)_j = 1/(n − 2f) Σ_{f < i ≤ n−f} m_(i)j,    m_(1)j ≤ … ≤ m_(n)j.

    `f` is a whole number, or a fraction of what arrived. κ = 6 f/(n − 2f) (1 + f/(n − 2f)).

    Dong Yin, Yudong Chen, Kannan Ramchandran, Peter Bartlett, *Byzantine-robust distributed learning: towards optimal statistical
    rates*, ICML 2018.
    """

    f: Liars

    def __check_init__(self):
        check_liars("trimmed_mean", self.f)

    def check(self, n):
        check_majority(self, n)

    def kappa(self, n, f):
        ratio = majority_ratio(n, f)
        return 6 * ratio * (1 + ratio)

    def aggregate(self, messages, arrived):
        m = heard(arrived)
        f = liars(self.f, m)
        return between(messages, arrived, f, m - f)


def trimmed_mean(f: int | float) -> TrimmedMean:
    """Of every coordinate the mean without the `f` greatest and the `f` least; a number below ½ is a fraction."""
    return TrimmedMean(f)
