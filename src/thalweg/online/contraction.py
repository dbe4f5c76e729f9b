"""By how much one round of a method shrinks its distance from the solution of that round, from the problem's own constants.

Axes: `n` agents, `d` variables, `m` rows.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from thalweg.algorithm.local import LocalSGD
from thalweg.algorithm.price import DualAscent, ExtragradientDual
from thalweg.algorithm.server import FedAvg
from thalweg.cohort import Everyone
from thalweg.problem.base import Problem
from thalweg.problem.coupled import Coupled
from thalweg.problem.online import curvatures
from thalweg.problem.regularizer import Zero


@dataclasses.dataclass(frozen=True, eq=False)
class Contraction:
    """‖next − x*‖ ≤ factor·‖now − x*‖ for the solution x* of the round's problem; of prices where a price is set.

    Attributes:
        factor: c, the largest over all rounds; 1 or more where nothing contracts.
        lowest, highest: step size times the smallest and the largest curvature, between which c was looked for.
        weights: `[m]` of prices: the norm is √Σ_j weights_j (·)²; all 1 where every row has the same step. None of a common x.
        gain: of prices: ‖plans − plans'‖ ≤ gain·‖price − price'‖; None of a common x.
        source: "exact" (quadratic costs), "given" or "estimated" (L_i and μ_i).
    """

    factor: float
    lowest: float
    highest: float
    weights: np.ndarray | None
    gain: float | None
    source: str


def contraction(problem: Problem | Coupled, algorithm: Any, rounds: int = 0) -> Contraction:
    """c of a method whose step size is known, on rounds 0 … `rounds` of a problem (round 0 alone where only totals move).

    Dual ascent: with S = P^½ M P^½, P the step sizes of the rows and M = Σ A_i H_i⁻¹ A_iᵀ, c = max |1 − s| over the spectrum of S;
    extragradient: max |1 − s + s²|. Gradient descent, which is `FedAvg` with everybody, one local step on full gradients:
    max(|1 − αμ|, |1 − αL|). Costs that are not quadratic: from L_i and μ_i. An agent with constraints of its own stops responding
    where they bind, so that nothing contracts: c ≥ 1.

    Raises:
        TypeError: another method, of which no such constant is known.
        ValueError: a step size that is not known, a part of the agents, several local steps, noisy gradients.
    """
    name, cohort = type(algorithm).__name__, getattr(algorithm, "cohort", None)
    if not (cohort is None or isinstance(cohort, Everyone)):
        raise ValueError(f"contraction: {name} asks {cohort!r} in a round, expected everybody")
    if isinstance(problem, Coupled) and isinstance(algorithm, DualAscent | ExtragradientDual):
        return _of_prices(problem, algorithm, rounds)
    if isinstance(problem, Problem) and isinstance(algorithm, FedAvg):
        return _of_descent(problem, algorithm, rounds)
    raise TypeError(
        f"contraction: got {name} on {type(problem).__name__}, expected DualAscent or ExtragradientDual on a Coupled problem, or "
        "FedAvg with one local step; pass factor= to tracking_bound where you know it"
    )


def _of_prices(problem: Coupled, algorithm: Any, rounds: int) -> Contraction:
    step = _known(algorithm.step_size, algorithm)
    steps = np.broadcast_to(np.asarray(step, float), (problem.m,))
    equalities = not bool(np.asarray(problem.coupling.inequality).any())
    if isinstance(algorithm, ExtragradientDual) and not equalities:
        raise ValueError("contraction: ExtragradientDual is looked at with equality rows alone")
    free = problem.of_data is None and isinstance(problem.feasible, Zero)
    with jax.enable_x64(True):
        moments = jnp.arange(1 + (rounds if problem.data_signal is not None else 0))
        constants = problem.pricing
        low, high, gram, bend = (
            np.asarray(part, float)
            for part in _responses(problem, moments, jnp.asarray(constants.smoothness), jnp.asarray(constants.strong_convexity))
        )
    quadratic = float(bend.max()) < 1e-6
    exact = quadratic and free
    if not constants.affine:
        raise ValueError("contraction: the coupling is not affine, and the response to a price then has no constant to look up")
    if isinstance(algorithm, ExtragradientDual) and not exact:
        raise ValueError("contraction: ExtragradientDual is looked at with quadratic costs, without constraints of agents' own")
    used = (low[:, int(not quadratic)], high[:, int(not quadratic)], gram[:, int(not exact)])
    if not all(np.isfinite(part).all() for part in used):
        raise ValueError(
            "contraction: some cost is not strongly convex (or has no smoothness), so that responses have no bound"
        )
    root = np.sqrt(steps)
    spectrum = lambda M: np.linalg.eigvalsh(root[:, None] * M * root)
    lowest = spectrum(used[0]).min() if free else 0.0
    highest = spectrum(used[1]).max()
    change = (lambda s: 1 - s) if isinstance(algorithm, DualAscent) else (lambda s: 1 - s + s**2)
    ends = np.array([lowest, highest, *([0.5] if lowest < 0.5 < highest else [])])
    weights = steps.mean() / steps
    scale = 1 / np.sqrt(weights)
    largest = np.linalg.eigvalsh(scale[:, None] * used[2] * scale).max()
    factor = float(np.abs(change(ends)).max())
    return Contraction(
        factor, float(lowest), float(highest), weights, float(np.sqrt(largest)), "exact" if quadratic else constants.source
    )


@eqx.filter_jit
def _responses(problem: Coupled, moments, smoothness, strong_convexity):
    """Per round, of curvatures as they are at x0 and of bounds: M from below and above `[2, m, m]`, Σ A_i H_i⁻² A_iᵀ."""

    def one(k):
        H, A, _, _, bend = curvatures(problem.at(k))
        response = jnp.linalg.solve(H, A.swapaxes(1, 2))
        M = jnp.sum(A @ response, axis=0)
        over = lambda scale: jnp.einsum("nid,njd,n->ij", A, A, 1 / scale)
        gram = jnp.einsum("ndi,ndj->ij", response, response)
        least = jnp.linalg.eigvalsh(H)[:, 0]
        mu = jnp.where(bend < 1e-6, least, strong_convexity)
        low, high = jnp.stack([M, over(smoothness)]), jnp.stack([M, over(strong_convexity)])
        return low, high, jnp.stack([gram, over(mu**2)]), bend

    return jax.lax.map(one, moments)


def _of_descent(problem: Problem, algorithm: FedAvg, rounds: int) -> Contraction:
    solver = algorithm.solver
    plain = isinstance(solver, LocalSGD) and solver.batch_size is None and solver.clip is None and solver.optimizer is None
    if not plain or (solver.steps or solver.epochs or 1) != 1 or callable(solver.learning_rate):
        raise ValueError(
            f"contraction: FedAvg is gradient descent with one local step on full gradients, got {solver!r}; expected "
            "solver=tw.LocalSGD(rate, steps=1)"
        )
    if getattr(problem, "gradient_noise", 0.0) or getattr(problem, "noise", 0.0):
        raise ValueError("contraction: gradients are noisy, and errors then settle at their variance, not at a drift")
    rate = float(_known(solver.learning_rate, algorithm)) * float(algorithm.server_learning_rate)
    problem = problem.folded()
    with jax.enable_x64(True):
        ends, bend = (np.asarray(part, float) for part in _hessians(problem, jnp.arange(1 + (rounds if problem.drifts else 0))))
    if float(bend.max()) < 1e-6:
        low, high, source = float(ends.min()), float(ends.max()), "exact"
    else:
        low, high = float(problem.strong_convexity.mean()), float(problem.smoothness.mean())
        source = problem.constants.source
    factor = max(abs(1 - rate * low), abs(1 - rate * high))
    return Contraction(factor, rate * low, rate * high, None, None, source)


@eqx.filter_jit
def _hessians(problem: Problem, moments):
    """Per round, the ends of the spectrum of ∇²f at x0 `[2]`, and how far f is from quadratic."""
    start, unravel = ravel_pytree(problem.x0)
    away = start + 0.1 * (1 + jnp.abs(start))

    def one(k):
        now = problem.at(k)
        bend = jax.hessian(lambda z: now.objective(unravel(z)))
        H = bend(start)
        change = jnp.max(jnp.abs(bend(away) - H)) / (1 + jnp.max(jnp.abs(H)))
        return jnp.linalg.eigvalsh(H)[jnp.array([0, -1])], change

    return jax.lax.map(one, moments)


def _known(step: Any, algorithm: Any) -> Any:
    if step is None:
        raise ValueError(
            f"contraction: the step size of {type(algorithm).__name__} was left open; pass result.algorithm, in which it is filled"
        )
    return step
