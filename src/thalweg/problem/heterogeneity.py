"""How different the agents are: the numbers that bounds for distributed methods depend on.

Axes: `n` agents.
"""

import dataclasses

import jax
import numpy as np
from jaxtyping import PyTree

from thalweg.problem.base import Problem
from thalweg.problem.reference import in_float64, reference


@dataclasses.dataclass(frozen=True, eq=False)
class Heterogeneity:
    """Measures of difference between the f_i, with f = Σ_i w_i f_i.

    Attributes:
        zeta_squared: ζ² = Σ w_i ‖∇f_i(x*) − ∇f(x*)‖² at the solution (or the given point); 0 for identical agents.
        dissimilarity: B² = Σ w_i ‖∇f_i(x0)‖² / ‖∇f(x0)‖² ≥ 1 at the start; infinite if ∇f(x0) = 0.
        smoothness_spread: max_i L_i / min_i L_i of the φ_i = n·w_i·f_i, over agents with w_i > 0.
        per_agent: float64 `[n]`, ‖∇f_i(x*) − ∇f(x*)‖².
        names: the agents' names, or None.
    """

    zeta_squared: float
    dissimilarity: float
    smoothness_spread: float
    per_agent: np.ndarray
    names: tuple[str, ...] | None = None

    def __repr__(self) -> str:
        worst = int(np.argmax(self.per_agent))
        who = f"agent {worst}" if self.names is None else self.names[worst]
        return (
            f"Heterogeneity(ζ² = {self.zeta_squared:.4g} at the solution, B² = {self.dissimilarity:.4g} at the start, "
            f"max L / min L = {self.smoothness_spread:.4g}, farthest: {who})"
        )


def heterogeneity(problem: Problem, x: PyTree | None = None) -> Heterogeneity:
    """Measure how different the agents of `problem` are, in float64.

    Arguments:
        x: where to take ζ²; the central solution `reference(problem).x` when left out.

    Raises:
        RuntimeError: `x` was left out and there is no reference solution.
        ValueError: `x` is not like x0.
    """
    if x is None:
        x = reference(problem).x
    elif jax.tree.map(np.shape, x) != jax.tree.map(np.shape, problem.x0):
        raise ValueError(
            f"heterogeneity x: got shapes {jax.tree.map(np.shape, x)}, expected those of x0, "
            f"{jax.tree.map(np.shape, problem.x0)}"
        )
    smoothness = problem.constants.smoothness[problem.weights > 0]
    with jax.enable_x64(True):
        wide = in_float64(problem)
        at_x, at_start = _flat_gradients(wide, in_float64(x)), _flat_gradients(wide, wide.x0)
    weights = problem.weights
    per_agent = np.sum((at_x - weights @ at_x) ** 2, axis=1)
    pooled = np.sum((weights @ at_start) ** 2)
    dissimilarity = weights @ np.sum(at_start**2, axis=1) / pooled if pooled > 0 else np.inf
    least = smoothness.min()
    return Heterogeneity(
        zeta_squared=float(weights @ per_agent),
        dissimilarity=float(dissimilarity),
        smoothness_spread=float(smoothness.max() / least) if least > 0 else np.inf,
        per_agent=per_agent,
        names=problem.names,
    )


def _flat_gradients(problem: Problem, x: PyTree) -> np.ndarray:
    """∇f_i(x), `[n, d]`."""
    leaves = jax.tree.leaves(problem.gradients(x))
    return np.concatenate([np.asarray(leaf).reshape(problem.n, -1) for leaf in leaves], axis=1)
