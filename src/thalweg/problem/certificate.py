"""How good a price and plans are, checked without the method that found them.

Axes: `n` agents, `m` rows of the coupling.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from thalweg._trees import minus, norm
from thalweg.problem.coupled import Coupled
from thalweg.problem.coupling import heard
from thalweg.problem.grouped import GroupedSet
from thalweg.problem.polyhedron import Polyhedron
from thalweg.problem.pricing import reach


@dataclasses.dataclass(frozen=True, eq=False)
class Certificate:
    """The conditions of Karush, Kuhn and Tucker, number by number; all are 0 at an optimum.

    Attributes:
        objective: Σ f_i(x_i), to be read beside `violation` only.
        dual: a lower bound of the optimal cost, valid whatever the plans: from a full sweep of best responses at the price;
            −∞ where none can be proved.
        gap: objective − dual. `relative_gap`: over max(1, |dual|).
        violation: max_j |excess_j| / max(1, |b_j|).
        outside: how far the worst plan is from its own X_i.
        slackness: max_j |λ_j (Σ g − b)_j| of the inequalities.
        stationarity: max_i ‖x_i − prox(x_i − ∇_x(f_i + ⟨λ, g_i⟩)(x_i))‖; NaN over polyhedra, which have no prox, and where costs
            are said not to be smooth.
        worst: the agent at which it is attained.
    """

    objective: float
    dual: float
    gap: float
    violation: float
    outside: float
    slackness: float
    stationarity: float
    worst: int

    @property
    def relative_gap(self) -> float:
        """gap / max(1, |dual|)."""
        return self.gap / max(1.0, abs(self.dual))

    def holds(self, gap: float | int = 1e-6, violation: float | int = 1e-6) -> bool:
        """Whether relative gap, violation of the rows and of the agents' own sets are at most these."""
        return abs(self.relative_gap) <= gap and max(self.violation, self.outside) <= violation

    def __str__(self) -> str:
        if np.isfinite(self.dual):
            bound = f"cost at least {self.dual:.6g}, relative gap {self.relative_gap:.2g}"
        else:
            bound = "no certificate: no lower bound could be proved"
        still = "" if np.isnan(self.stationarity) else f", stationarity {self.stationarity:.2g}"
        rows = f"violation {self.violation:.2g}, outside own sets {self.outside:.2g}, slackness {self.slackness:.2g}"
        return f"{bound}; {rows}{still}"


def certify(problem: Coupled, price: Any, plans: PyTree) -> Certificate:
    """The certificate of `plans` (leading axis n) at `price` `[m]`; one sweep of best responses."""
    price = jnp.asarray(price, problem.dtype)
    dual, _ = problem.dual(price)
    value, outside, residual = _conditions(problem, price, plans)
    if not np.isfinite(problem.pricing.smoothness).all():
        residual = jnp.full_like(residual, jnp.nan)
    quantity = problem.quantity(plans)
    objective, residual = float(jnp.sum(value)), np.asarray(residual)
    worst = int(np.nanargmax(residual)) if np.isfinite(residual).any() else 0
    return Certificate(
        objective=objective,
        dual=float(dual),
        gap=objective - float(dual),
        violation=float(problem.coupling.violation(quantity)),
        outside=float(jnp.max(outside)),
        slackness=float(problem.coupling.slackness(price, quantity)),
        stationarity=float(residual[worst]),
        worst=worst,
    )


def infeasible(problem: Coupled, price: Any) -> str | None:
    """A proof that no plan is feasible, in words; None if `price` is none.

    By Farkas: if min over all x_i ∈ X_i of ⟨λ, Σ g_i(x_i) − b⟩ > 0 for a λ of the right signs, nothing meets all rows. A price
    that grows without bound is such a λ. Looks at affine couplings over boxes only.
    """
    price = problem.coupling.project(jnp.asarray(price, problem.dtype))
    size = float(jnp.max(jnp.abs(price)))
    if not (np.isfinite(size) and size > 0 and problem.pricing.affine):
        return None
    direction = price / size
    margin = float(_least(problem, direction) - jnp.sum(direction * problem.coupling.total))
    scale = float(jnp.sum(jnp.abs(direction * problem.coupling.total)))
    if not (np.isfinite(margin) and margin > 1e-6 * (1 + scale)):
        return None
    order = [j for j in np.argsort(-np.abs(np.asarray(direction))) if abs(float(direction[j])) > 1e-3]
    rows = ", ".join(f"{float(direction[j]):.3g} × {problem.row_names[j]!r}" for j in order[:5])
    return f"no plan is feasible: over all plans {rows} is off its total by at least {margin:.4g}"


@eqx.filter_jit
def _least(problem: Coupled, direction):
    """min over all x_i ∈ X_i of ⟨direction, Σ g_i(x_i)⟩."""
    start, unravel = ravel_pytree(problem.x0)

    def one(piece):
        local, price = problem.local(piece), heard(direction, piece.rows)
        weighed = lambda row: jnp.sum(price * local.quantity(unravel(row)))[None]
        return reach(local, weighed(start), jax.jacobian(weighed)(start), start)[0][0]

    return jnp.sum(jax.vmap(one)(problem.pieces))


@eqx.filter_jit
def _conditions(problem: Coupled, price, plans):
    """Per agent: f_i(x_i), distance to X_i, prox-gradient residual."""

    return jax.vmap(lambda piece, x: _of_one(problem.local(piece), heard(price, piece.rows), x))(problem.pieces, plans)


def _of_one(local, price, x):
    """As `_conditions`, of one agent."""
    r = local.feasible
    if isinstance(r, GroupedSet):  # as its own group has it; what lies beyond its variables is outside

        def own(local, g, row, price):
            head = r.kinds.head(g, row)
            value, outside, residual = _of_one(local, price[: local.share.shape[0]], head)
            beyond = norm(row - r.kinds.row(head))
            return tuple(number.astype(row.dtype) for number in (value, outside + beyond, residual))

        return r.kinds.choose(r.member, own, x, price)
    value = local.cost(x)
    if isinstance(r, Polyhedron):
        return value, r.violation(x), jnp.full_like(value, jnp.nan)
    gradient = jax.grad(local.lagrangian)(x, price)
    stepped = r.prox(jax.tree.map(lambda v, g: v - g, x, gradient), 1.0)
    outside = norm(minus(x, r.prox(x, 1.0))) if r.indicator else jnp.zeros_like(value)
    return value, outside, norm(minus(x, stepped))
