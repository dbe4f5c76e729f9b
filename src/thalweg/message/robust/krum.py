"""Krum and multi-Krum: messages that have many others nearby."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .base import Liars, Rule, average, check_liars, check_majority, heard, liars, majority_ratio
from .distances import distances
from .order import nearest_sum


class Krum(Rule):
    """The message whose n − f nearest ones, itself among them, are nearest:

        A(m) = m_k,    k = argmin_i s_i,    s_i = Σ_{j∈N_i} ‖m_i − m_j‖²,    the first of equal ones.

    N_i are the n − f nearest to m_i as in Allouah et al., who prove κ = 6 (1 + f/(n − 2f)) for them; Blanchard et al. count one
    neighbour less. `f` is a whole number, or a fraction of what arrived; n > 2f + 2 is needed.

    Peva Blanchard, El Mahdi El Mhamdi, Rachid Guerraoui, Julien Stainer, *Machine learning with adversaries: Byzantine tolerant
    gradient descent*, NeurIPS 2017.
    """

    f: Liars

    def __check_init__(self):
        check_liars("krum", self.f)

    def check(self, n):
        check_majority(self, n, 2, 2)

    def kappa(self, n, f):
        return 6 * (1 + majority_ratio(n, f))

    def aggregate(self, messages, arrived):
        m = heard(arrived)
        return messages[jnp.argmin(scores(distances(messages, arrived), arrived, m - liars(self.f, m)))]


class MultiKrum(Rule):
    """The mean of the n − f messages of the least score of `Krum`, the first of equal ones. κ is not known.

    `f` is a whole number, or a fraction of what arrived; n > 2f + 2 is needed.

    Peva Blanchard, El Mahdi El Mhamdi, Rachid Guerraoui, Julien Stainer, *Machine learning with adversaries: Byzantine tolerant
    gradient descent*, NeurIPS 2017.
    """

    f: Liars

    def __check_init__(self):
        check_liars("multi_krum", self.f)

    def check(self, n):
        check_majority(self, n, 2, 2)

    def kappa(self, n, f):
        return None

    def aggregate(self, messages, arrived):
        m = heard(arrived)
        count = m - liars(self.f, m)
        return average(least(scores(distances(messages, arrived), arrived, count), arrived, count), messages)


def scores(between: Float[Array, "c c"], arrived: Bool[Array, " c"], count: Int[Array, ""]) -> Float[Array, " c"]:
    """Σ of the `count` least squared distances of every message, its own zero among them; infinite where none arrived."""
    found = nearest_sum(between, between, arrived, count)
    return jnp.where(arrived, found, jnp.inf)


def least(values: Float[Array, " c"], arrived: Bool[Array, " c"], count: Int[Array, ""]) -> Float[Array, " c"]:
    """Weights of a mean over the `count` least values."""
    order = jnp.argsort(jnp.where(arrived, values, jnp.inf))
    ranks = jnp.zeros(len(values), jnp.int32).at[order].set(jnp.arange(len(values), dtype=jnp.int32))
    return jnp.where(arrived & (ranks < count), 1, 0).astype(values.dtype) / jnp.maximum(count, 1).astype(values.dtype)


def krum(f: int | float) -> Krum:
    """The one message that has the nearest n − f others around it."""
    return Krum(f)


def multi_krum(f: int | float) -> MultiKrum:
    """The mean of the n − f messages that Krum likes best."""
    return MultiKrum(f)
