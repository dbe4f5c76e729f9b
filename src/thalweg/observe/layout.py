"""Where to draw agents that have no place of their own."""

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import shortest_path


def layout(edges: np.ndarray, n: int, iterations: int | None = None) -> np.ndarray:
    """Points `[n, 2]` whose distances resemble the hops between agents, the long side horizontal. The same input gives the
    same picture.

    Minimises the stress Σ_{i<j} (‖p_i − p_j‖ − hops_ij)² by majorisation, from the classical scaling of the hops. O(n²) per
    iteration: meant for n up to 2,000.

    Args:
        edges: `[E, 2]` pairs of agents; directions do not matter.
        n: number of agents.
        iterations: majorisation steps; by default fewer for large graphs.

    Reference: de Leeuw, "Applications of convex analysis to multidimensional scaling", 1977; Gansner, Koren & North, "Graph
    drawing by stress majorization", 2004.
    """
    edges = np.asarray(edges, int).reshape(-1, 2)
    circle = 2 * np.pi * np.arange(n) / max(n, 1)
    circle = np.stack([np.sin(circle), np.cos(circle)], axis=1)
    hops = _hops(edges, n).astype(np.float32)  # a picture needs no more, and it is twice as fast
    if hops.max(initial=0) <= 1:  # complete, a single edge or a single agent: no shape but symmetry
        return circle
    points = (_classical_scaling(hops) + 1e-3 * circle).astype(np.float32)  # agents put on one point come apart
    if iterations is None:
        iterations = int(np.clip(2e7 / n**2, 8, 200))
    for _ in range(iterations):
        points = _majorise(points, hops)
    axes = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)[2]
    return ((points - points.mean(axis=0)) @ axes.T).astype(float)


def _hops(edges: np.ndarray, n: int) -> np.ndarray:
    adjacency = csr_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(n, n))
    hops = shortest_path(adjacency, directed=False, unweighted=True)
    reached = np.isfinite(hops)
    return np.where(reached, hops, 1 + hops[reached].max(initial=0))  # other components stand apart


def _classical_scaling(hops: np.ndarray) -> np.ndarray:
    squares = hops**2
    gram = (squares.mean(axis=0)[None, :] + squares.mean(axis=1)[:, None] - squares - squares.mean()) / 2
    block = np.random.default_rng(0).standard_normal((len(hops), 6))
    for _ in range(12):  # subspace iteration: two leading directions suffice for a start
        block = np.linalg.qr(gram @ block)[0]
    values, vectors = np.linalg.eigh(block.T @ gram @ block)
    return block @ vectors[:, -2:] * np.sqrt(np.maximum(values[-2:], 0))


def _majorise(points: np.ndarray, hops: np.ndarray) -> np.ndarray:
    """One Guttman transform with equal weights."""
    norms = np.einsum("nk,nk->n", points, points)
    apart = np.sqrt(np.maximum(norms[:, None] + norms[None, :] - 2 * points @ points.T, 1e-12))
    ratio = hops / apart
    np.fill_diagonal(ratio, 0)
    return (ratio.sum(axis=1)[:, None] * points - ratio @ points) / len(points)
