"""What server algorithms leave open, filled from the problem's constants; and what they ask of a local solver."""

import dataclasses
from typing import Any, TypeVar

from thalweg.algorithm.base import Facts

A = TypeVar("A")


def filled(algorithm: A, facts: Facts, curvature: Any = 0.0) -> A:
    """`algorithm` with its local solver's open step size chosen, for losses to which a term of this `curvature` is added."""
    if algorithm.solver is None:
        return algorithm
    if facts.smoothness is not None:
        facts = dataclasses.replace(facts, smoothness=facts.smoothness + float(curvature))
    return dataclasses.replace(algorithm, solver=algorithm.solver.resolve(facts))


def check_plain(algorithm: Any, reason: str) -> None:
    """The local solver makes plain gradient steps.

    Raises:
        ValueError: it has an optimiser or a clip.
    """
    name, solver = type(algorithm).__name__, algorithm.solver
    if getattr(solver, "optimizer", None) is not None or getattr(solver, "clip", None) is not None:
        raise ValueError(f"{name}: got a solver with an optimizer or a clip, expected plain gradient steps: {reason}")


def check_penalty(algorithm: Any) -> None:
    """A penalty that is known is positive.

    Raises:
        ValueError: it is not.
    """
    penalty = algorithm.penalty
    if isinstance(penalty, int | float) and not penalty > 0:
        raise ValueError(f"{type(algorithm).__name__}(penalty={penalty!r}): expected a positive number")
