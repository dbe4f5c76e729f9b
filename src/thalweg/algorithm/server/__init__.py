"""Server algorithms: one server, many clients."""

from .agnostic import AgnosticFL
from .constrained import ConstrainedFL
from .fedavg import FedAvg
from .qffl import QFFL
from .scaffold import SCAFFOLD

__all__ = [
    "QFFL",
    "SCAFFOLD",
    "AgnosticFL",
    "ConstrainedFL",
    "FedAvg",
]
