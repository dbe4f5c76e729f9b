"""Mixing weights: from a graph to W, and from a given W to what it provably is.

Convention: W[i, j] is the weight that agent i gives to what agent j sends. Rows sum to 1 (*row-stochastic*, "pull") so that
agreement is a fixed point; columns sum to 1 (*column-stochastic*, "push") so that the sum over agents is conserved; both at
once is *doubly stochastic*. On undirected graphs W is symmetric here, hence doubly stochastic.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_array, issparse

from thalweg.network import _checks, spectrum
from thalweg.network.graph import adjacency, arcs_of, laplacian, require_connected

LARGEST_SDP = 150
SUM_TOLERANCE = 1e-8


class Weights(NamedTuple):
    """The three weight matrices [n, n] of a network; `mixing` is None where no doubly stochastic one is known."""

    label: str | None
    mixing: csr_array | None
    pull: csr_array
    push: csr_array


def choose(n: int, edges: np.ndarray, directed: bool, weights: Any) -> Weights:
    """Weights by name, from a matrix, or (directed, `weights=None`) the uniform ones."""
    pull, push = default_pull(n, edges, directed), default_push(n, edges, directed)
    if directed:
        return _choose_directed(n, edges, weights, pull, push)
    if weights is None:
        weights = "metropolis"
    if isinstance(weights, str):
        if weights not in RULES:
            raise _checks.known(weights, tuple(RULES), "weights")
        return Weights(weights, RULES[weights](n, edges), pull, push)
    matrix = as_matrix(weights, n)
    _refuse_weights_off_edges(matrix, n, edges, directed)
    asymmetry = abs(matrix - matrix.T)
    if asymmetry.max() > SUM_TOLERANCE:
        i, j = _first(asymmetry, SUM_TOLERANCE)
        raise ValueError(
            f"weights on an undirected network must be symmetric; got W[{i}, {j}] = {matrix[i, j]:.6g} and W[{j}, {i}] = "
            f"{matrix[j, i]:.6g}. Pass (W + W.T)/2, or build a directed network with from_matrix(W, directed=True)."
        )
    _refuse_sums(matrix.sum(axis=1), SUM_TOLERANCE)
    return Weights("given", _rescaled(matrix, n, edges), pull, push)


def _choose_directed(n: int, edges: np.ndarray, weights: Any, pull: csr_array, push: csr_array) -> Weights:
    if isinstance(weights, str) and weights != "uniform":
        raise ValueError(
            f"weights={weights!r} needs an undirected network. On a directed one pass nothing (uniform pull and push weights; "
            "doubly stochastic mixing where every agent hears as many as hear it) or a doubly, row- or column-stochastic matrix."
        )
    if weights is None or isinstance(weights, str):
        mixing = balanced(n, edges)
        return Weights(None if mixing is None else "uniform", mixing, pull, push)
    matrix = as_matrix(weights, n)
    _refuse_weights_off_edges(matrix, n, edges, directed=True)
    tolerance = 1e-12 * n
    rows = np.abs(matrix.sum(axis=1) - 1).max() <= tolerance
    columns = np.abs(matrix.sum(axis=0) - 1).max() <= tolerance
    if not rows and not columns:
        _refuse_sums(matrix.sum(axis=1), tolerance)
    return Weights("given", matrix if rows and columns else None, matrix if rows else pull, matrix if columns else push)


def default_pull(n: int, edges: np.ndarray, directed: bool) -> csr_array:
    """Row-stochastic: 1/(in-degree of i + 1) for each in-neighbour of i and for i itself."""
    hears = adjacency(edges, n, directed)
    share = 1.0 / (1.0 + hears.sum(axis=1))
    return _with_diagonal(hears, share, by_row=True)


def default_push(n: int, edges: np.ndarray, directed: bool) -> csr_array:
    """Column-stochastic: 1/(out-degree of j + 1) for each out-neighbour of j and for j itself."""
    hears = adjacency(edges, n, directed)
    share = 1.0 / (1.0 + hears.sum(axis=0))
    return _with_diagonal(hears, share, by_row=False)


def _with_diagonal(hears: csr_array, share: np.ndarray, by_row: bool) -> csr_array:
    n = hears.shape[0]
    coo, own = hears.tocoo(), np.arange(n)
    row, column = np.concatenate([coo.row, own]), np.concatenate([coo.col, own])
    return csr_array((share[row if by_row else column], (row, column)), shape=(n, n))


def from_edge_weights(n: int, edges: np.ndarray, weights: np.ndarray) -> csr_array:
    """Symmetric W with W_ij = `weights` [E] on the edges and W_ii = 1 - Σ_j W_ij."""
    low, high = edges.T
    own = np.arange(n)
    given = np.bincount(edges.ravel(), np.repeat(weights, 2), minlength=n)
    data = np.concatenate([weights, weights, 1.0 - given])
    return csr_array((data, (np.concatenate([low, high, own]), np.concatenate([high, low, own]))), shape=(n, n))


def metropolis(n: int, edges: np.ndarray) -> csr_array:
    """W_ij = 1/(1 + max(d_i, d_j)): local knowledge only, always doubly stochastic with a positive diagonal."""
    degree = np.bincount(edges.ravel(), minlength=n)
    return from_edge_weights(n, edges, 1.0 / (1.0 + degree[edges].max(axis=1)))


def lazy_metropolis(n: int, edges: np.ndarray) -> csr_array:
    """(I + W)/2 of the Metropolis W: all eigenvalues positive, at about twice the rounds."""
    degree = np.bincount(edges.ravel(), minlength=n)
    return from_edge_weights(n, edges, 0.5 / (1.0 + degree[edges].max(axis=1)))


def best_constant(n: int, edges: np.ndarray) -> csr_array:
    """W = I - 2/(l_2 + l_n) L_g, the fastest W with one weight for all edges: sigma = (l_n - l_2)/(l_n + l_2).

    The diagonal may be negative (star). Xiao and Boyd, *Fast linear iterations for distributed averaging*, 2004.
    """
    require_connected(edges, n, False, "a graph with laplacian weights")
    if n == 1:
        return metropolis(n, edges)
    second, largest = spectrum.laplacian_extremes(laplacian(edges, n))
    return from_edge_weights(n, edges, np.full(len(edges), 2.0 / (second + largest)))


def fastest(n: int, edges: np.ndarray) -> csr_array:
    """The symmetric nonnegative W with the smallest sigma: min t subject to -tI ≼ W - J ≼ tI.

    A semidefinite programme, for n <= 150 (needs the extra "sdp").
    Boyd, Diaconis and Xiao, *Fastest mixing Markov chain on a graph*, SIAM Review 2004.
    """
    require_connected(edges, n, False, "a graph with fastest weights")
    if n > LARGEST_SDP:
        raise ValueError(
            f"fastest weights solve a semidefinite programme, which is practical up to n = {LARGEST_SDP}; got n = {n}. "
            'Use weights="laplacian" (equal to the fastest on edge-transitive graphs) or "metropolis".'
        )
    if n <= 2:
        return metropolis(n, edges)
    from thalweg._extras import require

    cp = require("cvxpy", extra="sdp")
    incidence = csr_array(
        (np.tile([1.0, -1.0], len(edges)), (edges.ravel(), np.repeat(np.arange(len(edges)), 2))), shape=(n, len(edges))
    )
    weight, bound = cp.Variable(len(edges), nonneg=True), cp.Variable()
    deviation = np.eye(n) - incidence @ cp.diag(weight) @ incidence.T - np.full((n, n), 1.0 / n)
    given = abs(incidence) @ weight
    limits = [deviation << bound * np.eye(n), deviation >> -bound * np.eye(n), given <= 1]
    programme = cp.Problem(cp.Minimize(bound), limits)
    programme.solve(solver=cp.CLARABEL)
    if programme.status != cp.OPTIMAL:
        raise RuntimeError(f"the solver ended with status {programme.status!r}; use weights='laplacian' for this graph.")
    found = np.maximum(weight.value, 0.0)
    excess = np.bincount(edges.ravel(), np.repeat(found, 2), minlength=n).max()
    return from_edge_weights(n, edges, found / max(1.0, excess))


RULES: dict[str, Callable[[int, np.ndarray], csr_array]] = {
    "metropolis": metropolis,
    "lazy_metropolis": lazy_metropolis,
    "laplacian": best_constant,
    "fastest": fastest,
}


def balanced(n: int, edges: np.ndarray) -> csr_array | None:
    """Doubly stochastic W = I - (D - A)/(1 + d_max) if every agent hears as many as hear it, else None."""
    heard_by, hears = np.bincount(edges[:, 0], minlength=n), np.bincount(edges[:, 1], minlength=n)
    if (heard_by != hears).any():
        return None
    share = 1.0 / (1.0 + hears.max())
    own = np.arange(n)
    row, column = np.concatenate([edges[:, 1], own]), np.concatenate([edges[:, 0], own])
    data = np.concatenate([np.full(len(edges), share), 1.0 - share * hears])
    return csr_array((data, (row, column)), shape=(n, n))


def as_matrix(matrix: Any, n: int | None = None) -> csr_array:
    """A finite square float64 matrix, or an error that says what is wrong with it."""
    try:
        result = csr_array(matrix if issparse(matrix) else np.asarray(matrix, dtype=float), dtype=float, copy=True)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"weights must be a name or a square matrix of numbers; got {type(matrix).__name__}: {error}."
        ) from None
    if result.ndim != 2 or result.shape[0] != result.shape[1] or (n is not None and result.shape[0] != n):
        expected = "a square matrix" if n is None else f"shape ({n}, {n})"
        raise ValueError(f"weights must be {expected}, one row and one column per agent; got shape {result.shape}.")
    if not np.isfinite(result.data).all():
        coo = result.tocoo()
        at = int(np.flatnonzero(~np.isfinite(coo.data))[0])
        raise ValueError(f"weights must be finite; got W[{coo.row[at]}, {coo.col[at]}] = {coo.data[at]}.")
    result.sum_duplicates()
    result.eliminate_zeros()
    return result


def _rescaled(matrix: csr_array, n: int, edges: np.ndarray) -> csr_array:
    """The given symmetric W with its diagonal set so that rows sum to 1 to the last bit, not just to the tolerance."""
    low, high = edges.T
    values = 0.5 * (matrix[low, high] + matrix[high, low]) if len(edges) else np.zeros(0)
    return from_edge_weights(n, edges, np.asarray(values, float).ravel())


def _refuse_sums(sums: np.ndarray, tolerance: float) -> None:
    off = np.abs(sums - 1) > tolerance
    if off.any():
        i = int(np.flatnonzero(off)[0])
        raise ValueError(
            f"weights must sum to 1 in every row; got row {i} with sum {sums[i]:.9g}. Put what is missing on the "
            f"diagonal: W[{i}, {i}] += {1 - sums[i]:.9g}."
        )


def _refuse_weights_off_edges(matrix: csr_array, n: int, edges: np.ndarray, directed: bool) -> None:
    coo = matrix.tocoo()
    off_diagonal = coo.row != coo.col
    row, column = coo.row[off_diagonal].astype(np.int64), coo.col[off_diagonal].astype(np.int64)
    arcs = arcs_of(edges, n, directed)
    stray = ~np.isin(row * n + column, arcs[:, 1] * n + arcs[:, 0])
    if stray.any():
        i, j = int(row[stray][0]), int(column[stray][0])
        raise ValueError(
            f"W[{i}, {j}] = {matrix[i, j]:.6g}, but agent {i} does not hear agent {j} in this network. "
            "Set it to 0, add the edge, or build the network from the matrix with from_matrix(W)."
        )


def _first(matrix: csr_array, above: float) -> tuple[int, int]:
    coo = matrix.tocoo()
    at = int(np.flatnonzero(coo.data > above)[0])
    return int(coo.row[at]), int(coo.col[at])
