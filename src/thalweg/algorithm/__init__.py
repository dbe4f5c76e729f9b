"""Algorithms, each written once from one agent's point of view."""

from .asynchronous.base import AsynchronousAlgorithm
from .base import Claims, Context, Facts, Info, PeerAlgorithm
from .local import LocalPolyak, LocalSGD, LocalSolver, PrivateSGD
from .server.base import ServerAlgorithm
from .step import LocalStep, PerAgent

__all__ = [
    "AsynchronousAlgorithm", "Claims", "Context", "Facts", "Info", "LocalPolyak", "LocalSGD", "LocalSolver", "LocalStep",
    "PeerAlgorithm", "PerAgent", "PrivateSGD", "ServerAlgorithm",
]  # fmt: skip
