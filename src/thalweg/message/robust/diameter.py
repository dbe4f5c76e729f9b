"""Minimum diameter averaging: of all ways to leave out f messages the one whose rest lies closest together."""

import jax
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
    members = ((jnp.arange(2**c, dtype=jnp.int32)[:, None] >> jnp.arange(c, dtype=jnp.int32)[None]) & 1).astype(
        bool
    )  # of all sets

    def reach(b, diameters):
        """With the largest distance from message b in the sets that have it."""
        farthest = jnp.max(jnp.where(members, between[b][None], 0), axis=1)
        return jnp.maximum(diameters, jnp.where(members[:, b], farthest, 0))

    diameters = jax.lax.fori_loop(0, c, reach, jnp.zeros(2**c, between.dtype))
    wrong = jnp.any(members & ~arrived[None], axis=1) | (jnp.sum(members, axis=1) != count)
    return members[jnp.argmin(jnp.where(wrong, jnp.inf, diameters))]


def minimum_diameter(f: int | float) -> MinimumDiameter:
    """The mean of the n − f messages that lie closest together (MDA); for up to 18 clients."""
    return MinimumDiameter(f)
