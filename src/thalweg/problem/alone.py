"""What each agent reaches alone, and whether bounds on everybody's loss can be met together.

Axes: `n` agents, `d` variables.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from thalweg.problem.base import Problem
from thalweg.problem.reference import in_float64, reference

MAX_ITERATIONS = 2000
MEMORY = 20


@dataclasses.dataclass(frozen=True, eq=False)
class Alone:
    """Every agent's own minimiser.

    Attributes:
        losses: float64 `[n]`, f_i at the agent's own minimiser (f_i + r where the problem has a smooth regulariser).
        models: like x0 with a leading axis n, NumPy arrays in float64.
        residuals: `[n]`, ‖∇f_i‖ there.
        converged: `[n]`, whether the residual is at most tol·max(1, ‖∇f_i(x0)‖).
    """

    losses: np.ndarray
    models: PyTree
    residuals: np.ndarray
    converged: np.ndarray


def alone(problem: Problem, tol: float | int = 1e-8) -> Alone:
    """min_x f_i(x) of every agent by itself, from x0, by L-BFGS in float64, all agents side by side.

    For bounds such as `1.1 * tw.alone(problem).losses`. A convex f_i gives its minimum; else a local one, downhill of x0.

    Raises:
        ValueError: `tol` is not positive, or r is not smooth.
    """
    if not tol > 0:
        raise ValueError(f"alone tol: got {tol}, expected a positive number such as 1e-8")
    with jax.enable_x64(True):
        exact = in_float64(problem.folded())
        values, rows, residuals, first = map(np.asarray, _minimised(exact, jnp.asarray(tol, jnp.float64)))
        unravel = ravel_pytree(exact.x0)[1]
        models = jax.tree.map(np.asarray, jax.vmap(unravel)(jnp.asarray(rows)))
    return Alone(values, models, residuals, residuals <= tol * np.maximum(1, first))


@eqx.filter_jit
def _minimised(problem: Problem, tol):
    import optax

    start, unravel = ravel_pytree(problem.x0)
    solver = optax.lbfgs(memory_size=MEMORY)

    def one(piece):
        value = lambda z: problem.local(piece).loss(unravel(z))
        value_and_grad = jax.value_and_grad(value)
        first_value, first = value_and_grad(start)
        limit = tol * jnp.maximum(1, jnp.linalg.norm(first))

        def step(carry):
            z, state, f, g, best, k = carry
            updates, state = solver.update(g, state, z, value=f, grad=g, value_fn=value)
            z = optax.apply_updates(z, updates)
            f, g = value_and_grad(z)
            size = jnp.linalg.norm(g)
            better = f < best[1]
            best = jax.tree.map(lambda a, b: jnp.where(better, a, b), (z, f, size), best)
            return z, state, f, g, best, k + 1

        def going(carry):
            _, _, _, g, _, k = carry
            return (jnp.linalg.norm(g) > limit) & (k < MAX_ITERATIONS) & jnp.all(jnp.isfinite(g))

        carry = (start, solver.init(start), first_value, first, (start, first_value, jnp.linalg.norm(first)), 0)
        z, f, size = jax.lax.while_loop(going, step, carry)[4]
        return f, z, size, jnp.linalg.norm(first)

    return jax.vmap(one)(problem.pieces)


@dataclasses.dataclass(frozen=True, eq=False)
class Feasibility:
    """What prices λ, scaled to sum to one, prove of bounds f_i(x) ≤ b_i.

    Attributes:
        excess: min_x Σ λ_i (f_i(x) − b_i). If it is positive, no model meets all bounds (f_i convex).
        infeasible: whether that is proved: `excess` above what its own certificate leaves open.
        shares: `[n]`, λ.
        clients: names of the agents that hold each other back, largest share first.
        x: where the minimum is; its worst violation is `violation` = max_i f_i(x) − b_i.
        violation: as said.
        certificate: in words and numbers.
    """

    excess: float
    infeasible: bool
    shares: np.ndarray
    clients: tuple[str, ...]
    x: PyTree
    violation: float
    certificate: str

    def __str__(self) -> str:
        return self.certificate


def feasibility(problem: Problem, bounds: Any, prices: Any, tol: float | int = 1e-9) -> Feasibility:
    """Whether `prices` `[n]` prove that no model meets the `bounds` (a number, or `[n]`): a lower bound from one central solve.

    For every x, max_i (f_i(x) − b_i) ≥ Σ λ_i (f_i(x) − b_i), whatever λ ≥ 0 with Σ λ_i = 1. The minimum of the right side is
    found with all data in one place (`tw.reference`), so this is for simulations and audits. With a smooth regulariser f_i means
    f_i + r.

    Raises:
        ValueError: prices or bounds of a wrong shape, negative, or all zero.
        RuntimeError: the central solve failed.
    """
    shares = np.asarray(prices, float)
    if shares.shape != (problem.n,) or not (shares >= 0).all() or not shares.sum() > 0:
        raise ValueError(f"feasibility prices: got {prices!r}, expected ({problem.n},) numbers ≥ 0, one of them positive")
    limits = np.broadcast_to(np.asarray(bounds, float), shares.shape)
    shares = np.where(np.isfinite(limits), shares, 0.0)
    if not shares.sum() > 0:
        raise ValueError("feasibility: all prices belong to clients without a bound; expected one with a finite bound")
    shares = shares / shares.sum()
    found = reference(_mixture(problem, shares), tol)
    limits_mean = float(np.sum(np.where(shares > 0, shares * np.where(shares > 0, limits, 0), 0)))
    excess = found.objective - limits_mean
    with jax.enable_x64(True):
        exact = in_float64(problem)
        losses = np.asarray(exact.losses(found.x)) + (
            0.0 if exact.regularizer is None else float(exact.regularizer.value(found.x))
        )
    margin = tol * max(1.0, abs(found.objective), abs(limits_mean))
    infeasible = excess > margin
    order = [int(i) for i in np.argsort(-shares) if shares[i] > 1e-3]
    names = tuple(problem.names[i] if problem.names else f"client {i}" for i in order)
    who = ", ".join(f"{name} {shares[i]:.3f}" for name, i in zip(names, order, strict=True))
    verdict = "no model meets the bounds of these clients together" if infeasible else "nothing is proved by these prices"
    text = f"{verdict}: min over x of Σ λ_i (f_i(x) − b_i) is {excess:.4g} with λ = ({who}); {found.certificate}, f_i convex"
    finite = np.isfinite(limits)
    return Feasibility(excess, bool(infeasible), shares, names, found.x, float((losses - limits)[finite].max()), text)


def _mixture(problem: Problem, shares: np.ndarray) -> Problem:
    """The same clients with these weights."""
    return eqx.tree_at(lambda p: p.weights, problem, shares)
