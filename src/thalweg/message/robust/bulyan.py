"""Bulyan: Krum again and again, then a trimmed mean of what it chose."""

import jax
import jax.numpy as jnp

from .base import Liars, Rule, check_liars, check_majority, heard, liars
from .distances import distances
from .order import median, nearest_sum


class Bulyan(Rule):
    """Krum chooses θ = n − 2f messages, one after another; then every coordinate is the mean of those θ − 2f of them that are
    nearest to their median:

        S ← {};    θ times: S ← S ∪ {Krum of those not in S};    A(m)_j = 1/(θ − 2f) Σ_{i∈N_j} m_ij.

    Of n' messages left, `Krum` looks at the n' − f nearest. `f` is a whole number, or a fraction of what arrived; n > 4f + 2 is
    needed. κ is not known.

    El Mahdi El Mhamdi, Rachid Guerraoui, Sébastien Rouault, *The hidden vulnerability of distributed learning in Byzantium*,
    ICML 2018.
    """

    f: Liars

    def __check_init__(self):
        check_liars("bulyan", self.f)

    def check(self, n):
        check_majority(self, n, 4, 2)

    def kappa(self, n, f):
        return None

    def aggregate(self, messages, arrived):
        m = heard(arrived)
        f = jnp.minimum(liars(self.f, m), jnp.maximum(m - 1, 0) // 4)
        chosen = _chosen(distances(messages, arrived), arrived, f, m - 2 * f)
        count = m - 4 * f
        away = jnp.abs(messages - median(messages, chosen)[None])
        return nearest_sum(messages, away, chosen, count) / jnp.maximum(count, 1).astype(messages.dtype)


def _chosen(between, arrived, f, theta):
    """`[c]` the θ messages that Krum takes, one after another."""
    order = jnp.argsort(between, axis=1)
    ordered = jnp.take_along_axis(between, order, axis=1)

    def take(i, chosen):
        left = arrived & ~chosen
        there = left[order]  # of the neighbours of every message, nearest first
        near = there & (jnp.cumsum(there, axis=1) <= jnp.sum(left) - f)
        scores = jnp.sum(jnp.where(near, ordered, 0), axis=1)
        best = jnp.argmin(jnp.where(left, scores, jnp.inf))
        return jnp.where(i < theta, chosen.at[best].set(True), chosen)

    return jax.lax.fori_loop(0, len(arrived), take, jnp.zeros(len(arrived), bool))


def bulyan(f: int | float) -> Bulyan:
    """Krum's choice of n − 2f messages, and of every coordinate of theirs the mean around the median."""
    return Bulyan(f)
