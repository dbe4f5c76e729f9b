"""Edge arrays: canonical form, arcs, components, distances.

Everything here is about *who hears whom* and knows no weights. `n` agents, `E` edges, `A` arcs. An *arc* (j, i) means
that agent i hears what agent j sends; an undirected edge {i, j} is the two arcs (i, j) and (j, i).
"""

from typing import Any

import numpy as np
from scipy.sparse import csgraph, csr_array

EXACT_DIAMETER_UP_TO = 2000
_GATHER_WORDS = 4_000_000


def canonical_edges(edges: Any, n: int, directed: bool) -> np.ndarray:
    """`edges` as int64 [E, 2], without self-loops and duplicates, in the order that `Network.edges` promises.

    Undirected: low id first, sorted by (low, high). Directed: (sender, receiver), sorted by (receiver, sender), which is
    the order of a row-wise matrix whose row i lists whom agent i hears.

    **Raises** `TypeError` if ids are not integers, `ValueError` if the shape is not [E, 2] or an id is outside 0..n-1.
    """
    array = np.asarray(edges)
    if array.size == 0:
        return np.zeros((0, 2), np.int64)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"edges must have shape [E, 2], one pair of agent ids a row; got shape {array.shape}.")
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"edges must hold integer agent ids; got dtype {array.dtype}. Number your agents 0..n-1.")
    array = array.astype(np.int64)
    outside = (array < 0) | (array >= n)
    if outside.any():
        row = int(np.flatnonzero(outside.any(axis=1))[0])
        raise ValueError(f"edge {row} joins {tuple(array[row].tolist())}; with n = {n} agents, ids run from 0 to {n - 1}.")
    array = array[array[:, 0] != array[:, 1]]
    if directed:
        keys = _distinct(array[:, 1] * n + array[:, 0])
        return np.stack([keys % n, keys // n], axis=1)
    keys = _distinct(array.min(axis=1) * n + array.max(axis=1))
    return np.stack([keys // n, keys % n], axis=1)


def _distinct(keys: np.ndarray) -> np.ndarray:
    # np.unique hashes before it sorts, which takes twenty times as long on a million keys
    keys = np.sort(keys)
    return keys[np.concatenate([[True], keys[1:] != keys[:-1]])] if len(keys) else keys


def arcs_of(edges: np.ndarray, n: int, directed: bool) -> np.ndarray:
    """All arcs (sender, receiver), int64 [A, 2], sorted by (receiver, sender)."""
    return edges if directed else canonical_edges(np.concatenate([edges, edges[:, ::-1]]), n, directed=True)


def adjacency(edges: np.ndarray, n: int, directed: bool) -> csr_array:
    """A [n, n] with A[i, j] = 1 if agent i hears agent j."""
    sender, receiver = arcs_of(edges, n, directed).T
    return csr_array((np.ones(len(sender)), (receiver, sender)), shape=(n, n))


def laplacian(edges: np.ndarray, n: int) -> csr_array:
    """L_g = D - A [n, n] of an undirected graph."""
    degree = np.bincount(edges.ravel(), minlength=n).astype(float)
    diagonal = np.arange(n)
    hears = adjacency(edges, n, directed=False)
    return csr_array((degree, (diagonal, diagonal)), shape=(n, n)) - hears


def components(edges: np.ndarray, n: int, directed: bool) -> tuple[int, np.ndarray]:
    """Number of (strongly) connected components and each agent's label [n]."""
    hears = csr_array((np.ones(len(edges)), (edges[:, 1], edges[:, 0])), shape=(n, n))
    count, labels = csgraph.connected_components(hears, directed=directed, connection="strong")
    return int(count), labels


def require_connected(edges: np.ndarray, n: int, directed: bool, name: str) -> None:
    """Raise a `ValueError` that names each component's size and one agent in it, unless there is only one."""
    count, labels = components(edges, n, directed)
    if count == 1:
        return
    first, sizes = np.unique(labels, return_index=True, return_counts=True)[1:]
    largest = np.lexsort((first, -sizes))[:5].tolist()
    listing = ", ".join(f"{sizes[c]} agent{'s' if sizes[c] > 1 else ''} (with agent {first[c]})" for c in largest)
    more = f", and {count - 5} more" if count > 5 else ""
    strongly = "strongly connected" if directed else "connected"
    raise ValueError(
        f"{name} is not {strongly}: it falls into {count} components of {listing}{more}. Agents in different components "
        "can never agree. Add edges between them, or pass allow_disconnected=True if this graph is one phase of a schedule."
    )


def diameter(edges: np.ndarray, n: int, directed: bool) -> tuple[float, bool]:
    """Longest shortest path, and whether it is only an upper bound.

    Exact up to n = 2000; above, twice the eccentricity of agent 0 (directed: distance to it plus distance from it), which
    is never too small. `inf` if the graph is not (strongly) connected.
    """
    if n == 1:
        return 0, False
    if components(edges, n, directed)[0] > 1:
        return float("inf"), False
    hears = adjacency(edges, n, directed)
    if n <= EXACT_DIAMETER_UP_TO:
        return _exact_diameter(hears), False
    outward = csgraph.shortest_path(hears, unweighted=True, indices=0).max()
    inward = csgraph.shortest_path(hears.T.tocsr(), unweighted=True, indices=0).max() if directed else outward
    return int(outward + inward), True


def _exact_diameter(hears: csr_array) -> int:
    """Breadth-first search from 64 sources per machine word: one pass over the arcs advances all of them by one step."""
    n = hears.shape[0]
    words_at_once = max(1, _GATHER_WORDS // max(1, hears.nnz))
    longest = 0
    for start in range(0, n, 64 * words_at_once):
        sources = np.arange(start, min(n, start + 64 * words_at_once))
        reached = np.zeros((n, -(-len(sources) // 64)), np.uint64)
        offset = sources - start
        reached[sources, offset // 64] = np.uint64(1) << (offset % 64).astype(np.uint64)
        everything = np.bitwise_or.reduce(reached, axis=0)
        steps = 0
        while not (reached == everything).all():
            # every agent of a connected graph on n > 1 agents hears somebody, so no segment of reduceat is empty
            reached = reached | np.bitwise_or.reduceat(reached[hears.indices], hears.indptr[:-1], axis=0)
            steps += 1
        longest = max(longest, steps)
    return longest
