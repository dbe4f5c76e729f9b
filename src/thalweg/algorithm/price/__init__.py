"""Price methods, one file each: problems that are coupled by a shared constraint."""

from .accelerated_dual_ascent import AcceleratedDualAscent
from .dual_ascent import DualAscent
from .dual_subgradient import DualSubgradient
from .exchange_admm import ExchangeADMM
from .extragradient_dual import ExtragradientDual
from .method_of_multipliers import MethodOfMultipliers
from .optimistic_dual import OptimisticDual
from .prediction_correction import PredictionCorrection
from .proximal_bundle import ProximalBundle

__all__ = [
    "AcceleratedDualAscent", "DualAscent", "DualSubgradient", "ExchangeADMM", "ExtragradientDual", "MethodOfMultipliers",
    "OptimisticDual", "PredictionCorrection", "ProximalBundle",
]  # fmt: skip
