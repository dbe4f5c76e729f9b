"""Agents that do not keep to the algorithm: what they send in place of what they should."""

from .base import Adversary

__all__ = ["Adversary"]
