"""Server algorithms: one server, many clients."""

from .adaptive import FedAdagrad, FedAdam, FedAvgM, FedYogi
from .consensus_admm import ConsensusADMM
from .dane import DANE, FedDANE
from .fedavg import FedAvg
from .feddyn import FedDyn
from .fednova import FedNova
from .fedopt import FedOpt
from .fedprox import FedProx
from .fedsps import FedSPS
from .mime import Mime
from .mime_lite import MimeLite
from .scaffold import SCAFFOLD

__all__ = [
    "DANE",
    "SCAFFOLD",
    "ConsensusADMM",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedDANE",
    "FedDyn",
    "FedNova",
    "FedOpt",
    "FedProx",
    "FedSPS",
    "FedYogi",
    "Mime",
    "MimeLite",
]
