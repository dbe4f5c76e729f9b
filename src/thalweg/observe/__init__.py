"""What an experiment shows: outcomes, history, ledger, results, reports. Everything it looks at is read-only."""

from .history import History
from .ledger import Ledger, human_bytes
from .outcome import Outcome
from .result import Result, describe

__all__ = ["History", "Ledger", "Outcome", "Result", "describe", "human_bytes"]
