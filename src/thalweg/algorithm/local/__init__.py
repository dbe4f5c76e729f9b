"""Local solvers: what a client does between two messages."""

from .base import LocalRun, LocalSolver
from .polyak import LocalPolyak
from .private_sgd import PrivateSGD
from .proximal import minimise
from .sgd import LocalSGD

__all__ = ["LocalPolyak", "LocalRun", "LocalSGD", "LocalSolver", "PrivateSGD", "minimise"]
