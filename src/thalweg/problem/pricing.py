"""Constants of the dual of a coupled problem: how fast quantities respond to prices.

    D(λ) = Σ_i min_x∈X_i f_i(x) + ⟨λ, g_i(x)⟩ − ⟨λ, b⟩,   −∇²D ≼ M = Σ_i A_i H_i⁻¹ A_iᵀ

with A_i = ∂g_i and H_i = ∇²f_i (constraints only slow the response). Dual ascent is stable for steps below 2/λmax(M).

Axes: `n` agents, `m` rows, `r` rows that one agent touches, `d` variables of one agent.
"""

import dataclasses
from collections.abc import Sequence
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
        gain: `[n]` ‖A_i‖². row_gain: `[m]` max_i ‖row j of A_i‖².
        diagonal: `[m]` M_jj; infinite where somebody's cost is not strongly convex.
        largest: λmax(M), or a bound.
        scaled: λmax(D^−½ M D^−½) with D the diagonal, or a bound: at most the number of rows that an agent touches.
        flattest: λmin(D^−½ M D^−½); 0 where M is not formed.
        peak: `[m]` max_i (A_i H_i⁻¹ A_iᵀ)_jj.
        steepest: a bound of λmax(P^−½ A_i H_i⁻¹ A_iᵀ P^−½) over the agents, with P = diag(peak): 1 where rows do not interact.
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
    row_gain: np.ndarray
    diagonal: np.ndarray
    largest: float
    scaled: float
    flattest: float
    peak: np.ndarray
    steepest: float
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


@dataclasses.dataclass(frozen=True, eq=False)
class Survey:
    """What is measured of some agents, so that surveys of several sites can be joined.

    Attributes:
        each: `[n]` of every agent: "lowest" and "highest" curvature that was seen, "smoothness", "strong_convexity", "gain".
        worst: numbers of which the largest counts: how far from affine ("twist") and quadratic ("bend") agents are, how much a row
            curves the wrong way ("warp"), "steep".
        peaks: `[m]` of which the largest counts: "peak", "row_gain".
        sums: that add up: "diagonal", "least", "most" `[m]`, and M `[m, m]`, or `[0, 0]` where it is not formed.
    """

    each: dict[str, np.ndarray]
    worst: dict[str, float]
    peaks: dict[str, np.ndarray]
    sums: dict[str, np.ndarray]

    @classmethod
    def joined(cls, parts: Sequence["Survey"]) -> "Survey":
        """The survey of the agents of all parts, in their order."""
        over = lambda field, how: {name: how([getattr(p, field)[name] for p in parts]) for name in getattr(parts[0], field)}
        highest = lambda found: np.max(found, axis=0)
        return cls(over("each", np.concatenate), over("worst", max), over("peaks", highest), over("sums", sum))


def pricing(problem: "Coupled") -> Pricing:
    """See `Pricing`."""
    return priced(problem, survey(problem))


