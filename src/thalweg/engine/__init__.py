"""Engines: where agents live, the order of a round, keys, failures, clocks."""

from .debug import Debug, RoleFailure
from .distribute import distribute
from .events import Events
from .hosts import Hosts
from .sharded import Sharded
from .simulated import EventDriven, Simulated
from .solve import solve
from .stop import Stop
from .warm import WarmStart

__all__ = [
    "Debug",
    "EventDriven",
    "Events",
    "Hosts",
    "RoleFailure",
    "Sharded",
    "Simulated",
    "Stop",
    "WarmStart",
    "distribute",
    "solve",
]
