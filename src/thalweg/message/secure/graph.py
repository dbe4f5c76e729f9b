"""Who masks with whom when a cohort is too large for everybody to do so with everybody.

Axes: `n` clients.

James Bell, Kallista Bonawitz, Adrià Gascón, Tancrède Lepoint, Mariana Raykova, *Secure single-server aggregation with
(poly)logarithmic overhead*, CCS 2020.
"""

import hashlib

import numpy as np


def neighbourhoods(n: int, degree: int | None, session: bytes) -> list[np.ndarray]:
    """Sorted neighbours of every client: all others, or `degree` of them.

    The graph is a circle in which everybody knows the degree/2 next ones on both sides (Harary), the places on it drawn from
    the `session`'s name, so that everybody can work it out alone and nobody can choose their neighbours.
    """
    everyone = np.arange(n)
    if degree is None or degree >= n - 1:
        return [np.delete(everyone, i) for i in range(n)]
    # Ranks of hashes: a permutation that does not depend on the version of a random generator.
    marks = [hashlib.sha256(b"thalweg circle" + session + i.to_bytes(4, "little")).digest() for i in range(n)]
    circle = np.array(sorted(range(n), key=marks.__getitem__))
    offsets = np.concatenate([np.arange(1, degree // 2 + 1), -np.arange(1, degree // 2 + 1)])
    around = circle[(np.arange(n)[:, None] + offsets) % n]
    found = np.empty_like(around)
    found[circle] = np.sort(around, axis=1)
    return list(found)


def majority(holders: int) -> int:
    """Shares of a secret that reveal it, such that two different stories about a client cannot both have enough."""
    return holders // 2 + 1


def failure(n: int, degree: int, dropped: float, corrupt: float) -> tuple[float, float]:
    """(probability that privacy fails, that the sum cannot be had) at this degree, by a union bound over clients.

    Privacy fails if a majority of somebody's share holders is corrupt, or if those that are honest and stay are no longer
    connected: on the circle, if degree/2 in a row are missing. The sum cannot be had if too few holders of a secret are left.
    """
    from scipy import stats  # slow to load, and not needed to take part

    need = majority(degree + 1)
    bad, gone = int(np.ceil(corrupt * n)), int(np.ceil(dropped * n))
    betrayed = n * stats.hypergeom.sf(need - 1, n - 1, bad, degree)
    away = min(bad + gone, n)
    torn = n * np.exp(np.sum(np.log(np.maximum(away - np.arange(degree // 2), 1e-300) / (n - np.arange(degree // 2)))))
    starved = n * stats.hypergeom.cdf(need - 1, n - 1, n - 1 - gone, degree)
    return float(min(1.0, betrayed + torn)), float(min(1.0, starved))


def degree(n: int, dropped: float = 0.1, corrupt: float = 0.1, privacy: float = 2.0**-40, loss: float = 2.0**-20) -> int:
    """The least number of neighbours, O(log n), with which a sum over n clients is safe.

    Args:
        dropped: the largest share of clients that drop out.
        corrupt: the largest share that works together with the server.
        privacy: accepted probability that the server can learn more than the sum.
        loss: accepted probability that the sum cannot be had.

    Raises:
        ValueError: not even everybody with everybody is enough.
    """
    for count in range(4, n - 1, 2):
        found = failure(n, count, dropped, corrupt)
        if found[0] <= privacy and found[1] <= loss:
            return count
    if dropped + 2 * corrupt < 0.5:
        return n - 1
    raise ValueError(
        f"secure degree: got a share {dropped:g} that drops out and {corrupt:g} that is corrupt, for which nobody has enough "
        "neighbours, expected dropped + 2·corrupt < 0.5"
    )
