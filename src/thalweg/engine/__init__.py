"""Engines: where agents live, the order of a round, keys, failures, clocks."""

from .debug import Debug, RoleFailure
from .simulated import EventDriven, Sharded, Simulated
from .solve import solve
from .stop import Stop
from .warm import WarmStart

__all__ = ["Debug", "EventDriven", "RoleFailure", "Sharded", "Simulated", "Stop", "WarmStart", "solve"]
