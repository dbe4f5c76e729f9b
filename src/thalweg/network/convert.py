"""Networks from what you already have: edges, a matrix, a networkx graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg.network import _checks
from thalweg.network.network import Network
from thalweg.network.weights import as_matrix

if TYPE_CHECKING:
    import networkx as nx


def from_edges(
    edges: Any,
    n: int | None = None,
    directed: bool = False,
    *,
    weights: Any = None,
    positions: Any = None,
    name: str | None = None,
    allow_disconnected: bool = False,
) -> Network:
    """A network from pairs of agent ids [E, 2]; directed pairs are (sender, receiver).

    `n` defaults to the largest id plus one. Order, duplicates and self-loops do not matter (an agent always hears itself).

    **Raises** `ValueError` for ids outside 0..n-1 or a disconnected graph, `TypeError` for ids that are not integers.
    """
    array = np.asarray(edges if hasattr(edges, "__array__") else list(edges))
    if n is None:
        if array.size == 0:
            raise ValueError("there are no edges to count the agents by; pass n.")
        n = int(array.max()) + 1
    n = _checks.integer("n", n, 1)
    return Network(
        n, array, directed, name or f"from_edges({n})", weights, positions=positions, allow_disconnected=allow_disconnected
    )


def from_matrix(
    matrix: Any,
    directed: bool | None = None,
    *,
    positions: Any = None,
    name: str | None = None,
    allow_disconnected: bool = False,
) -> Network:
    """A network whose edges and weights are those of W [n, n]: agent i hears j where W[i, j] ≠ 0.

    Symmetric W with rows that sum to 1 gives an undirected network. Any other gives a directed one, on which W becomes
    `mixing` if doubly stochastic, else `pull` if its rows sum to 1, else `push` if its columns do.
    `directed=False` insists on symmetry, `directed=True` makes even a symmetric W directed.

    **Raises** `ValueError` for NaN, a shape that is not square, sums that are not 1 (naming the row), asymmetry under
    `directed=False`, and a disconnected graph.
    """
    weights = as_matrix(matrix)
    n = weights.shape[0]
    if directed is None:
        directed = bool(abs(weights - weights.T).max() > 1e-12)
    coo = weights.tocoo()
    arcs = np.stack([coo.col, coo.row], axis=1)
    return Network(
        n, arcs, directed, name or f"from_matrix({n})", weights, positions=positions, allow_disconnected=allow_disconnected
    )


def from_networkx(
    graph: nx.Graph, *, weights: Any = None, name: str | None = None, allow_disconnected: bool = False
) -> Network:
    """A network from a networkx graph; nodes become agents 0..n-1 in the graph's own order.

    `weights`: as elsewhere, or "weight" to take the edges' attribute "weight" as W_ij, what is left to 1 staying with the
    agent (on a directed graph, of arc j → i the weight that i gives to j). Node attribute "pos" becomes `positions`.

    **Raises** `ValueError` for an empty or disconnected graph or edges without the attribute.
    """
    nodes = list(graph.nodes)
    n, directed = len(nodes), bool(graph.is_directed())
    if n == 0:
        raise ValueError("the graph has no nodes; a network needs at least one agent.")
    agent = {node: i for i, node in enumerate(nodes)}
    edges = np.array([(agent[a], agent[b]) for a, b in graph.edges()], dtype=np.int64).reshape(-1, 2)
    if isinstance(weights, str) and weights == "weight":
        weights = _attribute_weights(graph, agent, directed)
    pos = [graph.nodes[node].get("pos") for node in nodes]
    return Network(
        n, edges, directed, name or f"from_networkx({n})", weights,
        positions=None if any(p is None for p in pos) else np.array(pos, float), allow_disconnected=allow_disconnected,
    )  # fmt: skip


def _attribute_weights(graph: nx.Graph, agent: dict, directed: bool) -> np.ndarray:
    matrix = np.zeros((len(agent), len(agent)))
    for sender, receiver, weight in graph.edges(data="weight"):
        if sender == receiver:
            continue
        if weight is None:
            raise ValueError(
                f'edge ({sender!r}, {receiver!r}) has no attribute "weight"; set it, or pass weights="metropolis".'
            )
        matrix[agent[receiver], agent[sender]] = weight
        if not directed:
            matrix[agent[sender], agent[receiver]] = weight
    return matrix + np.diag(1.0 - matrix.sum(axis=1))
