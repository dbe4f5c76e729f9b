"""How far behind a moving solution a method may fall: contraction × error + drift.

Axes: `k` rounds, `m` rows of a coupling.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import PyTree

from thalweg._colours import BLUE, GREY, VERMILLION
from thalweg._extras import require
from thalweg.observe import Result
from thalweg.problem.base import Problem
from thalweg.problem.coupled import Coupled
from thalweg.problem.online import References

from .contraction import Contraction, contraction

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE = (5.2, 3.8)  # inches, of one panel


@dataclasses.dataclass(frozen=True, eq=False)
class TrackingBound:
    """‖e_k‖ ≤ c^k ‖e_0‖ + v (1 + c + … + c^(k−1)), below c^k ‖e_0‖ + v/(1 − c) where c < 1.

    e_k is the distance from the solution of round k after k rounds, which have seen the problems 0 … k − 1: what is played before
    the round's data come. Of a coupled problem it is the price's, and `plans` bounds the plans' error, which is also a round old.

    Attributes:
        contraction: c, and where it comes from.
        drift: v, the largest ‖x*_(k+1) − x*_k‖ of the rounds, in the norm of the contraction.
        initial: ‖e_0‖.
        values: `[K + 1]` the bound.
        limit: v/(1 − c) (and `late` v more), where it ends; infinite for c ≥ 1.
        plans: `[K + 1]` of a coupled problem: gain·values_(k−1) + the plans' own drift, NaN in round 0; else None.
        prices: `[K + 1, m]` the optimal prices, or None.
        late: rounds by which the method's data are older than that.
    """

    contraction: Contraction
    drift: float
    initial: float
    values: np.ndarray
    limit: float
    plans: np.ndarray | None
    prices: np.ndarray | None
    late: int = 0

    @property
    def stable(self) -> bool:
        """Whether errors are bounded whatever the number of rounds."""
        return self.contraction.factor < 1

    def measured(self, result: Result) -> np.ndarray:
        """‖e_k‖ `[records]` of a run with `reference=tw.online.references(…)`, in the norm of the bound.

        Raises:
            ValueError: the history lacks what is needed: a reference, or the prices of many rows.
        """
        scalars = result.history.scalars
        if self.prices is None:
            return _column(scalars, "error")
        priced = [name for name in scalars if name.startswith("price of ")]
        if len(priced) != self.prices.shape[1]:
            if np.ptp(self.contraction.weights) > 0:
                raise ValueError(f"measured: the history has prices of {len(priced)} rows, expected {self.prices.shape[1]}")
            return _column(scalars, "price_error")
        price = np.stack([scalars[name] for name in priced], axis=1)
        return np.sqrt(((price - self.prices[scalars["round"]]) ** 2 * self.contraction.weights).sum(1))

    def holds(self, result: Result, slack: float | int = 1e-6) -> bool:
        """Whether the run was within the bound at every record, plans included; `slack` is for rounding."""
        rounds = result.history["round"]
        below = lambda found, bound: bool(np.all(found <= bound[rounds] * (1 + slack) + slack))
        good = below(self.measured(result), self.values)
        return good and (self.plans is None or below(_column(result.history.scalars, "error"), self.plans))

    def plot(self, result: Result, path: str | Path | None = None) -> "Figure":
        """The bound beside what `result` measured, as a `matplotlib.figure.Figure` (needs the extra "plot").

        Args:
            result: a run with `reference=tw.online.references(…)`.
            path: where to save it as well; the suffix says how.
        """
        figures = require("matplotlib.figure", "plot")
        panels = [("of the price" if self.plans is not None else "of x", self.measured(result), self.values, self.limit)]
        if self.plans is not None:
            panels.append(("of the plans", _column(result.history.scalars, "error"), self.plans, np.inf))
        figure = figures.Figure(figsize=(SIZE[0] * len(panels), SIZE[1]), layout="constrained")
        rounds = result.history["round"]
        for axis, (title, found, bound, limit) in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True):
            axis.plot(rounds, bound[rounds], color=VERMILLION, linestyle="--", label="bound")
            axis.plot(rounds, found, color=BLUE, label="measured")
            if np.isfinite(limit):
                axis.axhline(limit, color=GREY, linestyle=":", label="v/(1 − c)")
            axis.set_yscale("log")
            axis.set_title(f"Tracking error {title}", fontsize=11, loc="left")
            axis.set_xlabel("round")
            axis.grid(axis="y", color="#e8ebee")
            axis.spines[["top", "right"]].set_visible(False)
            axis.legend(frameon=False, fontsize=9)
        if path is not None:
            figure.savefig(path, dpi=160)
        return figure

    def __str__(self) -> str:
        c, found = self.contraction.factor, self.contraction
        where = f"step × curvature in [{found.lowest:.4g}, {found.highest:.4g}], {found.source}"
        moved = f"drift {self.drift:.4g} a round"
        if not self.stable:
            return f"no bound in the long run: contraction {c:.4g} is not below 1 ({where}); {moved}"
        return f"error at most {self.limit:.4g} in the long run: contraction {c:.4g} ({where}), {moved}"

    __repr__ = __str__


def accumulated(factor: float | int, drift: Any, initial: float | int, rounds: int) -> np.ndarray:
    """`[rounds + 1]` the recursion b_0 = `initial`, b_(k+1) = `factor`·b_k + `drift`_k; one drift for all rounds, or `[rounds]`."""
    values = np.empty(rounds + 1)
    values[0], drifts = initial, np.broadcast_to(np.asarray(drift, float), (rounds,))
    for k in range(rounds):
        values[k + 1] = factor * values[k] + drifts[k]
    return values


def tracking_bound(
    problem: Problem | Coupled,
    algorithm: Any,
    references: References,
    *,
    start: PyTree = None,
    factor: float | int | None = None,
    late: int = 0,
) -> TrackingBound:
    """The bound on the tracking error of `algorithm` on a problem that drifts, from the problem's own constants.

    Args:
        problem: the problem.
        algorithm: with its step size: `result.algorithm`, or one that was given it. `tw.online.contraction` says which are known.
        references: `tw.online.references(problem, rounds)`, from which the drift is measured.
        start: the price, or x, before round 0. Default: no price, or x0.
        factor: c of another method, where you know it (in the plain norm of x, or of the price).
        late: rounds by which the method looks at older data than those of the last round; adds late·v.

    Raises:
        TypeError, ValueError: as `contraction`.
    """
    if factor is None:
        found = contraction(problem, algorithm, references.rounds)
    else:
        weights = np.ones(problem.m) if isinstance(problem, Coupled) else None
        found = Contraction(float(factor), np.nan, np.nan, weights, None, "given")
    if found.weights is not None:
        path, scale = references.price, np.sqrt(found.weights)
        first = np.zeros(path.shape[1]) if start is None else np.asarray(start, float)
    else:
        path, scale, first = _rows(references.x), 1.0, _row(problem.x0 if start is None else start)
    drift = float(np.linalg.norm(np.diff(path, axis=0) * scale, axis=1).max(initial=0))
    initial = float(np.linalg.norm((first - path[0]) * scale))
    values = accumulated(found.factor, drift, initial, references.rounds) + late * drift
    limit = (
        drift / (1 - found.factor) + late * drift if found.factor < 1 else (np.inf if drift or found.factor > 1 else initial)
    )
    plans = None
    if found.gain is not None:
        moved = float(references.drift().max(initial=0))
        plans = np.concatenate([[np.nan], found.gain * values[:-1] + moved])
    prices = references.price if found.weights is not None else None
    return TrackingBound(found, drift, initial, values, float(limit), plans, prices, late)


def _rows(x: PyTree) -> np.ndarray:
    return np.concatenate([np.asarray(leaf, float).reshape(len(leaf), -1) for leaf in jax.tree.leaves(x)], axis=1)


def _row(x: PyTree) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(leaf, float)) for leaf in jax.tree.leaves(x)])


def _column(scalars: dict[str, np.ndarray], name: str) -> np.ndarray:
    if name not in scalars:
        raise ValueError(
            f"tracking bound: the history has no {name!r}; pass reference=tw.online.references(problem, rounds) to solve"
        )
    return np.asarray(scalars[name], float)
