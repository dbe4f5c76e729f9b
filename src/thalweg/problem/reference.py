"""A central solution with its certificate, to measure distributed runs against.

    F(x) = f(x) + r(x),   f(x) = Σ_i w_i f_i(x)

Everything is computed in float64, whatever the dtype of the problem, and is deterministic.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from thalweg.problem.base import Problem
from thalweg.problem.central import central
from thalweg.problem.coupled import Coupled
from thalweg.problem.regularizer import Zero

DENSE_VARIABLES = 1000
MAX_POLISH = 30
MAX_PROXIMAL = 100_000


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
    """The central solution.

    Attributes:
        x: like x0, NumPy arrays in float64.
        objective: F(x).
        residual: what the certificate bounds: ‖∇F(x)‖, or the prox-gradient residual L·‖x − prox_{r/L}(x − ∇f(x)/L)‖.
        certificate: the condition that was met, in words and numbers.
        solver: how it was found.
        price: `[m]` of a coupled problem, whose `x` are the agents' plans, with a leading axis n.
    """

    x: PyTree
    objective: float
    residual: float
    certificate: str
    solver: str
    price: np.ndarray | None = None


def in_float64(tree: PyTree) -> PyTree:
    """Floating arrays in float64, all else as it is. Only within `jax.enable_x64(True)`."""

    def convert(leaf):
        floating = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.asarray(leaf, jnp.float64) if floating else leaf

    return jax.tree.map(convert, tree)


def reference(problem: Problem | Coupled, tol: float | int | None = None) -> Reference:
    """Solve the problem as if all data were in one place.

    Coupled problems: Clarabel (extra "central") where costs are quadratic, else SciPy; accepted by `certify`, to `tol` (1e-6 when
    left out). All others as follows, with `tol` 1e-10 when left out.

    Smooth problems: SciPy's trust-region Newton method (L-BFGS above 1000 variables), then plain Newton steps as long
    as they reduce the gradient. With a non-smooth r: accelerated proximal gradient with restarts (Beck and Teboulle
    2009; O'Donoghue and Candès 2015) and backtracking.

    Accepted when residual ≤ tol·max(1, ‖∇f(x0)‖). For a convex problem that certifies a minimiser; else a stationary
    point, which the certificate says when the Hessian shows it.

    Raises:
        RuntimeError: the certificate was not met; there may be no minimiser (separable data without a regulariser).
        ValueError: `tol` is not positive.
    """
    if isinstance(problem, Coupled):
        return _coupled(problem, 1e-6 if tol is None else tol)
    tol = 1e-10 if tol is None else tol
    if not tol > 0:
        raise ValueError(f"reference tol: got {tol}, expected a positive number such as 1e-10")
    with jax.enable_x64(True):
        problem = in_float64(problem)
        start, unravel = ravel_pytree(problem.x0)
        limit = tol * max(1.0, float(jnp.linalg.norm(ravel_pytree(problem.gradient(problem.x0))[0])))
        smooth = problem.regularizer is None or problem.regularizer.smooth
        solve = _newton if smooth else _proximal
        z, residual, remark, solver = solve(problem, start, unravel, limit)
        objective = float(problem.objective(unravel(z)))
        x = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), unravel(z))
    name = "gradient norm" if smooth else "prox-gradient residual"
    if not residual <= limit:
        raise RuntimeError(
            f"no reference solution: got {name} {residual:.2e} from {solver}, expected at most {limit:.2e}; the problem may "
            "have no minimiser (add tw.l2(1e-6)) or be badly conditioned (scale the data, or pass a larger tol)"
        )
    return Reference(x, objective, residual, f"{name} {residual:.2e} ≤ {limit:.2e}{remark}, in float64", solver)


def _newton(problem: Problem, start: Any, unravel: Callable, limit: float) -> tuple[Any, float, str, str]:
    import scipy.optimize
    import scipy.sparse.linalg

    def objective(z):
        return problem.objective(unravel(z))

    evaluate, gradient = jax.jit(jax.value_and_grad(objective)), jax.jit(jax.grad(objective))
    product = jax.jit(lambda z, p: jax.jvp(jax.grad(objective), (z,), (p,))[1])
    hessian = jax.jit(jax.hessian(objective))
    dense = start.size <= DENSE_VARIABLES

    def both(z):
        value, slope = evaluate(z)
        return float(value), np.asarray(slope)

    if dense:
        options = {"method": "trust-exact", "hess": lambda z: np.asarray(hessian(z)), "options": {"gtol": limit}}
    else:
        options = {"method": "L-BFGS-B", "options": {"gtol": limit, "ftol": 0.0, "maxiter": 5000, "maxfun": 10_000}}
    z = scipy.optimize.minimize(both, np.asarray(start), jac=True, **options).x

    def newton_step(z, slope):
        if dense:
            return np.linalg.lstsq(np.asarray(hessian(z)), -slope, rcond=None)[0]
        operator = scipy.sparse.linalg.LinearOperator((z.size, z.size), lambda p: np.asarray(product(z, p)), dtype=float)
        return scipy.sparse.linalg.cg(operator, -slope, rtol=1e-8, maxiter=2000)[0]

    # Function values cannot steer the last digits, so the final steps are judged by the gradient alone.
    slope = np.asarray(gradient(z))
    for _ in range(MAX_POLISH):
        trial = z + newton_step(z, slope)
        trial_slope = np.asarray(gradient(trial))
        if not np.linalg.norm(trial_slope) < np.linalg.norm(slope):
            break
        z, slope = trial, trial_slope
    solver = f"SciPy {options['method']} and Newton steps"
    return z, float(np.linalg.norm(slope)), _curvature_remark(hessian(z)) if dense else "", solver


def _curvature_remark(hessian: Any) -> str:
    eigenvalues = np.linalg.eigvalsh(np.asarray(hessian))
    if eigenvalues[0] < -1e-8 * abs(eigenvalues).max():
        return f" (a saddle or maximum: smallest Hessian eigenvalue {eigenvalues[0]:.2e})"
    if eigenvalues[0] < 1e-12 * eigenvalues[-1]:
        return " (the minimiser may not be unique: the Hessian is singular)"
    return ""


def _proximal(problem: Problem, start: Any, unravel: Callable, limit: float) -> tuple[Any, float, str, str]:
    gradient = jax.grad(lambda z: jnp.sum(problem.weights * problem.losses(unravel(z))))
    term = problem.regularizer or Zero()

    def prox_step(y, slope, curvature):
        moved = term.prox(unravel(y - slope / curvature), 1 / curvature)
        return ravel_pytree(moved)[0]

    def too_steep(y, slope, x, curvature):
        d = x - y
        rise = jnp.vdot(gradient(x) - slope, d)
        return rise > curvature * jnp.vdot(d, d) + 1e-13 * jnp.linalg.norm(slope) * jnp.linalg.norm(d)

    def step(state):
        x, y, momentum, curvature, _, iteration = state
        slope = gradient(y)
        curvature = jax.lax.while_loop(lambda c: too_steep(y, slope, prox_step(y, slope, c), c), lambda c: 2 * c, curvature)
        new = prox_step(y, slope, curvature)
        # Restart when the step points against the momentum: then the extrapolation has overshot.
        restart = jnp.vdot(y - new, new - x) > 0
        momentum = jnp.where(restart, 1.0, momentum)
        grown = 0.5 * (1 + jnp.sqrt(1 + 4 * momentum**2))
        y = new + jnp.where(restart, 0.0, (momentum - 1) / grown) * (new - x)
        residual = curvature * jnp.linalg.norm(new - prox_step(new, gradient(new), curvature))
        return new, y, grown, curvature, residual, iteration + 1

    def unfinished(state):
        *_, residual, iteration = state
        return (residual > limit) & (iteration < MAX_PROXIMAL)

    @jax.jit
    def run(start):
        # Feasible from the first iterate on, also when x0 is not.
        first = ravel_pytree(term.prox(unravel(start), 1.0))[0]
        state = (first, first, jnp.ones(()), jnp.full((), 1e-3), jnp.full((), jnp.inf), 0)
        return jax.lax.while_loop(unfinished, step, state)

    x, _, _, _, residual, iterations = run(start)
    return x, float(residual), "", f"accelerated proximal gradient, {int(iterations)} iterations"


def _coupled(problem: Coupled, tol: float) -> Reference:
    if not tol > 0:
        raise ValueError(f"reference tol: got {tol}, expected a positive number such as 1e-6")
    with jax.enable_x64(True):
        exact = in_float64(problem)
        plans, price, solver = central(exact, tol)
        objective, violation = float(exact.objective(plans)), float(exact.violation(plans))
        x = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), plans)
    return Reference(x, objective, violation, solver, solver.split(":")[0], price)
