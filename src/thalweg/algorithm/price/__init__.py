"""Price methods, one file each: problems that are coupled by a shared constraint, with a price-setter or among peers."""

from .accelerated_dual_ascent import AcceleratedDualAscent
from .consensus_dual_decomposition import ConsensusDualDecomposition
from .distributed_primal_dual import DistributedPrimalDual
from .dual_ascent import DualAscent
from .dual_gradient_tracking import DualGradientTracking
from .dual_subgradient import DualSubgradient
from .exchange_admm import ExchangeADMM
from .extragradient_dual import ExtragradientDual
from .laplacian_gradient import LaplacianGradient
from .method_of_multipliers import MethodOfMultipliers
from .optimistic_dual import OptimisticDual
from .prediction_correction import PredictionCorrection
from .proximal_bundle import ProximalBundle
from .tracking_admm import TrackingADMM

__all__ = [
    "AcceleratedDualAscent", "ConsensusDualDecomposition", "DistributedPrimalDual", "DualAscent", "DualGradientTracking",
    "DualSubgradient", "ExchangeADMM", "ExtragradientDual", "LaplacianGradient", "MethodOfMultipliers", "OptimisticDual",
    "PredictionCorrection", "ProximalBundle", "TrackingADMM",
]  # fmt: skip
