"""Step sizes and penalties of price methods, which may differ from row to row."""

import dataclasses
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from thalweg.algorithm.base import Facts, PeerAlgorithm
from thalweg.algorithm.step import PerAgent, Real

T = TypeVar("T")

# A hyper-parameter of the rows: a number for all, or one for each.
EachRow = Real | np.ndarray | Float[Array, " m"]


def check_rows(algorithm: Any, name: str) -> None:
    """A number or one per row, finite and positive.

    Raises:
        ValueError: it is not.
    """
    value = getattr(algorithm, name)
    if value is None or hasattr(value, "aval") or isinstance(value, PerAgent):  # the engine refuses one per agent
        return
    array = np.asarray(value, float)
    if array.ndim > 1 or not (np.isfinite(array).all() and (array > 0).all()):
        raise ValueError(f"{type(algorithm).__name__}({name}={value!r}): expected a positive number, or one per row")


def row_steps(algorithm: T, facts: Facts, fraction: Any = 1.0) -> T:
    """`algorithm` with an open step size filled: fraction/(ω M_jj) of row j.

    Raises:
        ValueError: some cost is not strongly convex, so that there is no such step.
    """
    if algorithm.step_size is not None:
        return algorithm
    check_strongly_convex(algorithm, facts)
    constants = facts.pricing
    diagonal = np.where(constants.diagonal > 0, constants.diagonal, 1)
    return dataclasses.replace(algorithm, step_size=fraction / (constants.scaled * diagonal))


def check_strongly_convex(algorithm: Any, facts: Facts) -> None:
    """The dual is smooth.

    Raises:
        ValueError: some cost is not strongly convex, so that no step size is safe.
    """
    if np.isfinite(facts.pricing.diagonal).all():
        return
    peers = isinstance(algorithm, PeerAlgorithm)
    others = (
        "tw.TrackingADMM(), tw.ConsensusDualDecomposition()"
        if peers
        else "tw.ExchangeADMM(), tw.ProximalBundle(), tw.DualSubgradient()"
    )
    raise ValueError(
        f"{type(algorithm).__name__}: no step size is safe, got costs that are not strongly convex; use {others}, or give a "
        "step_size"
    )


def dual_facts(facts: Facts) -> tuple[Facts, np.ndarray]:
    """(facts of the agents' duals d_i, whose mean peers maximise, in the metric of units; units `[m]` = max_i (A_i H_i⁻¹ A_iᵀ)_jj).

    The smallest curvature is that of the mean alone.
    """
    dual = facts.pricing
    units = np.where(dual.peak > 0, dual.peak, 1)
    flattest = dual.flattest * float(np.min(dual.diagonal / (facts.n * units)))
    steepest = max(dual.steepest, np.finfo(float).tiny)
    return dataclasses.replace(facts, smoothness=steepest, strong_convexity=flattest, pricing=None), units


def row_penalties(algorithm: T, facts: Facts, share: bool = False, *, name: str = "penalty", part: float = 1.0) -> T:
    """`algorithm` with an open penalty, its field `name`, filled: `part` of n_j/M_jj of row j, which is the harmonic mean of the
    costs' curvature along the row.

    1/M_jj with `share`, where all agents share one quadratic term. Where some cost is not strongly convex: 1.
    """
    if getattr(algorithm, name) is not None:
        return algorithm
    diagonal, touching = facts.pricing.diagonal, 1.0 if share else facts.pricing.touching
    usable = np.isfinite(diagonal) & (diagonal > 0)
    return dataclasses.replace(algorithm, **{name: part * np.where(usable, touching / np.where(usable, diagonal, 1), 1.0)})


def network_spread(facts: Facts) -> float:
    """1 − λ_min(W), the largest eigenvalue of I − W (1 for one agent, who trades with nobody)."""
    low = -facts.sigma if facts.lambda_min is None else facts.lambda_min
    return 1 - low if facts.n > 1 else 1.0


def power(x: Float[Array, ""], p: float) -> Float[Array, ""]:
    """x^p for 0 ≤ p ≤ 1 known beforehand, to 20 binary digits of p.

    By square roots and products, which are rounded alike however many are computed at once; a compiler's own power is not.
    """
    result, root = jnp.ones_like(x), x
    for digit in range(21):
        if round(p * 2**20) >> (20 - digit) & 1:
            result = result * root
        root = jnp.sqrt(root)
    return result
