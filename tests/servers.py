"""Problems of clients under a server about which everything is known, for tests of server algorithms.

Axes: `n` clients, `d` variables. Matrices and vectors are those of f_i itself: ∇f_i(x) = A_i x + b_i, and w are the weights,
summing to one.
"""

import warnings

import numpy as np

import thalweg as tw

WEIGHTS = (1, 2, 3, 1, 2)


def clients(n=5, d=3, seed=0, weights=WEIGHTS, spread=1.0, **options):
    """(problem, A [n, d, d], b [n, d], w [n], x* [d]): heterogeneous quadratics with eigenvalues from ½."""
    rng = np.random.default_rng(seed)
    roots = rng.standard_normal((n, d, d))
    A = spread * roots @ roots.swapaxes(1, 2) / d + 0.5 * np.eye(d)
    b = rng.standard_normal((n, d))
    w = np.ones(n) / n if weights is None else np.asarray(weights[:n], float) / sum(weights[:n])
    return tw.quadratic(A, b, weights=w, **options), A, b, w, optimum(A, b, w)


def optimum(A, b, w):
    """argmin Σ w_i (½xᵀA_i x + b_iᵀx)."""
    return np.linalg.solve(np.einsum("n,nij->ij", w, A), -w @ b)


def descend(A, b, x, rate, steps, extra=None):
    """`steps` gradient steps on f_i from the common x `[d]` for every client, `[n, d]`; `extra(y)` is added to the gradients."""
    y = np.tile(x, (len(A), 1))
    counts = np.broadcast_to(steps, len(A))
    for k in range(counts.max()):
        gradient = np.einsum("nij,nj->ni", A, y) + b + (0 if extra is None else extra(y))
        y = np.where((k < counts)[:, None], y - rate * gradient, y)
    return y


def prox(A, b, centre, penalty):
    """argmin f_i(y) + ½ρ‖y − v_i‖² of every client, `[n, d]`."""
    eye = np.eye(A.shape[1])
    return np.stack([np.linalg.solve(A[i] + penalty * eye, penalty * centre[i] - b[i]) for i in range(len(A))])


def run(problem, algorithm, rounds, **options):
    """A result, without warnings about means that are biased."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return tw.solve(problem, algorithm, **({"rounds": rounds, "every": max(1, rounds)} | options))


def answer(problem, algorithm, rounds, **options):
    """The shared answer after so many rounds."""
    return np.asarray(run(problem, algorithm, rounds, **options).x)


def assert_follows(problem, algorithm, iterates, **options):
    """The answer is `iterates[k]` after k rounds, at a few k up to the last."""
    last = len(iterates) - 1
    for k in sorted({1, 2, last}):
        np.testing.assert_allclose(
            answer(problem, algorithm, k, **options), iterates[k], rtol=1e-9, atol=1e-11, err_msg=f"after round {k}"
        )


def iterate(step, state, rounds=5):
    """x after 0 … `rounds` rounds of `step`, whose state is (x, …)."""
    found = [state[0]]
    for _ in range(rounds):
        state = step(*state)
        found.append(state[0])
    return found
