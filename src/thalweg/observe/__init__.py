"""What an experiment shows: outcomes, history, ledger, results, reports. Everything it looks at is read-only."""

from . import trackers
from .compare import compare
from .comparison import Comparison, Method
from .curves import plot_comparison
from .describing import describe
from .history import History
from .ledger import Ledger, human_bytes
from .outcome import Outcome
from .plot import plot
from .report import write_report
from .result import Result
from .table import Table

__all__ = [
    "Comparison", "History", "Ledger", "Method", "Outcome", "Result", "Table", "compare", "describe", "human_bytes", "plot",
    "plot_comparison", "trackers", "write_report",
]  # fmt: skip
