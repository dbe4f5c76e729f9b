"""Constants of the dual of a coupled problem: how fast quantities respond to prices.

    D(λ) = Σ_i min_x∈X_i f_i(x) + ⟨λ, g_i(x)⟩ − ⟨λ, b⟩,   −∇²D ≼ M = Σ_i A_i H_i⁻¹ A_iᵀ

with A_i = ∂g_i and H_i = ∇²f_i (constraints only slow the response). Dual ascent is stable for steps below 2/λmax(M).

Axes: `n` agents, `m` rows, `r` rows that one agent touches, `d` variables of one agent.
"""

import dataclasses
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from thalweg.problem.coupling import heard, scattered
from thalweg.problem.regularizer import Box, Regularizer

if TYPE_CHECKING:
    from thalweg.problem.coupled import Coupled

# Up to this many rows M is formed; above, and with sparse rows, it is bounded by its diagonal.
DENSE_ROWS = 512
# Agents whose derivatives are held at once, in numbers.
NUMBERS_AT_ONCE = 20_000_000


@dataclasses.dataclass(frozen=True, eq=False)
class Pricing:
    """Constants of the dual.

    Attributes:
        smoothness, strong_convexity: `[n]` L_i and μ_i of the f_i.
        gain: `[n]` ‖A_i‖².
        diagonal: `[m]` M_jj; infinite where somebody's cost is not strongly convex.
        largest: λmax(M), or a bound.
        scaled: λmax(D^−½ M D^−½) with D the diagonal, or a bound: at most the number of rows that an agent touches.
        touched: how many rows one agent touches at most; touching: `[m]` how many agents touch a row.
        lowest: `[n]` the smallest curvature that was seen, negative where a cost is not convex.
        total: `[m]` b.
        source: "exact" (quadratic costs, affine coupling), "given", or "estimated" (from second derivatives at a few points).
        convex: whether no negative curvature was seen; affine: whether the g_i are; bulging: whether they curve the way that their
            rows' senses need, upwards where Σ g ≤ b, downwards where Σ g ≥ b.
        least, most: `[m]` what Σ g_i can be over the X_i; infinite where that is not known.
    """

    smoothness: np.ndarray
    strong_convexity: np.ndarray
    gain: np.ndarray
    diagonal: np.ndarray
    largest: float
    scaled: float
    touched: int
    touching: np.ndarray
    lowest: np.ndarray
    total: np.ndarray
    source: str
    convex: bool
    affine: bool
    least: np.ndarray
    most: np.ndarray
    bulging: bool = True


