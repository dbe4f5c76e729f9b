"""What server algorithms leave open, filled from the problem's constants."""

import dataclasses
from typing import TypeVar

from thalweg.algorithm.base import Facts

A = TypeVar("A")


def filled(algorithm: A, facts: Facts) -> A:
    """`algorithm` with its local solver's open step size chosen."""
    return dataclasses.replace(algorithm, solver=algorithm.solver.resolve(facts))
