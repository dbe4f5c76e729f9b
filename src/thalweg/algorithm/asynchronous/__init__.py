"""Algorithms without rounds: agents that wake when they like, and messages that come when they come."""

from .asynchronous_admm import AsynchronousADMM
from .asynchronous_push_sum import AsynchronousPushSum

__all__ = ["AsynchronousADMM", "AsynchronousPushSum"]
