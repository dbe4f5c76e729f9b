"""Algorithms, each written once from one agent's point of view."""

from .base import Claims, Context, Facts, Info, PeerAlgorithm, ServerAlgorithm
from .step import LocalStep, PerAgent

__all__ = ["Claims", "Context", "Facts", "Info", "LocalStep", "PeerAlgorithm", "PerAgent", "ServerAlgorithm"]
