"""Who takes part in a round: rules that draw a cohort of clients."""

from .base import Cohort, Draw, Registry, distinct
from .by_size import BySize, by_size
from .everyone import Everyone, everyone
from .poisson import Poisson, poisson
from .uniform import Uniform, uniform

__all__ = [
    "BySize", "Cohort", "Draw", "Everyone", "Poisson", "Registry", "Uniform", "by_size", "distinct", "everyone",
    "poisson", "uniform",
]  # fmt: skip
