"""What a run is measured against: one solution, or one for every round."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from thalweg.problem.coupled import Coupled
from thalweg.problem.online import References
from thalweg.problem.scattered import Scattered

from . import setup
from .market import target


@dataclasses.dataclass(frozen=True)
class Goal:
    """What records are compared with.

    Attributes:
        row: x* as a row, with a leading axis of agents where plans are meant, and of rounds if `moving`; NaN for none.
        moving: whether there is one for every round.
        optimum: its objective, `[K + 1]` if `moving`; None where it is not known.
        every: rounds between two records.
        kind: "moving", "True" (one for all rounds) or "False", for a checkpoint to agree with.
        price: `[K + 1, m]` of a coupled problem if `moving`, else None.
    """

    row: Any
    moving: bool
    optimum: Any
    every: int
    kind: str
    price: np.ndarray | None = None


def goal_of(reference: Any, problem: Scattered, asked: Scattered, rounds: int, every: Any) -> Goal:
    """Of the user's `reference`; `asked` is the problem as it was stated.

    Raises:
        TypeError, ValueError: a reference of another shape, too few rounds of it, or records that skip rounds.
    """
    usual = int(every or max(1, rounds // 200))
    if not isinstance(reference, References):
        return Goal(_row(reference, problem), False, _optimum(reference, problem, asked), usual, str(reference is not None))
    if rounds > reference.rounds:
        raise ValueError(
            f"solve(rounds={rounds}): got references of rounds 0 … {reference.rounds}; pass "
            f"reference=tw.online.references(problem, {rounds})"
        )
    if every not in (None, 1):
        raise ValueError(
            f"solve(every={every}): a reference for every round needs a record of every round, or the regret misses the rounds "
            "between; pass every=1, or leave it out"
        )
    rows = np.stack([np.asarray(_row(reference.at(k), problem)) for k in range(rounds + 1)])
    return Goal(jnp.asarray(rows), True, np.asarray(reference.objective), 1, "moving", reference.price)


def _row(reference: Any, problem: Scattered):
    return target(reference, problem) if isinstance(problem, Coupled) else setup.target_row(reference, problem)


def _optimum(reference: Any, problem: Scattered, asked: Scattered) -> float | None:
    """None where the problem drifts: a cost of one round says nothing of another."""
    if reference is None or problem.drifts:
        return None
    if isinstance(problem, Coupled):
        return getattr(reference, "objective", None)
    return float(asked.objective(setup.unraveller(problem)(setup.target_row(reference, problem))))
