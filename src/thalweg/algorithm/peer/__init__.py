"""Peer algorithms: neighbours only, no centre."""

from .accelerated_averaging import AcceleratedAveraging
from .aug_dgm import AugDGM
from .averaging import Averaging
from .beer import BEER
from .chebyshev_averaging import ChebyshevAveraging
from .choco_gossip import ChocoGossip
from .choco_sgd import ChocoSGD
from .decentralized_admm import DecentralizedADMM
from .dgd import DGD
from .diffusion import Diffusion
from .dynamic_average import DynamicAverage
from .edge_admm import EdgeADMM
from .exact_diffusion import ExactDiffusion
from .extra import EXTRA
from .extremum import MaxConsensus, MinConsensus
from .gradient_tracking import GradientTracking
from .gt_saga import GTSAGA
from .kgt import KGT
from .lead import LEAD
from .nids import NIDS
from .opapc import OPAPC
from .pg_extra import PGEXTRA
from .proximal_tracking import ProximalTracking
from .push_diging import PushDIGing
from .push_pull import PushPull
from .push_sum import PushSum

__all__ = [
    "BEER",
    "DGD",
    "EXTRA",
    "GTSAGA",
    "KGT",
    "LEAD",
    "NIDS",
    "OPAPC",
    "PGEXTRA",
    "AcceleratedAveraging",
    "AugDGM",
    "Averaging",
    "ChebyshevAveraging",
    "ChocoGossip",
    "ChocoSGD",
    "DecentralizedADMM",
    "Diffusion",
    "DynamicAverage",
    "EdgeADMM",
    "ExactDiffusion",
    "GradientTracking",
    "MaxConsensus",
    "MinConsensus",
    "ProximalTracking",
    "PushDIGing",
    "PushPull",
    "PushSum",
]
