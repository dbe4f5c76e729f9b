"""A bound on the length of messages."""

from typing import ClassVar

import jax.numpy as jnp

from .base import Real, Robust, average
from .centred import shrink


class NormBound(Robust):
    """The weighted mean of the messages, of which none is longer than `bound`:

        A(m) = Σ_i w_i m_i min(1, bound/‖m_i‖).

    One liar moves it by at most w_i·2·bound: enough against messages that are merely long, not against many that agree. Weights
    count as in a plain mean. κ is not known.

    Ziteng Sun, Peter Kairouz, Ananda Theertha Suresh, H. Brendan McMahan, *Can you really backdoor federated learning?*, arXiv
    1911.07963, 2019.
    """

    bound: Real

    unweighted: ClassVar[bool] = False

    def __check_init__(self):
        if isinstance(self.bound, int | float) and not self.bound > 0:
            raise ValueError(f"norm_bound(bound={self.bound!r}): expected a number > 0")

    def check(self, n):
        pass

    def kappa(self, n, f):
        return None

    def init(self, d, dtype):
        return ()

    def combine(self, state, messages, weights, arrived, key):
        return state, average(weights * shrink(jnp.sum(messages**2, axis=1), self.bound), messages)


def norm_bound(bound: float) -> NormBound:
    """The weighted mean of messages, none of which counts as longer than `bound`."""
    return NormBound(bound)
