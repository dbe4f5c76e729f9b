"""DGD and diffusion: recursions, biased limits, rates, step bounds and the law of their noise."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2

import thalweg as tw
from support import (
    agents,
    assert_follows,
    assert_rate,
    equal_curvature,
    gradients,
    quadratics,
    rate_of_modes,
    with_lowest_eigenvalue,
)

N, D = 8, 3
NETWORK = tw.network.geometric(N, seed=3)
SHARP = with_lowest_eigenvalue(NETWORK, -0.6)  # a λ_min that limits the step
WEIGHTS = np.arange(1.0, N + 1)


def stacked(kind, W, gradient, step, rounds):
    """Iterates of the published recursions, from zero."""
    x = [np.zeros((N, D))]
    for _ in range(rounds):
        if kind == "dgd":
            x.append(W @ x[-1] - step * gradient(x[-1]))
        elif kind == "atc":
            x.append(W @ (x[-1] - step * gradient(x[-1])))
        else:
            x.append(W @ x[-1] - step * gradient(W @ x[-1]))
    return x


ALGORITHMS = {
    "dgd": lambda step: tw.DGD(step),
    "atc": lambda step: tw.Diffusion(step),
    "cta": lambda step: tw.Diffusion(step, order="cta"),
}


def fixed_point(kind, W, H, b, step):
    """The limit [n, d], by one dense solve; H = blockdiag(A_i)."""
    I, mix, b = np.eye(N * D), np.kron(W, np.eye(D)), b.ravel()
    matrix, right = {
        "dgd": (I - mix + step * H, -step * b),
        "atc": (I - mix + step * mix @ H, -step * mix @ b),
        "cta": (I - mix + step * H @ mix, -step * b),
    }[kind]
    return np.linalg.solve(matrix, right).reshape(N, D)


def blocks(A):
    H = np.zeros((N * D, N * D))
    for i, block in enumerate(A):
        H[i * D : (i + 1) * D, i * D : (i + 1) * D] = block
    return H


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_recursion_and_limit(kind):
    problem, A, b, x_star = quadratics(N, D, 0, weights=WEIGHTS)
    W, step = NETWORK.mixing.toarray(), 0.1
    algorithm = ALGORITHMS[kind](step)
    assert_follows(problem, algorithm, NETWORK, stacked(kind, W, gradients(A, b), step, 40))
    limit = fixed_point(kind, W, blocks(A), b, step)
    np.testing.assert_allclose(agents(problem, algorithm, NETWORK, 1500), limit, atol=1e-10)

    def bias(step):
        return np.linalg.norm(fixed_point(kind, W, blocks(A), b, step) - x_star)

    assert bias(step) > 1e-2
    assert bias(1e-4) / bias(5e-5) == pytest.approx(2, rel=0.02)  # O(α)


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_rate_and_largest_step(kind):
    a = 2.0
    problem, A, b, _ = equal_curvature(N, D, a, 1)
    W = SHARP.mixing.toarray()
    bound = (1 - 0.6) / a if kind == "dgd" else 2 / a
    for step in (0.3 * bound, 0.95 * bound):
        algorithm = ALGORITHMS[kind](step)
        limit = fixed_point(kind, W, blocks(A), b, step)
        rate = rate_of_modes(algorithm, a, SHARP)
        assert rate < 1
        assert_rate(problem, algorithm, SHARP, limit, rate)
    algorithm = ALGORITHMS[kind](1.05 * bound)
    limit = fixed_point(kind, W, blocks(A), b, 1.05 * bound)
    assert rate_of_modes(algorithm, a, SHARP) > 1
    with pytest.warns(RuntimeWarning, match=f"above the provable bound {bound:.4g}"):
        far = np.linalg.norm(agents(problem, algorithm, SHARP, 1000) - limit)
    assert far > 10 * np.linalg.norm(limit)


def test_diffusion_is_central_on_a_complete_graph():
    problem, A, b, _ = quadratics(5, D, 2)
    network = tw.network.complete(5)
    x = np.zeros(D)
    for _ in range(25):
        x = x - 0.1 * (A.mean(0) @ x + b.mean(0))
    np.testing.assert_allclose(agents(problem, tw.Diffusion(0.1), network, 25), np.tile(x, (5, 1)), atol=1e-12)
    # DGD is not: its agents descend on their own losses.
    assert np.abs(agents(problem, tw.DGD(0.1), network, 25) - x).max() > 1e-2


def half_square(x, data):
    return 0.75 * jnp.sum((x - data) ** 2)


@pytest.mark.parametrize(("kind", "n"), [("dgd", 2), ("dgd", 6), ("atc", 6)])
def test_noise_averages_out_over_agents(kind, n):
    """Stationary variance of the mean estimate: ασ²/(m(2 − αm)n), each of 20,000 coordinates a sample of its own.

    The interval holds with probability 1 − 1e-9.
    """
    m, sigma, step, samples = 1.5, 0.7, 0.4, 20_000
    problem = tw.Consensus(
        half_square,
        np.zeros((n, samples)),
        jnp.zeros(samples),
        smoothness=m,
        strong_convexity=m,
        exact=True,
        gradient_noise=sigma,
    )
    cls = tw.DGD if kind == "dgd" else tw.Diffusion
    x = tw.solve(problem, cls(step, stochastic=True), tw.network.complete(n), rounds=40, every=40, seed=5).x
    expected = step * sigma**2 / (m * (2 - step * m) * n)
    low, high = chi2.ppf([5e-10, 1 - 5e-10], samples) / samples
    assert low < np.mean(np.square(x)) / expected < high


def test_order_is_checked():
    with pytest.raises((ValueError, TypeError), match="act"):
        tw.Diffusion(order="act")
