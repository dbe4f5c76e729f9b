"""Random graphs. All need an explicit seed, and all are drawn again until they are connected."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from thalweg.network import _checks
from thalweg.network.graph import canonical_edges, components
from thalweg.network.network import Network

TRIES = 100


def erdos_renyi(n: int, p: float, seed: int, directed: bool = False, *, weights: Any = None) -> Network:
    """Every pair (directed: every ordered pair) is joined with probability p, independently.

    **Raises** `ValueError` if 100 draws gave no connected graph, which happens for p below about log(n)/n.
    """
    n, p = _checks.integer("n", n, 1), _checks.probability("p", p)
    pairs = n * (n - 1) // (1 if directed else 2)

    def draw(rng: np.random.Generator) -> tuple[np.ndarray, None]:
        chosen = rng.choice(pairs, rng.binomial(pairs, p), replace=False, shuffle=False) if pairs else np.zeros(0, np.int64)
        if directed:
            sender, other = np.divmod(chosen, max(1, n - 1))
            return np.stack([sender, other + (other >= sender)], axis=1), None
        # pair number k belongs to the low id whose block of n - 1 - low pairs contains k
        starts = np.concatenate([[0], np.cumsum(np.arange(n - 1, 0, -1))]) if n > 1 else np.zeros(1, np.int64)
        low = np.searchsorted(starts, chosen, side="right") - 1
        return np.stack([low, chosen - starts[low] + low + 1], axis=1), None

    name = f"erdos_renyi({n}, {p:g}, seed={seed}{', directed=True' * directed})"
    threshold = math.log(max(n, 2)) / n
    return _first_connected(n, draw, seed, directed, name, weights, f"pass p well above log(n)/n = {threshold:.3g}")


def geometric(n: int, radius: float | None = None, *, seed: int, weights: Any = None) -> Network:
    """n points uniform in the unit square; those at most `radius` apart hear each other. Positions are kept.

    `radius=None` takes √(2 log n / (π n)), at which the expected degree is twice the log(n) where connectivity begins.

    **Raises** `ValueError` for radius <= 0, and if 100 draws gave no connected graph.
    """
    from scipy.spatial import KDTree

    n = _checks.integer("n", n, 1)
    reach = math.sqrt(2.0 * math.log(max(n, 2)) / (math.pi * n)) if radius is None else float(radius)
    if not reach > 0:
        raise ValueError(f"radius must be positive (the square has side 1); got {radius!r}.")

    def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        points = rng.uniform(size=(n, 2))
        return KDTree(points).query_pairs(reach, output_type="ndarray"), points

    name = f"geometric({n}, radius={reach:.3g}, seed={seed})"
    return _first_connected(n, draw, seed, False, name, weights, f"pass a radius above {reach:.3g}")


def small_world(n: int, k: int, p: float, seed: int, *, weights: Any = None) -> Network:
    """A ring where each agent hears its k nearest, and each edge is moved to a random end with probability p.

    Watts and Strogatz, *Collective dynamics of small-world networks*, 1998.

    **Raises** `ValueError` for odd k or k >= n, and if 100 draws gave no connected graph.
    """
    n, k, p = _checks.integer("n", n, 3), _checks.integer("k", k, 2), _checks.probability("p", p)
    if k % 2 or k >= n:
        raise ValueError(f"k must be even and below n = {n} (k/2 neighbours on each side); got k = {k}.")

    def draw(rng: np.random.Generator) -> tuple[np.ndarray, None]:
        import networkx as nx

        found = nx.watts_strogatz_graph(n, k, p, seed=int(rng.integers(2**32)))
        return np.array(found.edges, dtype=np.int64), None

    return _first_connected(n, draw, seed, False, f"small_world({n}, {k}, {p:g}, seed={seed})", weights, "pass a larger k")


def random_regular(n: int, degree: int, seed: int, *, weights: Any = None) -> Network:
    """Everybody has exactly `degree` neighbours, otherwise random: an expander, whose gap does not shrink with n.

    Stubs are paired at random, and a pair that is a loop or repeated swaps ends with a random good one. Uniform only in the
    limit of large n (McKay and Wormald, *Uniform generation of random regular graphs of moderate degree*, 1990).

    **Raises** `ValueError` if n·degree is odd, degree >= n, or 100 draws gave no connected graph.
    """
    n, degree = _checks.integer("n", n, 1), _checks.integer("degree", degree, 0 if n == 1 else 1)
    if degree >= n or n * degree % 2:
        raise ValueError(
            f"a graph of n = {n} agents with degree {degree} each does not exist: degree must be below n and n·degree even."
        )
    if degree == 1 and n > 2:
        raise ValueError(f"degree 1 only pairs the agents up and is not connected for n = {n}; pass degree >= 2.")

    def draw(rng: np.random.Generator) -> tuple[np.ndarray, None]:
        if degree <= (n - 1) // 2:
            return _regular(n, degree, rng), None
        # dense graphs by their complement, which is regular too and easy to pair
        missing = _regular(n, n - 1 - degree, rng)
        everyone = np.stack(np.triu_indices(n, 1), axis=1)
        return everyone[~np.isin(everyone @ [n, 1], missing @ [n, 1])], None

    name = f"random_regular({n}, {degree}, seed={seed})"
    return _first_connected(n, draw, seed, False, name, weights, "pass degree >= 3")


def _regular(n: int, degree: int, rng: np.random.Generator) -> np.ndarray:
    """Edges [n·degree/2, 2] of a random regular graph, degree <= (n-1)/2."""
    while True:
        pairs = np.sort(rng.permutation(np.repeat(np.arange(n), degree)).reshape(-1, 2), axis=1)
        pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
        bad = pairs[:, 0] == pairs[:, 1]
        bad[1:] |= (pairs[1:] == pairs[:-1]).all(axis=1)
        good = [tuple(pair) for pair in pairs[~bad].tolist()]
        if _swap_in(rng.permutation(pairs[bad]).tolist(), good, rng):
            return canonical_edges(good, n, directed=False)


def _swap_in(bad: list[list[int]], good: list[tuple[int, int]], rng: np.random.Generator) -> bool:
    """Move the stubs of `bad` (about degree²/4 pairs, however large n is) into `good`; False if no swap was found."""
    present = set(good)
    for u, v in bad:
        for _ in range(1000 if good else 0):
            at = int(rng.integers(len(good)))
            x, y = good[at] if rng.random() < 0.5 else good[at][::-1]
            first, second = (min(u, x), max(u, x)), (min(v, y), max(v, y))
            if u != x and v != y and first != second and first not in present and second not in present:
                break
        else:
            return False
        present.remove(good[at])
        present.update((first, second))
        good[at] = first
        good.append(second)
    return True


def _first_connected(
    n: int,
    draw: Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray | None]],
    seed: int,
    directed: bool,
    name: str,
    weights: Any,
    remedy: str,
) -> Network:
    rng = np.random.default_rng(_checks.integer("seed", seed, 0))
    for _ in range(TRIES):
        edges, positions = draw(rng)
        if components(edges, n, directed)[0] == 1:
            return Network(n, edges, directed, name, weights, positions=positions)
    raise ValueError(f"{name}: none of {TRIES} draws was {'strongly ' * directed}connected; {remedy}, or another seed.")
