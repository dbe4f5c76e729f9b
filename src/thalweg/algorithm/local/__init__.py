"""Local solvers: what a client does between two messages."""

from .base import LocalRun, LocalSolver
from .sgd import LocalSGD

__all__ = ["LocalRun", "LocalSGD", "LocalSolver"]
