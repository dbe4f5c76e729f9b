"""Server algorithms: one server, many clients."""

from .adaptive import FedAdagrad, FedAdam, FedAvgM, FedYogi
from .agnostic import AgnosticFL
from .apfl import APFL
from .consensus_admm import ConsensusADMM
from .constrained import ConstrainedFL
from .dane import DANE, FedDANE
from .ditto import Ditto
from .fedavg import FedAvg
from .fedbn import FedBN
from .feddyn import FedDyn
from .fednova import FedNova
from .fedopt import FedOpt
from .fedper import FedPer
from .fedprox import FedProx
from .fedrep import FedRep
from .fedsps import FedSPS
from .fine_tune import FineTune
from .ifca import IFCA
from .mime import Mime
from .mime_lite import MimeLite
from .perfedavg import PerFedAvg
from .pfedme import PFedMe
from .qffl import QFFL
from .scaffold import SCAFFOLD

__all__ = [
    "APFL",
    "DANE",
    "IFCA",
    "QFFL",
    "SCAFFOLD",
    "AgnosticFL",
    "ConsensusADMM",
    "ConstrainedFL",
    "Ditto",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedBN",
    "FedDANE",
    "FedDyn",
    "FedNova",
    "FedOpt",
    "FedPer",
    "FedProx",
    "FedRep",
    "FedSPS",
    "FedYogi",
    "FineTune",
    "Mime",
    "MimeLite",
    "PFedMe",
    "PerFedAvg",
]
