"""Discrete local choices: every agent picks one of its options, and all share a constraint.

The relaxed problem, in which agents may mix options, is what a price solves. Its dual value bounds the discrete optimum from
below; a plan recovered from its prices bounds it from above; the gap between the two is what is not known.

Axes: `n` agents, `k` options of an agent, `m` rows.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thalweg.problem.coupled import Coupled
from thalweg.problem.regularizer import simplex
from thalweg.problem.respond import ClosedForm, Descent

SWEEPS = 50


def choices(costs: Any, quantities: Any, total: Any, *, sense: Any = "<=", names: Any = None, row_names: Any = None) -> Coupled:
    """minimise Σ_i costs[i, o_i] subject to Σ_i quantities[i, o_i] ≤ total (or =, ≥): agent i picks option o_i.

    x_i `[k]` are the parts of a mixture of options. A best response is a single option; `recover` makes single options of all.

    Arguments:
        costs: `[n, k]`; infinite where an agent has fewer options.
        quantities: `[n, k, m]`.
        total: `[m]`.

    Raises:
        ValueError: shapes that do not fit, an agent without an option.
    """
    c, q = np.asarray(costs, float), np.asarray(quantities, float)
    if c.ndim != 2 or q.ndim != 3 or q.shape[:2] != c.shape:
        raise ValueError(f"choices: got costs {c.shape} and quantities {q.shape}, expected [n, k] and [n, k, m]")
    if np.isnan(c).any() or not np.isfinite(c).any(axis=1).all():
        raise ValueError("choices: every agent needs an option of finite cost, and costs must not be NaN")
    known = np.isfinite(c)
    spread = 1 + np.abs(c[known]).max()
    # An option that is not there costs more than any other, and delivers nothing.
    data = {"cost": np.where(known, c, 1e6 * spread), "quantity": np.where(known[..., None], q, 0)}
    return Coupled(
        _cost, data, coupling=_quantity, total=total, sense=sense, x0=np.full(c.shape[1], 1 / c.shape[1]), local=simplex(),
        solver=ClosedForm(_pick, False, Descent()), smoothness=np.inf, strong_convexity=0.0, names=names, row_names=row_names,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Recovered:
    """Single options for all agents.

    Attributes:
        options: `[n]`, which option each agent takes.
        upper: their cost: an upper bound of the discrete optimum; infinite if they do not meet the rows.
        lower: the dual value at the price: a lower bound.
        gap: (upper − lower) / max(1, |lower|).
        violation: of the rows, as in `Certificate`.
    """

    options: np.ndarray
    upper: float
    lower: float
    gap: float
    violation: float


def recover(problem: Coupled, result: Any) -> Recovered:
    """Single options from a solved `choices` problem (inequality rows).

    Begins with the option that is best at the price; while a row is violated, the agent changes whose extra cost per unit of
    violation removed is least; then agents change back wherever that saves cost and keeps all rows.

    Raises:
        ValueError: another kind of problem, or equality rows, which single options rarely meet.
    """
    if problem.function is not _cost:
        raise ValueError(f"recover: got {problem!r}, expected a problem made by tw.choices")
    low, high = np.asarray(problem.coupling.low), np.asarray(problem.coupling.high)
    if ((low < 0) & (high > 0)).any():
        raise ValueError("recover: got an equality row, which single options rarely meet; state it as <= or >=")
    cost, quantity = (np.asarray(problem.pieces.data[name], float) for name in ("cost", "quantity"))
    sign = np.where(high > 0, 1.0, -1.0)
    q, b = quantity * sign, np.asarray(problem.coupling.total, float) * sign
    price = np.abs(np.asarray(result.price, float))
    n, scale = len(cost), np.maximum(1, np.abs(b))
    taken = np.argmin(cost + q @ price, axis=1)
    everyone = np.arange(n)
    total = q[everyone, taken].sum(0)
    for _ in range(SWEEPS * n):
        over = np.maximum(total - b, 0) / scale
        if over.max() <= 1e-12:
            break
        after = np.maximum(total - q[everyone, taken][:, None] + q - b, 0) / scale
        removed = over.sum() - after.sum(-1)
        extra = cost - cost[everyone, taken][:, None]
        rate = np.where(removed > 1e-15, np.maximum(extra, 1e-15) / np.maximum(removed, 1e-15), np.inf)
        i, o = np.unravel_index(np.argmin(rate), rate.shape)
        if not np.isfinite(rate[i, o]):
            break
        total += q[i, o] - q[i, taken[i]]
        taken[i] = o
    for _ in range(SWEEPS):
        saving = cost[everyone, taken][:, None] - cost
        fits = (total - q[everyone, taken][:, None] + q <= b + 1e-12 * scale).all(-1)
        saving = np.where(fits, saving, 0)
        i, o = np.unravel_index(np.argmax(saving), saving.shape)
        if saving[i, o] <= 0:
            break
        total += q[i, o] - q[i, taken[i]]
        taken[i] = o
    violation = float(np.maximum((total - b) / scale, 0).max())
    upper = float(cost[everyone, taken].sum()) if violation <= 1e-9 else float("inf")
    lower = float(problem.dual(jnp.asarray(result.price))[0])
    return Recovered(taken, upper, lower, (upper - lower) / max(1.0, abs(lower)), violation)


def _cost(x, data):
    return jnp.sum(data["cost"] * x)


def _quantity(x, data):
    return x @ data["quantity"]


def _pick(question, data):
    best = jnp.argmin(data["cost"] + data["quantity"] @ question.price)
    return jax.nn.one_hot(best, data["cost"].shape[0], dtype=data["cost"].dtype)
