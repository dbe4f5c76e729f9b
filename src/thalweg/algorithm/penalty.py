"""Choosing the penalty of an ADMM method from public constants."""

from collections.abc import Callable

import numpy as np

from thalweg.algorithm.base import Facts

# With little or no strong convexity the predicted rate is that of the flattest direction, and says nothing of the others.
WORST_CONDITION = 100.0


def best_penalty(modes: Callable[[float, float, float, float], np.ndarray], facts: Facts) -> float:
    """The ρ with the best predicted rate: the smallest spectral radius of the worst mode.

    Args:
        modes: (ρ, curvature, degree, adjacency eigenvalue) → iteration matrix, as on a regular network.
        facts: public constants. Curvatures are L = max L_i and max(min μ_i, L/100); the degree is the mean of the largest and
            the smallest, d, and adjacency eigenvalues are d, d − l_2 and d − l_n with l the eigenvalues of the Laplacian.

    Exact on regular networks with equal curvatures; elsewhere a guide, which cannot cost convergence.
    """
    if facts.smoothness is None:
        return 1.0
    curvatures = {facts.smoothness, max(facts.strong_convexity, facts.smoothness / WORST_CONDITION)}
    if facts.n == 1:
        return min(curvatures)
    degree = 0.5 * (facts.max_degree + facts.min_degree)
    eigenvalues = {degree} | {max(degree - value, -degree) for value in (facts.laplacian_2, facts.laplacian_max)}

    def worst(penalty: float) -> float:
        each = (modes(penalty, a, degree, m) for a in curvatures for m in eigenvalues)
        return max(np.abs(np.linalg.eigvals(matrix)).max() for matrix in each)

    low, high = 1e-3 * min(curvatures), 1e3 * max(curvatures)
    for _ in range(4):
        grid = np.geomspace(low, high, 41)
        best = int(np.argmin([worst(penalty) for penalty in grid]))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    return float(grid[best])


def geometric_penalty(facts: Facts) -> float:
    """ρ = √(L·max(μ, L/100)), L = max L_i and μ = min μ_i; 1 where the losses are not smooth.

    √(μL) has the best proved rate of Douglas-Rachford splitting: Pontus Giselsson, Stephen Boyd, *Linear convergence and metric
    selection for Douglas-Rachford splitting and ADMM*, IEEE Transactions on Automatic Control 62, 2017.
    """
    if facts.smoothness is None:
        return 1.0
    return float(np.sqrt(facts.smoothness * max(facts.strong_convexity, facts.smoothness / WORST_CONDITION)))
