"""Server algorithms: one server, many clients."""

from .fedavg import FedAvg
from .scaffold import SCAFFOLD

__all__ = [
    "SCAFFOLD",
    "FedAvg",
]
