"""A peer's mean with those of its neighbours who are nearest to it."""

import jax.numpy as jnp

from ..aggregate import Mixer
from .base import Liars, average, check_liars, check_majority, heard, liars
from .order import nth, shares


class NearestNeighbours(Mixer):
    """The mean of one's own message and of the neighbours' but the f that lie farthest from it:

        m_i ← (m_i + Σ_{j∈N_i} m_j)/(d_i − f + 1),    N_i the d_i − f neighbours of least ‖m_j − m_i‖.

    `f` is a whole number, or a fraction of the neighbours whose message arrived. Mixing weights do not count, and the mean of the
    agents is not kept.

    Sadegh Farhadkhani, Rachid Guerraoui, Nirupam Gupta, Lê Nguyên Hoang, Rafaël Pinot, John Stephan, *Robust collaborative learning
    with linear gradient overhead*, ICML 2023 (MoNNA).
    """

    f: Liars

    def __check_init__(self):
        check_liars("nearest_neighbours", self.f)

    def check(self, neighbours):
        check_majority(self, neighbours, who="neighbours of an agent")

    def mix(self, own, values, weights, self_weight, arrived):
        m = heard(arrived)
        count = m - liars(self.f, m)
        squares = jnp.sum((values - own[None]) ** 2, axis=1, keepdims=True)
        near = shares(squares, nth(squares, arrived, jnp.maximum(count - 1, 0)), arrived, count)[:, 0]
        return (own + average(jnp.where(count > 0, near, 0), values)) / (count + 1).astype(own.dtype)


def nearest_neighbours(f: int | float) -> NearestNeighbours:
    """The mean of one's own message and of all neighbours' but the `f` farthest from it."""
    return NearestNeighbours(f)
