"""The messages that `benchmarks.robust` and its rival aggregate, and what both must agree on. Plain NumPy, for every environment.

Axes: `n` messages, `d` numbers in each.
"""

import numpy as np

# Of centred clipping; iterations of the geometric median; most messages for all sets of them.
RADIUS, WEISZFELD, FEW = 100.0, 100, 10
REPEATS, LONG = 3, 2.0  # best of so many, or of fewer that take longer than so many seconds


def liars(n: int) -> int:
    """A fifth of n."""
    return n // 5


def messages(n: int, d: int) -> np.ndarray:
    """`[n, d]` float32: clients that differ, about a common mean; liars that agree and lie off by a few standard deviations."""
    rng = np.random.default_rng([n, d])
    x = rng.standard_normal((n, d), dtype=np.float32)
    x += rng.standard_normal(d, dtype=np.float32)
    bad = rng.choice(n, liars(n), replace=False)
    x[bad] = 0.3 * x[bad] + 3
    return x


def sample(row: np.ndarray) -> list[float]:
    """Up to a hundred of its entries, evenly spaced."""
    return np.asarray(row, float)[:: max(1, len(row) // 100)][:100].tolist()
