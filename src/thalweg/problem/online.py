"""Central solutions of a problem that drifts, round by round.

Axes: `k` rounds, `n` agents, `d` variables of x (of one agent, where problems are coupled), `m` rows of a coupling.
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
from thalweg.problem.coupled import Coupled
from thalweg.problem.reference import Reference, in_float64, reference
from thalweg.problem.regularizer import Zero

# Newton's method forms Hessians up to this many variables; above, every round is solved by itself.
DENSE_VARIABLES = 300
NEWTON_STEPS, HALVINGS = 50, 12


@dataclasses.dataclass(frozen=True, eq=False)
class References:
    """The central solutions of rounds 0 … K, NumPy arrays in float64.

    Attributes:
        x: x*_k, like x0 with a leading axis K + 1; of a coupled problem the plans, with leading axes K + 1, n.
        objective: `[K + 1]` F_k(x*_k).
        price: `[K + 1, m]` of a coupled problem, else None.
        residual: the largest norm of what vanishes at a solution (gradient, or KKT conditions), over all rounds.
        solver: how they were found.
    """

    x: PyTree
    objective: np.ndarray
    price: np.ndarray | None
    residual: float
    solver: str

    @property
    def rounds(self) -> int:
        """K: a run of as many rounds can be measured."""
        return len(self.objective) - 1

    def at(self, k: int) -> Reference:
        """The solution of round `k`."""
        x = jax.tree.map(lambda leaf: leaf[k], self.x)
        price = None if self.price is None else self.price[k]
        said = f"round {k}: residual at most {self.residual:.2e}, in float64"
        return Reference(x, float(self.objective[k]), self.residual, said, self.solver, price)

    def drift(self, start: int = 0) -> np.ndarray:
        """‖x*_(k+1) − x*_k‖ of rounds `start` … K − 1."""
        rows = _rows(self.x)
        return np.linalg.norm(np.diff(rows, axis=0), axis=1)[start:]

    def __repr__(self) -> str:
        return f"References({self.rounds + 1} rounds, residual {self.residual:.1e}, {self.solver})"


def references(problem: Problem | Coupled, rounds: int, tol: float | int = 1e-8) -> References:
    """The solutions of `problem.at(k)` for k = 0 … `rounds`, to measure a run of so many rounds against.

    Coupled problems with quadratic costs and equality rows alone: their KKT equations. Smooth problems without a coupling, up to
    300 variables: Newton's method from the solution of the round before. All others: `tw.reference` in every round.

    Accepted when every residual is at most tol·max(1, size of the data: ‖∇f(x0)‖, |b|).

    Raises:
        RuntimeError: some round has no solution that meets this.
        ValueError: `rounds` is negative, `tol` not positive.
    """
    if not (isinstance(rounds, int | np.integer) and rounds >= 0):
        raise ValueError(f"references rounds: got {rounds!r}, expected a whole number, 0 or more")
    if not tol > 0:
        raise ValueError(f"references tol: got {tol}, expected a positive number such as 1e-8")
    with jax.enable_x64(True):
        exact, moments = in_float64(problem), jnp.arange(rounds + 1)
        if isinstance(problem, Coupled):
            closed = _equalities(exact)
            found, solver = (_kkt(exact, moments) if closed else None), "KKT equations"
        else:
            smooth = exact.regularizer is None or exact.regularizer.smooth
            closed = smooth and exact.size <= DENSE_VARIABLES
            found, solver = (_newton(exact, moments) if closed else None), "Newton's method"
        if found is not None:
            rows, objective, price, residual = (None if part is None else np.asarray(part) for part in found)
            if np.isfinite(rows).all() and np.all(residual <= tol):
                return References(_leaves(exact, rows), objective, price, float(residual.max()), solver)
    return _one_by_one(problem, rounds, None if not isinstance(problem, Coupled) else max(tol, 1e-7))


def _one_by_one(problem: Any, rounds: int, tol: float | None) -> References:
    found = []
    for k in range(rounds + 1):
        try:
            found.append(reference(problem.at(k), tol))
        except RuntimeError as error:
            raise RuntimeError(f"references: round {k}: {error}") from error
    x = jax.tree.map(lambda *leaves: np.stack(leaves), *(each.x for each in found))
    price = None if found[0].price is None else np.stack([each.price for each in found])
    objective = np.array([each.objective for each in found])
    return References(x, objective, price, max(each.residual for each in found), found[0].solver)


def _rows(x: PyTree) -> np.ndarray:
    """`[K + 1, …]` as one row per round."""
    leaves = jax.tree.leaves(x)
    return np.concatenate([np.asarray(leaf, float).reshape(len(leaf), -1) for leaf in leaves], axis=1)


def _leaves(problem: Any, rows: np.ndarray) -> PyTree:
    """Rows `[..., d]` as x."""
    unravel = ravel_pytree(problem.x0)[1]
    for _ in rows.shape[:-1]:
        unravel = jax.vmap(unravel)
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), unravel(jnp.asarray(rows)))


@eqx.filter_jit
def _newton(problem: Problem, moments):
    """(x* `[K + 1, d]`, objective, None, relative residual) of every round."""
    start, unravel = ravel_pytree(problem.x0)

    def one(z, k):
        now = problem.at(k)
        value = lambda z: now.objective(unravel(z))
        slope, bend = jax.grad(value), jax.hessian(value)
        limit = jnp.maximum(1, jnp.linalg.norm(slope(start)))

        def step(carry):
            z, g, i, _ = carry
            move = jnp.linalg.solve(bend(z), g)
            size = jnp.linalg.norm(g)
            worse = lambda c: (jnp.linalg.norm(slope(z - c[0] * move)) >= size) & (c[1] < HALVINGS)
            t, halved = jax.lax.while_loop(worse, lambda c: (c[0] / 2, c[1] + 1), (jnp.ones(()), 0))
            better = halved < HALVINGS
            moved = jnp.where(better, z - t * move, z)
            return moved, slope(moved), i + 1, better

        going = lambda c: (c[2] < NEWTON_STEPS) & c[3]
        z, g, _, _ = jax.lax.while_loop(going, step, (z, slope(z), 0, jnp.asarray(True)))
        return z, (z, value(z), jnp.linalg.norm(g) / limit)

    x, objective, residual = jax.lax.scan(one, start, moments)[1]
    return x, objective, None, residual


def _equalities(problem: Coupled) -> bool:
    """Whether KKT conditions are equations: nothing but equality rows."""
    return problem.of_data is None and isinstance(problem.feasible, Zero) and not bool(problem.coupling.inequality.any())


@eqx.filter_jit
def _kkt(problem: Coupled, moments):
    """(plans `[K + 1, n, d]`, cost, prices, relative residual) of every round; NaN where costs are not quadratic."""

    def one(k):
        now = problem.at(k)
        H, A, q, g, bend = curvatures(now)
        toward = jnp.linalg.solve(H, jnp.concatenate([A.swapaxes(1, 2), q[:, :, None]], axis=2))
        response, free = toward[:, :, :-1], toward[:, :, -1]
        M = jnp.sum(A @ response, axis=0)
        excess = jnp.sum(g - jnp.einsum("nmd,nd->nm", A, free), axis=0) - now.coupling.total
        price = jnp.linalg.solve(M, excess)
        moved = -free - response @ price
        rows = moved + ravel_pytree(now.x0)[0][None, :]
        unravel = ravel_pytree(now.x0)[1]
        plans = jax.vmap(unravel)(rows)
        left = now.quantity(plans) - now.coupling.total
        still = jnp.einsum("nij,nj->ni", H, moved) + q + jnp.einsum("nmd,m->nd", A, price)
        size = 1 + jnp.max(jnp.abs(now.coupling.total)) + jnp.max(jnp.abs(q))
        residual = jnp.maximum(jnp.max(jnp.abs(left)), jnp.max(jnp.abs(still))) / size
        return rows, now.objective(plans), price, jnp.where(bend < 1e-6, residual, jnp.nan)

    return jax.lax.map(one, moments)


def curvatures(problem: Coupled):
    """Of every agent at x0: Hessian `[n, d, d]`, Jacobian of its quantities over all rows `[n, m, d]`, gradient, quantities
    `[n, m]`; and how far costs and quantities are from quadratic and affine."""
    start, unravel = ravel_pytree(problem.x0)
    away = start + 0.1 * (1 + jnp.abs(start))

    def one(piece):
        local = problem.local(piece)
        cost = lambda row: local.value(unravel(row))
        quantity = lambda row: local.quantity(unravel(row))
        H, A = jax.hessian(cost)(start), jax.jacobian(quantity)(start)
        bend = jnp.max(jnp.abs(jax.hessian(cost)(away) - H), initial=0) / (1 + jnp.max(jnp.abs(H), initial=0))
        twist = jnp.max(jnp.abs(jax.jacobian(quantity)(away) - A), initial=0)
        g = quantity(start)
        if piece.rows is not None:
            place = jnp.where(piece.rows < 0, problem.m, piece.rows)
            A = jnp.zeros((problem.m, A.shape[1]), A.dtype).at[place].add(A, mode="drop")
            g = jnp.zeros(problem.m, g.dtype).at[place].add(g, mode="drop")
        return H, A, jax.grad(cost)(start), g, jnp.maximum(bend, twist)

    H, A, q, g, bend = jax.vmap(one)(problem.pieces)
    return H, A, q, g, jnp.max(bend)
