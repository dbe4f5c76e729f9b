"""Second moments of random mixing: how fast disagreement dies in mean square.

With x_{k+1} = W_k x_k and W_k drawn independently, the covariance X of the disagreement obeys X ↦ Φ(X) = E[W X Wᵀ], and
E‖x_k - x̄‖² shrinks per round by the spectral radius of Φ on {X : X1 = 0}, the same number as ρ(E[W⊗W]) without the
consensus mode. Φ maps symmetric matrices to symmetric matrices and has a positive semidefinite leading eigenvector, so it
suffices to look at symmetric X: n(n-1)/2 dimensions instead of n².
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.linalg import helmert
from scipy.sparse import csr_array, triu

LARGEST = 40

SecondMoment = Callable[[np.ndarray], np.ndarray]
"""Φ on a batch: X [..., n, n] ↦ E[W X Wᵀ] [..., n, n]."""


def mean_square_factor(second_moment: SecondMoment, n: int) -> float:
    """Spectral radius of Φ on symmetric X with X1 = 0; 0 for n = 1.

    **Raises** `ValueError` for n > 40: the matrix of Φ has n⁴/4 entries.
    """
    if n > LARGEST:
        raise ValueError(
            f"the mean-square factor needs a matrix with n⁴/4 entries and is computed for n <= {LARGEST}; got n = {n}. "
            "For larger networks use the spectral gap of the expected mixing as a guide."
        )
    if n == 1:
        return 0.0
    disagreement = helmert(n)  # [n-1, n], orthonormal rows, each orthogonal to 1
    row, column = np.triu_indices(n - 1)
    scale = np.where(row == column, 0.5, np.sqrt(0.5))[:, None, None]
    outer = disagreement[row][:, :, None] * disagreement[column][:, None, :]
    basis = scale * (outer + outer.transpose(0, 2, 1))  # [m, n, n], orthonormal in the trace inner product
    matrix = np.tensordot(basis, second_moment(basis), axes=([1, 2], [1, 2]))
    if np.allclose(matrix, matrix.T, rtol=0, atol=1e-13):
        return float(np.abs(np.linalg.eigvalsh(matrix)).max())
    return float(np.abs(np.linalg.eigvals(matrix)).max())


def of_matrices(matrices: Sequence[csr_array], probabilities: Sequence[float]) -> SecondMoment:
    """Φ when W is one of finitely many matrices."""
    dense = [matrix.toarray() for matrix in matrices]

    def second_moment(x: np.ndarray) -> np.ndarray:
        return sum(p * (w @ x @ w.T) for p, w in zip(probabilities, dense, strict=True))

    return second_moment


def pairwise(edges: np.ndarray, n: int) -> SecondMoment:
    """Φ of pairwise gossip, W = I - l_e/2 with e uniform over the edges."""
    share = 1.0 / len(edges)
    weights = np.full(len(edges), 0.5)
    mean = _laplacian(edges, weights, n) * share

    def second_moment(x: np.ndarray) -> np.ndarray:
        return x - mean @ x - x @ mean + share * _edge_sandwich(edges, weights, x)

    return second_moment


def unreliable(mixing: csr_array, loss: float, asleep: float) -> SecondMoment:
    """Φ of W_k = I - Σ_e b_e w_e l_e where b_e = 1 if edge e survives and both its ends are awake.

    E[b_e b_f] is s·q² for e = f, s²·q³ for edges with a common end and s²·q⁴ for others, with s = 1 - loss and
    q = 1 - asleep. The sum over edges with a common end is Σ_v L_v X L_v - 2 Σ_e l_e X l_e, L_v the Laplacian of the star of v.
    """
    n = mixing.shape[0]
    if abs(mixing - mixing.T).max() > 1e-12:
        raise ValueError("mean-square rates under failures need a symmetric W; got an asymmetric one.")
    upper = triu(mixing, k=1).tocoo()
    edges, weights = np.stack([upper.row, upper.col], axis=1), upper.data
    survive, awake = 1.0 - loss, 1.0 - asleep
    total = _laplacian(edges, weights, n)
    stars = [_laplacian(edges[at], weights[at], n) for at in ((edges == v).any(axis=1) for v in range(n))]
    both = survive**2 * awake**4
    adjacent = survive**2 * awake**3 * asleep
    same = survive * awake**2 - both - 2 * adjacent

    def second_moment(x: np.ndarray) -> np.ndarray:
        drift = survive * awake**2 * (total @ x + x @ total)
        moved = both * (total @ x @ total) + same * _edge_sandwich(edges, weights, x)
        if adjacent > 0:
            moved = moved + adjacent * sum(star @ x @ star for star in stars)
        return x - drift + moved

    return second_moment


def _laplacian(edges: np.ndarray, weights: np.ndarray, n: int) -> np.ndarray:
    matrix = np.zeros((n, n))
    low, high = edges.T
    np.add.at(matrix, (low, high), -weights)
    matrix = matrix + matrix.T
    return matrix - np.diag(matrix.sum(axis=1))


def _edge_sandwich(edges: np.ndarray, weights: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Σ_e w_e² l_e X l_e, from l_e X l_e = (x_ii + x_jj - x_ij - x_ji) l_e; X [..., n, n]."""
    low, high = edges.T
    squared = weights**2 * (x[..., low, low] + x[..., high, high] - x[..., low, high] - x[..., high, low])
    result = np.zeros_like(x)
    result[..., low, high] -= squared  # edges are distinct, so no index repeats
    result[..., high, low] -= squared
    diagonal = np.arange(x.shape[-1])
    result[..., diagonal, diagonal] = -result.sum(axis=-1)
    return result
