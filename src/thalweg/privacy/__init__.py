"""Differential privacy: what a run costs, how much noise a budget asks for, and attacks that show whether it is real."""

from .account import Account, Budget, calibrate
from .audit import Audit, audit
from .leakage import reconstruct

__all__ = ["Account", "Audit", "Budget", "account", "audit", "calibrate", "leakage", "reconstruct"]
