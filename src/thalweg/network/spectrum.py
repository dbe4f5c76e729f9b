"""Extreme eigenvalues of mixing matrices and Laplacians, from a handful to 10⁵ agents.

Four ways, the first that applies: the fast Fourier transform (circulant matrices, exact at any size), dense LAPACK
(n <= 1000), a sparse factorisation (graphs that can be cut cheaply: paths, grids, trees; their gaps are far too small for
Lanczos), and Lanczos (graphs that cannot be cut: expanders; their gaps are large).
"""

import numpy as np
from scipy.sparse import csgraph, csr_array, eye_array
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigs, eigsh, splu

DENSE_UP_TO = 1000
_BAND_ENTRIES = 2e8


def mixing_extremes(mixing: csr_array) -> tuple[float, float]:
    """(lambda_2, lambda_min) of a symmetric W with W1 = 1; n >= 2. lambda_2 leaves out one eigenvalue 1, the consensus mode."""
    n = mixing.shape[0]
    values = _all_eigenvalues(mixing, symmetric=True)
    if values is not None:
        values = np.sort(values.real)
        rest = np.delete(values, np.argmin(np.abs(values - 1.0)))
        return float(rest[-1]), float(values[0])
    if _cuts_cheaply(mixing):
        return 1.0 - _smallest_nonzero(eye_array(n, format="csr") - mixing), _smallest(mixing)
    try:
        # 2J moves the consensus mode to -1, out of the way of lambda_2
        deflated = LinearOperator((n, n), matvec=lambda x: mixing @ x - 2.0 * x.mean(), dtype=float)
        largest = eigsh(deflated, k=1, which="LA", v0=_start(n), tol=1e-8, return_eigenvectors=False)
        smallest = eigsh(mixing, k=1, which="SA", v0=_start(n), tol=1e-8, return_eigenvectors=False)
    except ArpackNoConvergence:
        return 1.0 - _smallest_nonzero(eye_array(n, format="csr") - mixing), _smallest(mixing)
    return float(largest[0]), float(smallest[0])


def laplacian_extremes(laplacian: csr_array) -> tuple[float, float]:
    """(l_2, l_n) of the Laplacian of an undirected graph; n >= 2."""
    n = laplacian.shape[0]
    # I - L/scale has row sums 1 and eigenvalues in [-1, 1]: the one routine above serves both
    scale = max(1.0, float(laplacian.diagonal().max()))
    second, smallest = mixing_extremes(csr_array(eye_array(n, format="csr") - laplacian / scale))
    return max(0.0, scale * (1.0 - second)), scale * (1.0 - smallest)


def second_modulus(matrix: csr_array) -> float:
    """Second largest eigenvalue modulus of a row- or column-stochastic matrix; 0 for n = 1."""
    n = matrix.shape[0]
    if n == 1:
        return 0.0
    values = _all_eigenvalues(matrix, symmetric=False)
    if values is None:
        values = eigs(matrix, k=2, which="LM", v0=_start(n), return_eigenvectors=False)
    return float(np.abs(np.delete(values, np.argmin(np.abs(values - 1.0)))).max())


def second_singular(mixing: csr_array) -> float:
    """‖W - J‖₂ of a doubly stochastic W: how much one round can at least shrink the distance to agreement; 0 for n = 1."""
    n = mixing.shape[0]
    if n == 1:
        return 0.0
    values = _circulant_eigenvalues(mixing)
    if values is not None:  # circulant matrices are normal
        return second_modulus(mixing)
    if n <= DENSE_UP_TO:
        return float(np.linalg.norm(mixing.toarray() - 1.0 / n, 2))

    def squared(x: np.ndarray) -> np.ndarray:
        centred = x - x.mean()
        out = mixing.T @ (mixing @ centred)
        return out - out.mean()

    operator = LinearOperator((n, n), matvec=squared, dtype=float)
    return float(np.sqrt(eigsh(operator, k=1, which="LA", v0=_start(n), tol=1e-8, return_eigenvectors=False)[0]))