def pricing(problem: "Coupled") -> Pricing:
    """See `Pricing`. From derivatives at x0 and at two random points around it, in X_i where that can be projected onto."""
    given_L, given_mu = problem.curvature
    start, unravel = ravel_pytree(problem.x0)
    d, r = start.shape[0], problem.pieces.share.shape[1]
    dense = problem.pieces.rows is None and problem.m <= DENSE_ROWS
    spread = 0.1 * (1 + float(jnp.abs(start).max(initial=0)))
    points = [start, *(start + spread * jax.random.normal(jax.random.key(s), start.shape, start.dtype) for s in range(2))]
    senses = problem.coupling.low, problem.coupling.high
    needs_hessian = given_mu is None or given_L is None

    def one(args):
        piece, mu = args
        local = problem.local(piece)
        cost, quantity = (lambda row: local.value(unravel(row))), (lambda row: local.quantity(unravel(row)))
        # Within X_i: elsewhere a cost may not be defined, or not convex.
        set_ = local.feasible
        inside = lambda row: ravel_pytree(set_.prox(unravel(row), 1.0))[0]
        projects = isinstance(set_, Regularizer) and set_.indicator and not hasattr(set_, "reach")
        around = [inside(row) for row in points] if projects else points
        A = jax.jacobian(quantity)(start)
        twist = jnp.max(jnp.abs(jax.jacobian(quantity)(points[1]) - A), initial=0)
        warp = _wrong_way(quantity, around[1:], start, *(heard(bound, piece.rows) for bound in senses))
        bend, span = twist, reach(local, local.quantity(problem.x0), A, start)
        if needs_hessian:
            H = [jax.hessian(cost)(point) for point in around]
            values, basis = jnp.linalg.eigh(H[0])
            extremes = jnp.stack([jnp.linalg.eigvalsh(h)[jnp.array([0, -1])] for h in H])
            low, high = extremes[:, 0].min(), jnp.abs(extremes).max()
            bend = jnp.maximum(bend, jnp.max(jnp.abs(jnp.stack(H[1:]) - H[0][None])) / (1 + high))
            floor = d * jnp.finfo(start.dtype).eps * high
            exact = jnp.where(values > floor, values, 0)
            B = A @ basis
            M = (B / jnp.where(exact > 0, exact, 1)[None]) @ B.T
            flat = jnp.any(exact == 0)
            if given_mu is not None:
                M, flat = A @ A.T / jnp.where(mu > 0, mu, 1), mu <= 0
            low = jnp.where(low > floor, low, jnp.where(low < -floor, low, 0))
        else:
            low = high = mu
            M, flat = A @ A.T / jnp.where(mu > 0, mu, 1), mu <= 0
        diagonal = jnp.where(flat & (jnp.sum(A**2, axis=1) > 0), jnp.inf, jnp.diagonal(M))
        extent = {"twist": twist, "bend": bend, "warp": warp}
        sums = (diagonal, *span), M if dense else jnp.zeros((0, 0), M.dtype)
        return (low, high, jnp.sum(A**2)), extent, sums

    batch = max(1, min(problem.n, NUMBERS_AT_ONCE // max(1, 4 * d * d + 2 * r * (d + r))))
    mu = jnp.ones(problem.n, problem.dtype) if given_mu is None else jnp.asarray(given_mu, problem.dtype)
    (low, high, gain), extent, ((diagonal, *span), M) = _gathered(problem, one, mu, batch)
    smooth = np.asarray(high if given_L is None else given_L, float)
    strong = np.maximum(np.asarray(low if given_mu is None else given_mu, float), 0)
    D = np.asarray(diagonal, float)
    touched = r
    if not np.isfinite(D).all():
        largest = scaled = np.inf
    elif dense:
        M = np.asarray(M, float)
        scale = 1 / np.sqrt(np.where(D > 0, D, 1))
        largest = float(np.linalg.eigvalsh(M)[-1])
        scaled = float(np.linalg.eigvalsh(scale[:, None] * M * scale)[-1])
    else:
        largest, scaled = float(touched * D.max()), float(touched)
    source = "given" if not needs_hessian else "exact" if extent["bend"] < 1e-6 else "estimated"
    convex = bool(np.min(np.asarray(low)) >= -1e-9 * max(1.0, float(np.max(smooth)))) if needs_hessian else True
    least, most = (np.asarray(bound, float) for bound in span)
    return Pricing(
        smoothness=smooth,
        strong_convexity=strong,
        gain=np.asarray(gain, float),
        diagonal=D,
        largest=largest,
        scaled=scaled,
        touched=touched,
        touching=np.asarray(problem.coupling.touching, float),
        lowest=np.asarray(low, float),
        total=np.asarray(problem.coupling.total, float),
        source=source,
        convex=convex,
        affine=extent["twist"] < 1e-6,
        bulging=extent["warp"] < 1e-6,
        least=least,
        most=most,
    )


def _wrong_way(quantity, points, start, low, high):
    """How much a row that is ≤ curves downwards, or one that is ≥ upwards, along a few directions."""
    found = []
    for seed, point in enumerate(points):
        v = jax.random.normal(jax.random.key(2 + seed), start.shape, start.dtype)
        along = lambda row, v=v: jax.jvp(quantity, (row,), (v,))[1]
        second = jax.jvp(along, (point,), (v,))[1] / jnp.maximum(jnp.sum(v**2), 1e-12).astype(start.dtype)
        found.append(jnp.max(jnp.where(low == 0, -second, jnp.where(high == 0, second, 0)), initial=0))
    return jnp.max(jnp.stack(found))


def _gathered(problem: "Coupled", one, mu, batch: int):
    """`one` of every agent, in batches; rows and matrices are summed as they come."""
    n, m = problem.n, problem.m

    @eqx.filter_jit
    def part(pieces, mu):
        each, extent, (rows, M) = jax.vmap(lambda piece, mu: one((piece, mu)))(pieces, mu)
        added = lambda leaf: jnp.sum(leaf, axis=0) if pieces.rows is None else scattered(leaf, pieces.rows, m)
        return each, jax.tree.map(jnp.max, extent), (jax.tree.map(added, rows), jnp.sum(M, axis=0))

    found = []
    for start in range(0, n, batch):
        here = slice(start, min(n, start + batch))
        found.append(part(jax.tree.map(lambda leaf, here=here: leaf[here], problem.pieces), mu[here]))
    each, extent, sums = zip(*found, strict=True)
    together = lambda how, parts: jax.tree.map(lambda *leaves: how(leaves), *parts)
    return together(jnp.concatenate, each), together(lambda leaves: float(max(leaves)), extent), together(sum, sums)


def reach(local, quantity, A, start):
    """(least, most) of each of the quantities g(x) = `quantity` + A (x − `start`) over an agent's X_i; infinite if not known."""
    r = local.feasible
    if isinstance(r, Box):
        low, high = (ravel_pytree(bound)[0] - start for bound in r.bounds(local.x0))
        # Bounds beyond all numbers stand for none.
        low, high = jnp.where(low < -1e29, -jnp.inf, low), jnp.where(high > 1e29, jnp.inf, high)
        end = lambda pick: jnp.sum(jnp.where(A == 0, 0, pick(A * low[None], A * high[None])), axis=1)
        return quantity + end(jnp.minimum), quantity + end(jnp.maximum)
    if hasattr(r, "reach"):  # of agents in groups
        return r.reach(quantity, A, start)
    return jnp.full_like(quantity, -jnp.inf), jnp.full_like(quantity, jnp.inf)
