"""Problems about which everything is known, and rates, for tests of algorithms.

Axes: `n` agents, `d` variables. Matrices and vectors returned beside a problem are those of φ_i = n·w_i·f_i, whose plain mean
is the objective: ∇φ_i(x) = A_i x + b_i.
"""

import numpy as np

import thalweg as tw


def quadratics(n, d, seed, *, spread=1.0, weights=None, **options):
    """(problem, A [n, d, d], b [n, d], x* [d]): heterogeneous; eigenvalues of the A_i/(n·w_i) from ½ to about ½ + 4·spread."""
    rng = np.random.default_rng(seed)
    roots = rng.standard_normal((n, d, d))
    A = spread * roots @ roots.swapaxes(1, 2) / d + 0.5 * np.eye(d)
    return _quadratic(A, rng.standard_normal((n, d)), weights, options)


def equal_curvature(n, d, a, seed, **options):
    """(problem, A, b, x*) with every A_i = a·I."""
    b = np.random.default_rng(seed).standard_normal((n, d))
    return _quadratic(np.broadcast_to(a * np.eye(d), (n, d, d)), b, None, options)


def _quadratic(A, b, weights, options):
    n = len(A)
    w = np.ones(n) if weights is None else np.asarray(weights, float)
    scale = (n * w / w.sum())[:, None]
    problem = tw.quadratic(A, b, weights=weights, **options)
    A, b = scale[:, :, None] * A, scale * b
    return problem, A, b, np.linalg.solve(A.mean(0), -b.mean(0))


def gradients(A, b):
    """x [n, d] → ∇φ_i(x_i) [n, d]."""
    return lambda x: np.einsum("nij,nj->ni", A, x) + b


def with_lowest_eigenvalue(network, low):
    """The same graph with W ← I − s(I − W), s such that λ_min(W) = `low`."""
    W = network.mixing.toarray()
    laplacian = np.eye(network.n) - W
    return network.with_weights(np.eye(network.n) - (1 - low) / np.linalg.eigvalsh(laplacian)[-1] * laplacian)


def rate_of_modes(algorithm, curvature, network):
    """Spectral radius over all modes of `algorithm.modes`, without the eigenvalue 1 of what the agents conserve together."""
    rate = 0.0
    for eigenvalue in np.linalg.eigvalsh(network.mixing.toarray()):
        roots = np.linalg.eigvals(algorithm.modes(curvature, eigenvalue))
        if np.isclose(eigenvalue, 1):
            roots = np.delete(roots, np.argmin(np.abs(roots - 1))) if np.isclose(roots, 1).any() else roots
        rate = max(rate, np.abs(roots).max(initial=0.0))
    return rate


def assert_rate(problem, algorithm, network, limit, expected, tolerance=0.01):
    """‖x − limit‖ shrinks by `expected` per round, measured while it falls from about 1e-6 to 1e-10; limit [n, d] or [d]."""
    last = min(5000, max(8, int(np.log(1e-10) / np.log(expected))))
    first = int(0.6 * last)
    before, after = (np.linalg.norm(agents(problem, algorithm, network, k) - limit) for k in (first, last))
    np.testing.assert_allclose((after / before) ** (1 / (last - first)), expected, rtol=tolerance)


def agents(problem, algorithm, network, rounds, **options):
    """Every agent's estimate after so many rounds, `[n, d]`."""
    result = tw.solve(problem, algorithm, network, rounds=rounds, every=max(1, rounds), **options)
    return np.asarray(result.agents)


def assert_follows(problem, algorithm, network, iterates, **options):
    """The engine's estimates are `iterates[k]` after k rounds, at a few k up to the last."""
    last = len(iterates) - 1
    for k in sorted({0, 1, 2, 3, last // 2, last}):
        np.testing.assert_allclose(
            agents(problem, algorithm, network, k, **options), iterates[k], rtol=1e-9, atol=1e-11, err_msg=f"after round {k}"
        )
