"""Minimum diameter averaging: of all ways to leave out f messages the one whose rest lies closest together."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .base import Liars, Rule, average, check_liars, check_majority, heard, liars
from .distances import distances

MOST = 18


class MinimumDiameter(Rule):
    """The mean of those n − f messages whose largest distance from each other is least (MDA):

        A(m) = 1/(n − f) Σ_{i∈S} m_i,    S = argmin_{|S| = n − f} max_{i,j∈S} ‖m_i − m_j‖.

    All 2ⁿ sets are looked at, hence n ≤ 18. `f` is a whole number, or a fraction of what arrived. The error is at most 2f/(n − f)
    of the honest diameter; κ, in terms of the honest variance, is not known.

    El Mahdi El Mhamdi, Rachid Guerraoui, Arsany Guirguis, Lê Nguyên Hoang, Sébastien Rouault, *Genuinely distributed Byzantine
    machine learning*, PODC 2020.
    """

    f: Liars

    def __check_init__(self):
        check_liars("minimum_diameter", self.f)

    def check(self, n):
        if n > MOST:
            raise ValueError(
                f"MinimumDiameter: got {n} clients in a round, expected at most {MOST}, since it looks at all sets of them; use "
                "tw.message.covariance_filter, or tw.message.nearest_neighbour_mixing around another rule"
            )
        check_majority(self, n)

    def kappa(self, n, f):
        return None

    def aggregate(self, messages, arrived):
        m = heard(arrived)
        count = m - liars(self.f, m)
        chosen = closest(distances(messages, arrived), arrived, count)
        return average(chosen / jnp.maximum(count, 1).astype(messages.dtype), messages)


def closest(between: Float[Array, "c c"], arrived: Bool[Array, " c"], count: Int[Array, ""]) -> Bool[Array, " c"]:
    """The set of `count` messages that has the least diameter, the first of equal ones."""
    c = len(arrived)
    # Sets are numbers, bit by bit; those of the first b messages are known, and each is joined by message b.
    diameters, absent, sizes = jnp.zeros(1, between.dtype), jnp.zeros(1, bool), jnp.zeros(1, jnp.int32)
    for b in range(c):
        reach = jnp.zeros(1, between.dtype)  # the largest distance from b of each of these sets
        for a in range(b):
            reach = jnp.concatenate([reach, jnp.maximum(reach, between[a, b])])
        diameters = jnp.concatenate([diameters, jnp.maximum(diameters, reach)])
        absent = jnp.concatenate([absent, absent | ~arrived[b]])
        sizes = jnp.concatenate([sizes, sizes + 1])
    best = jnp.argmin(jnp.where(absent | (sizes != count), jnp.inf, diameters))
    allowed = arrived & (count > 0)
    return allowed & ((best >> jnp.arange(c)) & 1).astype(bool)


def minimum_diameter(f: int | float) -> MinimumDiameter:
    """The mean of the n − f messages that lie closest together (MDA); for up to 18 clients."""
    return MinimumDiameter(f)
