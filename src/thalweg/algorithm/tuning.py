"""Default step sizes: the best predicted rate, from an algorithm's own `modes`."""

import dataclasses

import numpy as np

from .base import Facts, PeerAlgorithm

# Curvatures below L times this are not waited for: a merely convex problem has no linear rate to optimise.
SMALLEST_CURVATURE = 1e-4
# Equal curvatures are assumed by `modes`; agents differ, so the default keeps this fraction of the stable range.
SAFETY = 0.5


def predicted_rate(algorithm: PeerAlgorithm, facts: Facts) -> float:
    """Contraction per round on quadratics of equal curvature, the worst over curvatures in [μ, L] and eigenvalues of W.

    The spectral radius of `algorithm.modes(curvature, eigenvalue)` over eigenvalues in [λ_min, σ] and, for the mean
    (eigenvalue 1), over the modes other than the conserved ones at exactly 1.

    Raises:
        ValueError: the algorithm states no modes.
    """
    low = -facts.sigma if facts.lambda_min is None else facts.lambda_min
    largest = facts.smoothness or 1.0
    smallest = max(facts.strong_convexity, SMALLEST_CURVATURE * largest)
    worst = 0.0
    for curvature in np.geomspace(smallest, largest, 3):
        matrices = [algorithm.modes(curvature, eigenvalue) for eigenvalue in np.linspace(low, facts.sigma, 7)]
        mean = algorithm.modes(curvature, 1.0)
        if mean is None:
            raise ValueError(f"{type(algorithm).__name__} states no modes, so no rate can be predicted")
        if facts.n > 1:
            worst = max(worst, np.abs(np.linalg.eigvals(np.stack(matrices))).max())
        moving = np.linalg.eigvals(mean)
        moving = moving[np.abs(moving - 1) > 1e-6]
        worst = max(worst, np.abs(moving).max(initial=0.0))
    return float(worst)


def tuned_step(algorithm: PeerAlgorithm, facts: Facts) -> float:
    """The step size in (0, bound/2] with the best predicted rate (the larger one where rates are alike)."""
    steps = SAFETY * algorithm.step_bound(facts) * np.geomspace(1, 1e-3, 36)
    rates = [predicted_rate(dataclasses.replace(algorithm, step_size=float(step)), facts) for step in steps]
    return float(steps[int(np.argmin(np.round(rates, 9)))])
