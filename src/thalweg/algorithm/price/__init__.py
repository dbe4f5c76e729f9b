"""Price methods, one file each: problems that are coupled by a shared constraint."""

from .accelerated_dual_ascent import AcceleratedDualAscent
from .dual_ascent import DualAscent
from .dual_subgradient import DualSubgradient
from .exchange_admm import ExchangeADMM
from .method_of_multipliers import MethodOfMultipliers
from .proximal_bundle import ProximalBundle

__all__ = [
    "AcceleratedDualAscent", "DualAscent", "DualSubgradient", "ExchangeADMM", "MethodOfMultipliers", "ProximalBundle",
]  # fmt: skip