def survey(problem: "Coupled") -> Survey:
    """From derivatives at x0 and at two random points around it, in X_i where that can be projected onto."""
    d, r = problem.size, problem.pieces.share.shape[1]
    batch = max(1, min(problem.n, NUMBERS_AT_ONCE // max(1, 4 * d * d + 2 * r * (d + r))))
    given_L, given_mu = problem.curvature
    mu = jnp.ones(problem.n, problem.dtype) if given_mu is None else jnp.asarray(given_mu, problem.dtype)
    found = []
    for start in range(0, problem.n, batch):
        here = slice(start, min(problem.n, start + batch))
        pieces = jax.tree.map(lambda leaf, here=here: leaf[here], problem.pieces)
        each, worst, peaks, sums = jax.tree.map(np.asarray, _part(problem.with_pieces(pieces), mu[here]))
        found.append(Survey(each, jax.tree.map(float, worst), peaks, sums))
    whole = Survey.joined(found)
    lowest, highest = whole.each["lowest"], whole.each["highest"]
    constants = {
        "smoothness": np.asarray(highest if given_L is None else given_L, float),
        "strong_convexity": np.maximum(np.asarray(lowest if given_mu is None else given_mu, float), 0),
    }
    return dataclasses.replace(whole, each=whole.each | constants)


def priced(problem: "Coupled", found: Survey) -> Pricing:
    """The constants of the dual of `problem`, of whose agents this was measured."""
    r, needs_hessian = problem.pieces.share.shape[1], any(part is None for part in problem.curvature)
    number = lambda values: np.asarray(values, float)
    D, M = number(found.sums["diagonal"]), number(found.sums["M"])
    flattest, steepest = 0.0, found.worst["steep"]
    if not np.isfinite(D).all():
        largest = scaled = steepest = np.inf
    elif M.size:
        scale = 1 / np.sqrt(np.where(D > 0, D, 1))
        largest = float(np.linalg.eigvalsh(M)[-1])
        flattest, scaled = np.linalg.eigvalsh(scale[:, None] * M * scale)[[0, -1]].tolist()
    else:
        largest, scaled = float(r * D.max()), float(r)
    source = "given" if not needs_hessian else "exact" if found.worst["bend"] < 1e-6 else "estimated"
    smooth, lowest = found.each["smoothness"], number(found.each["lowest"])
    return Pricing(
        smoothness=smooth,
        strong_convexity=found.each["strong_convexity"],
        gain=number(found.each["gain"]),
        row_gain=number(found.peaks["row_gain"]),
        diagonal=D,
        largest=largest,
        scaled=scaled,
        flattest=max(flattest, 0.0),
        peak=number(found.peaks["peak"]),
        steepest=steepest,
        touched=r,
        touching=number(problem.coupling.touching),
        lowest=lowest,
        total=number(problem.coupling.total),
        source=source,
        convex=not needs_hessian or bool(lowest.min() >= -1e-9 * max(1.0, float(smooth.max()))),
        affine=found.worst["twist"] < 1e-6,
        bulging=found.worst["warp"] < 1e-6,
        least=number(found.sums["least"]),
        most=number(found.sums["most"]),
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


def _highest(entries, rows, m: int):
    """max over agents of their entries ≥ 0, row by row."""
    place = jnp.where(rows < 0, m, rows).reshape(-1)
    return jnp.zeros(m, entries.dtype).at[place].max(entries.reshape(-1), mode="drop")


@eqx.filter_jit
def _part(problem: "Coupled", mu):
    rows = problem.pieces.rows
    each, worst, peaks, sums, M = jax.vmap(lambda piece, mu: _one(problem, piece, mu))(problem.pieces, mu)
    added = lambda leaf: jnp.sum(leaf, axis=0) if rows is None else scattered(leaf, rows, problem.m)
    highest = lambda leaf: jnp.max(leaf, axis=0) if rows is None else _highest(leaf, rows, problem.m)
    sums = jax.tree.map(added, sums) | {"M": jnp.sum(M, axis=0)}
    return each, jax.tree.map(jnp.max, worst), jax.tree.map(highest, peaks), sums


def _one(problem: "Coupled", piece, mu):
    """Of one agent: the parts of a `Survey`, with M by itself; without constants that were given."""
    given_L, given_mu = problem.curvature
    start, unravel = ravel_pytree(problem.x0)
    d, dense = start.shape[0], problem.pieces.rows is None and problem.m <= DENSE_ROWS
    spread = 0.1 * (1 + jnp.abs(start).max(initial=0))
    points = [start, *(start + spread * jax.random.normal(jax.random.key(s), start.shape, start.dtype) for s in range(2))]
    senses = problem.coupling.low, problem.coupling.high
    needs_hessian = given_mu is None or given_L is None
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
    width = 1 / jnp.sqrt(jnp.where(jnp.diagonal(M) > 0, jnp.diagonal(M), 1))
    steep = jnp.max(jnp.sum(jnp.abs(M) * width[:, None] * width[None], axis=1), initial=0)
    worst = {"twist": twist, "bend": bend, "warp": warp, "steep": steep}
    sums = {"diagonal": diagonal, "least": span[0], "most": span[1]}
    peaks = {"peak": diagonal, "row_gain": jnp.sum(A**2, axis=1)}
    each = {"lowest": low, "highest": high, "gain": jnp.sum(A**2)}
    return each, worst, peaks, sums, M if dense else jnp.zeros((0, 0), M.dtype)


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
