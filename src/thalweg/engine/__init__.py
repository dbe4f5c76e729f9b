"""Engines: where agents live, the order of a round, keys, failures, clocks."""

from .debug import Debug, RoleFailure
from .simulated import Sharded, Simulated
from .solve import solve
from .stop import Stop

__all__ = ["Debug", "RoleFailure", "Sharded", "Simulated", "Stop", "solve"]
