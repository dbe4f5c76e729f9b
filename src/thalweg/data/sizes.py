"""Clients of unequal size, and sizes that respect a minimum.

Axes: `m` examples, `n` clients.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from thalweg.data.strategy import Strategy, whole

FEWEST = "the fewest examples that a client may have"


def raised(sizes: np.ndarray, minimum: int) -> np.ndarray:
    """`sizes` `[n]` with none below `minimum` and the same sum, which is at least n·minimum.

    What the small lack is taken one by one from whoever is the largest then: the large are cut to a common level, the rest stays.
    """
    lacking = int(np.maximum(minimum - sizes, 0).sum())
    low, high = minimum, int(sizes.max(initial=minimum))  # the largest level above which there is enough
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.maximum(sizes - middle, 0).sum() >= lacking else (low, middle - 1)
    out = np.clip(sizes, minimum, low)
    too_much = int(np.maximum(sizes - low, 0).sum()) - lacking
    out[np.flatnonzero(sizes > low)[:too_much]] += 1
    return out


def apportioned(total: int, shares: np.ndarray) -> np.ndarray:
    """Whole numbers `[n]` with sum `total`, as near to total·shares/Σ shares as can be (largest remainders)."""
    exact = total * (shares / shares.sum())
    sizes = np.floor(exact).astype(np.int64)
    missing = total - sizes.sum()
    sizes[np.argsort(sizes - exact, kind="stable")[:missing]] += 1
    return sizes


def enough(name: str, minimum: int, clients: int, examples: int) -> None:
    """Refuse a minimum that cannot be met.

    Raises:
        ValueError: fewer than clients·minimum examples.
    """
    if clients * minimum > examples:
        raise ValueError(
            f"{name}: got {examples} examples for {clients} clients with at least {minimum} each, expected {clients * minimum} "
            f"or more; take at most {examples // minimum} clients, or minimum={examples // clients}"
        )


@dataclasses.dataclass(frozen=True)
class Lognormal:
    """See `lognormal`."""

    sigma: float

    def __call__(self, generator: np.random.Generator, clients: int) -> np.ndarray:
        return np.exp(self.sigma * generator.standard_normal(clients))


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """See `power_law`."""

    exponent: float

    def __call__(self, generator: np.random.Generator, clients: int) -> np.ndarray:
        return (1.0 + generator.permutation(clients)) ** -self.exponent


@dataclasses.dataclass(frozen=True, eq=False)
class BySize(Strategy):
    """See `by_size`."""

    law: Any
    minimum: int

    def _split(self, labels, clients, generator):
        enough("by_size", self.minimum, clients, len(labels))
        shares = self.law(generator, clients) if callable(self.law) else self.law
        shares = np.asarray(shares, dtype=np.float64)
        if shares.shape != (clients,) or not np.all(np.isfinite(shares) & (shares >= 0)) or shares.sum() == 0:
            raise ValueError(
                f"by_size law: got {shares.shape if shares.shape != (clients,) else shares}, expected {clients} finite numbers "
                "≥ 0, one size per client, not all zero"
            )
        sizes = raised(apportioned(len(labels), shares), self.minimum)
        return np.split(generator.permutation(len(labels)), np.cumsum(sizes)[:-1])


def by_size(law: Any, minimum: Any = 1) -> Strategy:
    """Clients of unequal size whose labels are alike: m_i ∝ s_i, examples dealt at random.

    Args:
        law: `lognormal(sigma)`, `power_law(exponent)`, a function `(generator, clients) -> [n]`, or the sizes s `[n]`
            themselves. Only their proportions matter; whole numbers that sum to m are met exactly.
        minimum: the fewest examples of a client; what small ones lack is taken from the largest.

    Raises:
        ValueError: bad `minimum`; when called, too few examples for it, or sizes that are none.
    """
    return BySize(law, whole("by_size minimum", minimum, FEWEST))


def lognormal(sigma: Any = 1.0) -> Callable:
    """Sizes exp(σ z), z ~ N(0, 1); σ = 0 makes all alike, σ = 1 spreads them over two orders of magnitude.

    Raises:
        ValueError: σ < 0 or not finite.
    """
    if not (np.isfinite(sigma) and sigma >= 0):
        raise ValueError(f"lognormal sigma: got {sigma}, expected a finite number ≥ 0, e.g. 1.0")
    return Lognormal(float(sigma))


def power_law(exponent: Any = 1.0) -> Callable:
    """Sizes rank^−a (Zipf), ranks dealt at random; a = 0 makes all alike.

    Raises:
        ValueError: a < 0 or not finite.
    """
    if not (np.isfinite(exponent) and exponent >= 0):
        raise ValueError(f"power_law exponent: got {exponent}, expected a finite number ≥ 0, e.g. 1.0")
    return PowerLaw(float(exponent))
