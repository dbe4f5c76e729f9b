"""Server algorithms: one server, many clients."""

from .agnostic import AgnosticFL
from .apfl import APFL
from .constrained import ConstrainedFL
from .ditto import Ditto
from .fedavg import FedAvg
from .fedbn import FedBN
from .fedper import FedPer
from .fedrep import FedRep
from .fine_tune import FineTune
from .ifca import IFCA
from .perfedavg import PerFedAvg
from .pfedme import PFedMe
from .qffl import QFFL
from .scaffold import SCAFFOLD

__all__ = [
    "APFL",
    "IFCA",
    "QFFL",
    "SCAFFOLD",
    "AgnosticFL",
    "ConstrainedFL",
    "Ditto",
    "FedAvg",
    "FedBN",
    "FedPer",
    "FedRep",
    "FineTune",
    "PFedMe",
    "PerFedAvg",
]
