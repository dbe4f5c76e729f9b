"""A central solution of a coupled problem, to measure distributed runs against.

Quadratic costs with affine coupling over boxes, polyhedra, balls and second-order cones go to Clarabel (extra "central"), bids to
HiGHS; other smooth ones to SciPy's trust-region interior point, for up to a few hundred variables. Everything in float64.

Axes: `n` agents, `d` variables of one agent, `m` rows.
"""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from thalweg._extras import require
from thalweg.problem.allocation import is_bids
from thalweg.problem.central_bids import central_bids
from thalweg.problem.certificate import certify
from thalweg.problem.cones import Ball, SecondOrderCone
from thalweg.problem.polyhedron import Polyhedron
from thalweg.problem.regularizer import Box, Simplex, Zero, bound_like

if TYPE_CHECKING:
    from thalweg.problem.coupled import Coupled

SCIPY_VARIABLES = 500


def central(problem: "Coupled", tol: float) -> tuple[Any, np.ndarray, str]:
    """(plans with a leading axis n, price `[m]`, solver).

    Raises:
        RuntimeError: the solver failed, or its solution is not certified to `tol` (relative gap or stationarity, violation).
        ValueError: a kind of problem that no central solver here takes.
    """
    start, unravel = ravel_pytree(problem.x0)
    if is_bids(problem):
        rows, price = central_bids(problem, *_senses(problem))
        return _accepted(problem, jnp.asarray(rows, start.dtype), price, "HiGHS", tol)
    parts = jax.vmap(lambda piece: _derivatives(problem, piece, start, unravel))(problem.pieces)
    sets = _sets(problem, start)
    if problem.pricing.source == "exact" or float(jnp.max(parts["bend"])) < 1e-6:
        rows, price, solver = *_clarabel(problem, parts, sets, _cones(problem, start)), "Clarabel"
    elif problem.n * problem.size <= SCIPY_VARIABLES and problem.pricing.affine:
        rows, price, solver = *_scipy(problem, parts, sets, start, unravel), "SciPy trust-constr"
    else:
        raise ValueError(
            f"reference: got {problem.n * problem.size} variables with costs that are not quadratic, expected at most "
            f"{SCIPY_VARIABLES}; a result's own certificate needs no reference"
        )
    return _accepted(problem, jax.vmap(unravel)(jnp.asarray(rows, start.dtype)), price, solver, tol)


def _accepted(problem, plans, price, solver: str, tol: float):
    """What was found, if it is certified."""
    found = certify(problem, price, plans)
    measure = found.stationarity if np.isfinite(found.stationarity) else found.relative_gap
    if not (abs(measure) <= tol and max(found.violation, found.outside) <= tol):
        raise RuntimeError(f"reference: {solver} ended without a certificate of {tol:.0e}: {found}")
    return plans, price, f"{solver}: {found}"


def _derivatives(problem, piece, start, unravel):
    """Of one agent: f = c + q·x + ½xᵀHx around x0, g = g0 + A(x − x0), and how far f is from quadratic."""
    local = problem.local(piece)
    cost = lambda row: local.value(unravel(row))
    away = start + 0.1 * (1 + jnp.abs(start))
    H = jax.hessian(cost)(start)
    quantity = lambda row: local.quantity(unravel(row))
    bend = jnp.max(jnp.abs(jax.hessian(cost)(away) - H), initial=0) / (1 + jnp.max(jnp.abs(H), initial=0))
    return {"H": H, "q": jax.grad(cost)(start), "A": jax.jacobian(quantity)(start), "g": quantity(start), "bend": bend}


def _sets(problem, start):
    """Rows (G, h, E, e) of every agent: G z ≤ h, E z = e for z = x − x0."""

    def one(piece):
        r = problem.local(piece).feasible
        d = start.shape[0]
        none = jnp.zeros((0, d)), jnp.zeros(0)
        if isinstance(r, Zero):
            return *none, *none
        if isinstance(r, Box):
            low, high = (ravel_pytree(bound)[0] - start for bound in r.bounds(problem.x0))
            return jnp.concatenate([jnp.eye(d), -jnp.eye(d)]), jnp.concatenate([high, -low]), *none
        if isinstance(r, Simplex):
            return -jnp.eye(d), start, jnp.ones((1, d)), jnp.asarray([r.total - start.sum()])
        if isinstance(r, Ball | SecondOrderCone):  # see `_cone`
            return *none, *none
        if isinstance(r, Polyhedron):
            equal = none if r.A is None else (r.A, r.b - r.A @ start)
            return r.G, r.h - r.G @ start, *equal
        raise ValueError(f"reference: no central solver for the local set {type(r).__name__}; see the result's own certificate")

    return jax.vmap(one)(problem.pieces)


def _cones(problem, start):
    """(M, k) of every agent: its local set is k + M z in the second-order cone, for z = x − x0; None where it is no cone."""
    first = problem.local(jax.tree.map(lambda leaf: leaf[0], problem.pieces)).feasible
    if not isinstance(first, Ball | SecondOrderCone):
        return None
    if len(jax.tree.leaves(problem.x0)) > 1 or start.ndim != 1 or jnp.ndim(jax.tree.leaves(problem.x0)[0]) != 1:
        raise ValueError("reference: got a cone over a variable of several parts, expected one vector for a central solution")

    def one(piece):
        r, d = problem.local(piece).feasible, start.shape[0]
        if isinstance(r, Ball):
            center = ravel_pytree(bound_like(r.center, problem.x0))[0]
            return jnp.concatenate([jnp.zeros((1, d)), jnp.eye(d)]), jnp.concatenate([jnp.ravel(r.radius), start - center])
        M = jnp.roll(jnp.eye(d), 1, axis=0).at[0].multiply(r.slope)  # Clarabel's cones have t first
        return M, M @ start

    return jax.vmap(one)(problem.pieces)


