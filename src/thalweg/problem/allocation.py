"""Coupled problems whose best responses are known in closed form, also with the quadratic term of ADMM:

- `allocation`: quadratic costs with a box, one row per variable or any linear coupling;
- `bids`: piecewise linear costs (linear bids of a market);
- `network_utility`: log utilities of flows that share links.

Axes: `n` agents, `d` variables of one agent, `m` rows, `s` segments of a bid, `r` links of a route.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thalweg.problem.coupled import Coupled
from thalweg.problem.pricing import Pricing
from thalweg.problem.regularizer import box
from thalweg.problem.respond import ClosedForm, Descent


def allocation(
    curvature: Any,
    target: Any,
    total: Any,
    *,
    low: Any = -np.inf,
    high: Any = np.inf,
    sense: Any = "=",
    coupling: Any = None,
    names: Sequence[str] | None = None,
    row_names: Sequence[str] | None = None,
    dtype: Any = None,
    **options: Any,
) -> Coupled:
    """minimise Σ_i Σ_k ½ a_ik (x_ik − c_ik)² subject to Σ_i A_i x_i = b (or ≤, ≥), low ≤ x ≤ high.

    Without bounds and with A_i = I: λ_k = (Σ_i c_ik − b_k)/Σ_i 1/a_ik, x_ik = c_ik − λ_k/a_ik.

    Arguments:
        curvature: a `[n, d]`, or anything that broadcasts to it; > 0.
        target: c `[n, d]`.
        total: b, a number or `[m]`.
        low, high: bounds, anything that broadcasts to `[n, d]`.
        coupling: A `[n, m, d]`; the identity when left out (m = d).
        sense, names, row_names, options: as for `Coupled`.

    Raises:
        ValueError: shapes that do not fit, curvature ≤ 0, low > high.
    """
    c = np.asarray(target)
    if c.ndim != 2:
        raise ValueError(f"allocation: got target of shape {c.shape}, expected [n, d]: what every agent would like")
    dtype = dtype or (c.dtype if np.issubdtype(c.dtype, np.floating) else float)
    a, low, high = (np.asarray(v, float) for v in (curvature, low, high))
    for name, v in (("curvature", a), ("low", low), ("high", high)):
        if v.shape not in ((), (1,), c.shape[1:], (1, c.shape[1]), (len(c), 1), c.shape):
            raise ValueError(
                f"allocation: got {name} of shape {v.shape}, expected a number, [n, 1] = ({len(c)}, 1) for one of each agent, "
                f"or [n, d] = {c.shape}"
            )
    if not (a > 0).all():
        raise ValueError("allocation: curvature must be > 0 everywhere; use tw.bids for linear costs")
    if not (np.broadcast_to(low, c.shape) <= np.broadcast_to(high, c.shape)).all():
        raise ValueError("allocation: got low > high somewhere, expected low ≤ high")
    # What is the same for all agents, or all variables, is held once per agent: memory is what a large market costs.
    each = lambda v: np.broadcast_to(v, (len(c), 1) if v.ndim == 0 or v.shape[-1:] == (1,) else c.shape)
    bounded = np.isfinite(low).any() or np.isfinite(high).any()
    data = {"a": each(a), "c": c} | ({"low": each(_finite(low)), "high": each(_finite(high))} if bounded else {})
    data = {name: np.asarray(leaf, dtype) for name, leaf in data.items()}
    options |= {"names": names, "row_names": row_names, "sense": sense}
    options |= {"x0": np.zeros(c.shape[1], dtype), "local": _box if bounded else None}
    if coupling is None:
        options |= {"constants": _separable}
        total = np.full(c.shape[1], total) if np.ndim(total) == 0 else total
        return Coupled(_quadratic, data, coupling=_itself, total=total, solver=ClosedForm(_quadratic_response, True), **options)
    A = np.asarray(coupling, dtype)
    if A.ndim != 3 or A.shape[::2] != c.shape:
        raise ValueError(f"allocation: got coupling of shape {A.shape}, expected [{len(c)}, m, {c.shape[1]}]")
    solver = ClosedForm(_quadratic_response, False, Descent(strong_convexity=float(a.min())))
    return Coupled(_quadratic, data | {"A": A}, coupling=_linear, total=total, solver=solver, **options)


def bids(
    prices: Any,
    widths: Any,
    total: Any,
    *,
    sense: Any = "=",
    names: Sequence[str] | None = None,
    row_names: Sequence[str] | None = None,
) -> Coupled:
    """minimise Σ_i cost_i(x_i) subject to Σ_i x_i = b (or ≤, ≥): every agent bids segments, each at a constant price.

    cost_i is piecewise linear and convex: the first `widths[i, t, 0]` units of row t cost `prices[i, t, 0]` each, and so on;
    0 ≤ x_it ≤ Σ_s widths. A price that clears the market makes the marginal segment indifferent: its owner's best response
    jumps, so that no price alone gives a feasible plan. Use `ExchangeADMM`, `ProximalBundle` or `DualSubgradient`.

    Arguments:
        prices: `[n, m, s]`, not decreasing along s.
        widths: `[n, m, s]`, ≥ 0.
        total: b, a number or `[m]`.

    Raises:
        ValueError: shapes that differ, prices that fall, negative widths.
    """
    p, w = np.asarray(prices, float), np.asarray(widths, float)
    if p.ndim != 3 or p.shape != w.shape:
        raise ValueError(f"bids: got prices {p.shape} and widths {w.shape}, expected both [n, m, s]")
    if (w < 0).any() or (np.diff(p, axis=2) < 0).any():
        raise ValueError("bids: widths must be ≥ 0, and prices must not fall along the last axis (a convex cost)")
    total = np.full(p.shape[1], total) if np.ndim(total) == 0 else total
    data = {"price": p, "width": w, "from": np.cumsum(w, axis=2) - w}
    return Coupled(
        _bid_cost, data, coupling=_itself, total=total, sense=sense, x0=np.zeros(p.shape[1]), names=names, row_names=row_names,
        local=_bid_box, solver=ClosedForm(_bid_response, True), smoothness=np.inf, strong_convexity=0.0,
    )  # fmt: skip


def network_utility(
    utility: Any,
    routes: Any,
    capacity: Any,
    *,
    low: float | int = 1e-3,
    high: Any = None,
    names: Sequence[str] | None = None,
    row_names: Sequence[str] | None = None,
) -> Coupled:
    """maximise Σ_i u_i log x_i subject to Σ_{i: l ∈ route_i} x_i ≤ capacity_l on every link l: network utility maximisation.

    The price of a link is what it charges per unit of flow; a flow pays the sum along its route, x_i = u_i / Σ_l λ_l.

    Arguments:
        utility: u `[n]`, > 0.
        routes: `[n, r]` the links of each flow, −1 where there are fewer; or a list of lists.
        capacity: `[m]`, > 0.
        low, high: bounds of a flow; `high` is the smallest capacity along its route when left out.

    Raises:
        ValueError: what is not positive, routes without links.
    """
    u, capacity = np.asarray(utility, float), np.asarray(capacity, float)
    longest = max(len(route) for route in routes)
    rows = np.array([[*route, *[-1] * (longest - len(route))] for route in routes])
    if (u <= 0).any() or (capacity <= 0).any() or (rows < 0).all(axis=1).any():
        raise ValueError("network_utility: utilities and capacities must be > 0, and every flow needs a link")
    most = np.where(rows >= 0, capacity[rows], np.inf).min(axis=1) if high is None else np.broadcast_to(high, u.shape)
    if (most <= low).any():
        raise ValueError(f"network_utility: low = {low} leaves no room below {most.min()}; choose a smaller low")
    data = {"u": u, "used": (rows >= 0).astype(float), "low": np.full(u.shape, float(low)), "high": most}
    return Coupled(
        _log_cost, data, coupling=_along, total=capacity, sense="<=", x0=np.ones(()) * low, rows=rows, names=names,
        row_names=row_names, local=_flow_box, solver=ClosedForm(_log_response, True),
        smoothness=u / low**2, strong_convexity=u / most**2,
    )  # fmt: skip


@jax.jit
def _sums(data):
    """Of separable quadratics: per agent max and min of a, Σ and max of 1/a, and what Σ x can be."""
    a, shape = data["a"], data["c"].shape
    wide = lambda leaf: jnp.broadcast_to(leaf, shape)
    unbounded = {"low": jnp.full((1, 1), -jnp.inf, a.dtype), "high": jnp.full((1, 1), jnp.inf, a.dtype)}
    low, high = (wide({**unbounded, **data}[name]) for name in ("low", "high"))
    low, high = jnp.where(low < -1e29, -jnp.inf, low), jnp.where(high > 1e29, jnp.inf, high)
    response = wide(1 / a)
    return a.max(1), a.min(1), jnp.sum(response, axis=0), jnp.max(response, axis=0), jnp.sum(low, axis=0), jnp.sum(high, axis=0)


def _separable(problem: Coupled) -> Pricing:
    """The constants of separable quadratics with A_i = I: M = diag(Σ_i 1/a_i)."""
    data = problem.pieces.data
    if problem.data_signal is not None:
        data = jax.vmap(problem.data_signal, (0, None))(data, problem.round)
    largest, smallest, diagonal, peak, least, most = (np.asarray(v, float) for v in _sums(data))
    n, m = problem.n, problem.m
    return Pricing(
        smoothness=largest, strong_convexity=smallest, gain=np.full(n, float(m)), row_gain=np.ones(m), diagonal=diagonal,
        largest=float(diagonal.max()), scaled=1.0, flattest=1.0, peak=peak, steepest=1.0, touched=m,
        touching=np.full(m, float(n)), lowest=smallest,
        total=np.asarray(problem.coupling.total, float), source="exact", convex=True, affine=True, least=least, most=most,
    )  # fmt: skip


def _finite(bound):
    """Infinite bounds as numbers that no plan reaches: data must be finite."""
    return np.clip(bound, -1e30, 1e30)


def _box(data):
    return box(data["low"] + 0 * data["c"], data["high"] + 0 * data["c"])


def _itself(x, data):
    return x


def _linear(x, data):
    return data["A"] @ x


def _quadratic(x, data):
    return 0.5 * jnp.sum(data["a"] * (x - data["c"]) ** 2)


def _quadratic_response(question, data):
    cost = question.price if "A" not in data else data["A"].T @ question.price
    push, stiff = data["a"] * data["c"] - cost, data["a"]
    if question.penalty is not None:
        push, stiff = push + question.penalty * question.target, stiff + question.penalty
    if question.pull is not None:
        push, stiff = push + question.pull * question.anchor, stiff + question.pull
    x = push / stiff
    return jnp.clip(x, data["low"], data["high"]) if "low" in data else x


def _bid_box(data):
    return box(jnp.zeros_like(data["width"][:, 0]), jnp.sum(data["width"], axis=1))


def is_bids(problem: Coupled) -> bool:
    """Whether `bids` made it."""
    return problem.function is _bid_cost


def _bid_cost(x, data):
    taken = jnp.clip(x[:, None] - data["from"], 0, data["width"])
    return jnp.sum(data["price"] * taken)


def _bid_response(question, data):
    stiff = jnp.zeros_like(question.price)
    push = -question.price
    if question.penalty is not None:
        push, stiff = push + question.penalty * question.target, stiff + question.penalty
    if question.pull is not None:
        push, stiff = push + question.pull * question.anchor, stiff + question.pull
    profit = push[:, None] - data["price"]
    if not question.augmented:
        return jnp.sum(jnp.where(profit > 0, data["width"], 0), axis=1)
    # Segment by segment: where it would end were it the last one.
    return jnp.sum(jnp.clip(profit / stiff[:, None] - data["from"], 0, data["width"]), axis=1)


def _flow_box(data):
    return box(data["low"], data["high"])


def _along(x, data):
    return x * data["used"]


def _log_cost(x, data):
    return -data["u"] * jnp.log(x)


def _log_response(question, data):
    used = data["used"]
    cost, stiff = jnp.sum(used * question.price), 0.0
    if question.penalty is not None:
        cost, stiff = cost - jnp.sum(used * question.penalty * question.target), jnp.sum(used * question.penalty)
    if question.pull is not None:
        cost, stiff = cost - question.pull * question.anchor, stiff + question.pull
    # −u/x + cost + stiff·x = 0, written so that nothing cancels, whatever the sign of the cost.
    root = jnp.sqrt(cost**2 + 4 * stiff * data["u"])
    x = jnp.where(cost >= 0, 2 * data["u"] / jnp.maximum(cost + root, 1e-300 if root.dtype == jnp.float64 else 1e-30), 0)
    if question.augmented:
        x = jnp.where(cost >= 0, x, (root - cost) / (2 * stiff))
    else:
        x = jnp.where(cost > 0, x, data["high"])
    return jnp.clip(x, data["low"], data["high"])
