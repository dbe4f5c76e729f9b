"""Step sizes and penalties of price methods, which may differ from row to row."""

import dataclasses
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Array, Float

from thalweg.algorithm.base import Facts
from thalweg.algorithm.step import Real

T = TypeVar("T")

# A hyper-parameter of the rows: a number for all, or one for each.
EachRow = Real | np.ndarray | Float[Array, " m"]


def check_rows(algorithm: Any, name: str) -> None:
    """A number or one per row, finite and positive.

    Raises:
        ValueError: it is not.
    """
    value = getattr(algorithm, name)
    if value is None or hasattr(value, "aval"):
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
    constants = facts.pricing
    if not np.isfinite(constants.diagonal).all():
        raise ValueError(
            f"{type(algorithm).__name__}: no step size is safe, got costs that are not strongly convex; use tw.ExchangeADMM(), "
            "tw.DualSubgradient(), or give a step_size"
        )
    diagonal = np.where(constants.diagonal > 0, constants.diagonal, 1)
    return dataclasses.replace(algorithm, step_size=fraction / (constants.scaled * diagonal))


def row_penalties(algorithm: T, facts: Facts, share: bool = False) -> T:
    """`algorithm` with an open penalty filled: n_j/M_jj of row j, the harmonic mean of the costs' curvature along the row.

    1/M_jj with `share`, where all agents share one quadratic term. Where some cost is not strongly convex: 1.
    """
    if algorithm.penalty is not None:
        return algorithm
    diagonal, touching = facts.pricing.diagonal, 1.0 if share else facts.pricing.touching
    usable = np.isfinite(diagonal) & (diagonal > 0)
    return dataclasses.replace(algorithm, penalty=np.where(usable, touching / np.where(usable, diagonal, 1), 1.0))
