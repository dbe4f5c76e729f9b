"""What robust rules have in common: how many liars they are told to withstand, and what is refused.

Axes: `c` slots of a cohort (or of a neighbourhood), of which m have a message; `d` numbers of a message.
"""

import abc
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..aggregate import Aggregator

# f liars: a whole number of them, or a fraction (below ½) of those that arrived; the engine makes it an array.
Liars = int | float | Float[Array, ""]
Real = float | Float[Array, ""]

# Rows that are added one by one; XLA keeps longer sums no more in one pass.
TERMS = 192


class Robust(Aggregator):
    """An aggregator that bounds what liars can do to the mean.

    Rule A is (f, κ)-robust (Allouah et al., *Fixing by mixing: a recipe for optimal Byzantine ML under heterogeneity*, AISTATS
    2023) if for every set S of n − f of the n messages, with the mean m̄ of S,

        ‖A(m_1, …, m_n) − m̄‖² ≤ κ · 1/(n − f) Σ_{i∈S} ‖m_i − m̄‖².

    Messages that did not arrive, or hold a number that is not finite, are nobody's. The aggregate of no message is zero.
    """

    def after(self, flow):
        return flow.but(norm=None, norm_1=None, unbiased=False, linear=False)

    @abc.abstractmethod
    def check(self, n: int) -> None:
        """Refuse to stand where at most `n` clients send in a round.

        Raises:
            ValueError: so few (or many) are not what it is made for.
        """

    def resolve(self, slots, normalise):
        self.check(slots)
        return self

    @abc.abstractmethod
    def kappa(self, n: int, f: int) -> float | None:
        """κ with f liars among n, where theory gives it, else None; infinite where so many break the rule."""


class Rule(Robust):
    """A robust rule without a memory, that counts every message once."""

    @abc.abstractmethod
    def aggregate(self, messages: Float[Array, "c d"], arrived: Bool[Array, " c"]) -> Float[Array, " d"]:
        """The aggregate of the messages that `arrived`; rows of the others are zero."""

    def init(self, d: int, dtype: Any):
        return ()

    def combine(self, state, messages, weights, arrived, key):
        return state, self.aggregate(messages, arrived)


def check_liars(name: str, f: Any) -> None:
    """Refuse an f that is neither a whole number nor a fraction below one half."""
    if isinstance(f, bool) or (isinstance(f, int) and f < 0) or (isinstance(f, float) and not 0 <= f < 0.5):
        raise ValueError(f"{name}(f={f!r}): expected a whole number ≥ 0 of liars, or a fraction of messages in [0, ½)")


def liars(f: Liars, m: Int[Array, ""]) -> Int[Array, ""]:
    """How many of `m` messages are to be withstood: at most what leaves an honest majority."""
    share = jnp.floor(f * m.astype(float) + 1e-4)  # 0.3 · 10 is three
    return jnp.clip(jnp.where(jnp.asarray(f) < 1, share, f).astype(jnp.int32), 0, jnp.maximum(m - 1, 0) // 2)


def check_majority(rule: Any, n: int, times: int = 2, more: int = 0, who: str = "clients in a round") -> None:
    """Refuse n ≤ times·f + more.

    Raises:
        ValueError: so few cannot withstand so many.
    """
    f = rule.f if isinstance(rule.f, int) else int(rule.f * n + 1e-4)
    if n <= times * f + more:
        bound = f"{times}·{f}" + (f" + {more}" if more else "")
        raise ValueError(
            f"{type(rule).__name__}(f={rule.f}): got {n} {who}, expected more than {bound}; lower f, or hear more of them"
        )


def heard(arrived: Bool[Array, " c"]) -> Int[Array, ""]:
    """m, of those that arrived."""
    return jnp.sum(arrived, dtype=jnp.int32)


def average(weights: Float[Array, " c"], messages: Float[Array, "c d"]) -> Float[Array, " d"]:
    """Σ_i weights_i messages_i; a row without weight does not count, whatever it holds."""
    weights = weights.astype(messages.dtype)
    if len(messages) > TERMS:
        return jnp.matmul(weights, jnp.where(weights[:, None] == 0, 0, messages), precision="highest")
    total = jnp.zeros_like(messages[0])
    for weight, message in zip(
        weights, messages, strict=True
    ):  # one pass over memory; a sum along an axis takes fifty times as long
        total = total + jnp.where(weight == 0, 0, weight * message)
    return total


def majority_ratio(n: int, f: int) -> float:
    """f/(n − 2f), of which most κ are made; infinite without an honest majority."""
    return f / (n - 2 * f) if n > 2 * f else float("inf")
