"""Nearest-neighbour mixing: a robust rule over messages that were averaged with those nearest to them."""

import jax
import jax.numpy as jnp

from .base import Liars, Robust, check_liars, check_majority, heard, liars
from .distances import distances
from .order import nth, shares


class NearestNeighbourMixing(Robust):
    """`rule` over the messages, each replaced by the mean of the n − f nearest to it, itself among them (NNM):

        m'_i = 1/(n − f) Σ_{j∈N_i} m_j,    A(m) = rule(m'_1, …, m'_n);    equal distances at the edge share the last places.

    `f` is a whole number, or a fraction of what arrived. From κ of the rule it makes κ' = 8 f/(n − f) (1 + κ), which is of the
    order of the best that any rule can have where clients differ.

    Youssef Allouah, Sadegh Farhadkhani, Rachid Guerraoui, Nirupam Gupta, Rafaël Pinot, John Stephan, *Fixing by mixing: a recipe
    for optimal Byzantine ML under heterogeneity*, AISTATS 2023.
    """

    f: Liars
    rule: Robust

    def __check_init__(self):
        check_liars("nearest_neighbour_mixing", self.f)

    def check(self, n):
        check_majority(self, n)
        self.rule.check(n)

    def kappa(self, n, f):
        inner = self.rule.kappa(n, f)
        return None if inner is None else 8 * f / (n - f) * (1 + inner)

    def init(self, d, dtype):
        return self.rule.init(d, dtype)

    def combine(self, state, messages, weights, arrived, key):
        m = heard(arrived)
        count = m - liars(self.f, m)
        between = distances(messages, arrived)
        near = shares(between, nth(between, arrived, jnp.maximum(count - 1, 0)), arrived, count)
        near = jnp.where(arrived[None], near, 0) / jnp.maximum(count, 1).astype(messages.dtype)
        mixed = jax.lax.dot(near.T, messages, precision="highest")
        return self.rule.combine(state, mixed, weights, arrived, key)


def nearest_neighbour_mixing(f: int | float, rule: Robust) -> NearestNeighbourMixing:
    """`rule` over messages that were averaged with the n − f nearest to them (NNM)."""
    return NearestNeighbourMixing(f, rule)
