"""What an experiment shows: outcomes, history, ledger, results, reports. Everything it looks at is read-only."""

from .history import History
from .ledger import Ledger, human_bytes
from .outcome import Outcome
from .plot import plot
from .report import write_report
from .result import Result, describe
from .table import Table

__all__ = ["History", "Ledger", "Outcome", "Result", "Table", "describe", "human_bytes", "plot", "write_report"]