def _stacked(problem, parts):
    """Rows of the coupling over all variables, sparse `[m, n·d]`, and what is left of b at x0."""
    import scipy.sparse as sparse

    A, g = np.asarray(parts["A"], float), np.asarray(parts["g"], float)
    n, r, d = A.shape
    rows = np.broadcast_to(np.arange(r), (n, r)) if problem.pieces.rows is None else np.asarray(problem.pieces.rows)
    used = np.broadcast_to((rows >= 0)[:, :, None], A.shape) & (A != 0)
    at = np.broadcast_to(rows[:, :, None], A.shape)[used]
    columns = np.broadcast_to(np.arange(n * d).reshape(n, 1, d), A.shape)[used]
    left = np.asarray(problem.coupling.total, float).copy()
    np.subtract.at(left, rows[rows >= 0], g[rows >= 0])
    return sparse.csc_matrix((A[used], (at, columns)), shape=(problem.m, n * d)), left


def _senses(problem):
    low, high = np.asarray(problem.coupling.low), np.asarray(problem.coupling.high)
    equal = (low < 0) & (high > 0)
    return equal, np.where(high > 0, 1.0, -1.0)


def _clarabel(problem, parts, sets, round_sets):
    import scipy.sparse as sparse

    clarabel = require("clarabel", "central")
    A, left = _stacked(problem, parts)
    equal, sign = _senses(problem)
    G, h, E, e = (np.asarray(part, float) for part in sets)
    n, d = problem.n, problem.size
    diagonal = lambda blocks: (
        sparse.block_diag(list(blocks), format="csc") if blocks.shape[1] else sparse.csc_matrix((0, n * d))
    )
    finite = np.isfinite(h.ravel()) & (np.abs(h.ravel()) < 1e29)
    zero = sparse.vstack([A[equal], diagonal(E)], format="csc")
    above = sparse.vstack([sparse.diags(sign[~equal]) @ A[~equal], diagonal(G)[finite]], format="csc")
    b = np.concatenate([left[equal], e.ravel(), (sign * left)[~equal], h.ravel()[finite]])
    P = sparse.triu(diagonal(np.asarray(parts["H"], float)), format="csc")
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-12
    cones = [clarabel.ZeroConeT(zero.shape[0]), clarabel.NonnegativeConeT(above.shape[0])]
    q, rows = np.asarray(parts["q"], float).ravel(), [zero, above]
    if round_sets is not None:  # Clarabel wants b − Ax in its cones
        M, k = (np.asarray(part, float) for part in round_sets)
        rows, b = [*rows, -diagonal(M)], np.concatenate([b, k.ravel()])
        cones += [clarabel.SecondOrderConeT(M.shape[1])] * n
    found = clarabel.DefaultSolver(P, q, sparse.vstack(rows, format="csc"), b, cones, settings).solve()
    if "Solved" not in str(found.status):
        raise RuntimeError(f"reference: Clarabel ended with {found.status}")
    z, price = np.asarray(found.z), np.zeros(problem.m)
    price[equal] = z[: equal.sum()]
    price[~equal] = sign[~equal] * z[zero.shape[0] : zero.shape[0] + (~equal).sum()]
    return np.asarray(found.x).reshape(n, d) + np.asarray(ravel_pytree(problem.x0)[0]), price


def _scipy(problem, parts, sets, start, unravel):
    from scipy.linalg import block_diag
    from scipy.optimize import LinearConstraint, minimize

    A, left = _stacked(problem, parts)
    equal, sign = _senses(problem)
    G, h, E, e = (np.asarray(part, float) for part in sets)
    n, d = problem.n, problem.size
    total = jax.jit(lambda z: problem.objective(jax.vmap(unravel)(z.reshape(n, d) + start[None])))
    slope, bend = jax.jit(jax.grad(total)), jax.jit(jax.hessian(total))
    highest = np.where(equal | (sign > 0), left, np.inf)
    rows = [LinearConstraint(A.toarray(), np.where(equal | (sign < 0), left, -np.inf), highest)]
    blocks = lambda part: block_diag(*part)
    if G.shape[1]:
        rows.append(LinearConstraint(blocks(G), -np.inf, h.ravel(), keep_feasible=True))
    if E.shape[1]:
        rows.append(LinearConstraint(blocks(E), e.ravel(), e.ravel()))
    inside = np.clip(np.zeros(n * d), *_middle(G, h, n, d))
    numpy = lambda f: lambda z: np.asarray(f(jnp.asarray(z)))
    options = {"gtol": 1e-12, "xtol": 1e-14, "barrier_tol": 1e-13, "maxiter": 5000}
    found = minimize(
        numpy(total), inside, jac=numpy(slope), hess=numpy(bend), constraints=rows, method="trust-constr", options=options
    )
    return found.x.reshape(n, d) + np.asarray(start), np.asarray(found.v[0])


def _middle(G, h, n, d):
    """A little inside of boxes, where costs such as logarithms are finite."""
    if G.shape[1:] != (2 * d, d) or not np.allclose(G, np.concatenate([np.eye(d), -np.eye(d)])):
        return -np.inf, np.inf
    high, low = h[:, :d].ravel(), -h[:, d:].ravel()
    room = np.where(np.isfinite(high - low), 1e-3 * (high - low), 0)
    return low + room, high - room