def product_modulus(matrices: list[csr_array]) -> float:
    """Largest eigenvalue modulus of W_P … W_1 - J, the disagreement left after one period; n <= 1000.

    **Raises** `ValueError` for larger n: a product of sparse matrices is dense.
    """
    n = matrices[0].shape[0]
    if n > DENSE_UP_TO:
        raise ValueError(f"the rate of a periodic schedule is computed for n <= {DENSE_UP_TO}; got n = {n}.")
    product = np.eye(n)
    for matrix in matrices:
        product = matrix @ product
    left = np.abs(np.linalg.eigvals(product - 1.0 / n)).max()
    # a nilpotent remainder is zero in exact arithmetic; its eigenvalues are rounding errors
    return 0.0 if np.linalg.norm(product - 1.0 / n) < 1e-13 * n else float(left)


def _all_eigenvalues(matrix: csr_array, symmetric: bool) -> np.ndarray | None:
    circulant = _circulant_eigenvalues(matrix)
    if circulant is not None:
        return circulant
    if matrix.shape[0] > DENSE_UP_TO:
        return None
    dense = matrix.toarray()
    return np.linalg.eigvalsh(dense) if symmetric else np.linalg.eigvals(dense)


def _circulant_eigenvalues(matrix: csr_array) -> np.ndarray | None:
    """Eigenvalues by FFT if W[i, j] depends only on i - j modulo n, else None."""
    n = matrix.shape[0]
    if matrix.nnz % n:
        return None
    coo = matrix.tocoo()
    offset = (coo.row - coo.col) % n
    first = np.zeros(n)
    in_first_column = coo.col == 0
    first[coo.row[in_first_column]] = coo.data[in_first_column]
    if np.count_nonzero(first) * n != np.count_nonzero(coo.data) or (np.abs(coo.data - first[offset]) > 1e-15).any():
        return None
    return np.fft.fft(first)


def _cuts_cheaply(matrix: csr_array) -> bool:
    """Whether the graph is a tree or has a narrow band in some ordering, so that factorising it costs little memory."""
    n = matrix.shape[0]
    if (matrix.nnz - np.count_nonzero(matrix.diagonal())) // 2 <= n:  # a tree, or a tree and one cycle: no fill-in at all
        return True
    order = csgraph.reverse_cuthill_mckee(matrix, symmetric_mode=True)
    position = np.empty(n, np.int64)
    position[order] = np.arange(n)
    coo = matrix.tocoo()
    return float(np.abs(position[coo.row] - position[coo.col]).max()) * n <= _BAND_ENTRIES


def _smallest_nonzero(singular: csr_array) -> float:
    """Smallest eigenvalue of a positive semidefinite M with M1 = 0, apart from that 0, by inverting M on the rest.

    Grounding one agent makes M invertible without a shift, so that gaps of 10⁻¹⁰ keep their digits.
    """
    n = singular.shape[0]
    solve = _factor(csr_array(singular[1:, 1:]))

    def pseudo_inverse(x: np.ndarray) -> np.ndarray:
        x = np.asarray(x).ravel()
        grounded = np.concatenate([[0.0], solve((x - x.mean())[1:])])
        return grounded - grounded.mean()

    operator = LinearOperator((n, n), matvec=pseudo_inverse, dtype=float)
    return float(1.0 / eigsh(operator, k=1, which="LA", v0=_start(n), return_eigenvectors=False)[0])


def _smallest(mixing: csr_array) -> float:
    """Smallest eigenvalue of a symmetric W by shift and invert, just below Gershgorin's bound."""
    n = mixing.shape[0]
    diagonal = mixing.diagonal()
    off_diagonal = abs(mixing).sum(axis=1) - np.abs(diagonal)
    shift = float((diagonal - off_diagonal).min()) - 1e-6
    solve = _factor(csr_array(mixing - shift * eye_array(n, format="csr")))
    inverse = LinearOperator((n, n), matvec=lambda x: solve(np.asarray(x).ravel()), dtype=float)
    return shift + float(1.0 / eigsh(inverse, k=1, which="LA", v0=_start(n), return_eigenvectors=False)[0])


def _factor(matrix: csr_array):
    options = {"SymmetricMode": True}
    return splu(matrix.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options).solve


def _start(n: int) -> np.ndarray:
    """ARPACK's starting vector: fixed, so that facts repeat, and generic, so that it misses no eigenvector."""
    return np.random.default_rng(0).standard_normal(n)
