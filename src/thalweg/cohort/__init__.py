"""Who takes part in a round: rules that draw a cohort of clients."""

from .base import Cohort, Draw, Registry, distinct
from .by_size import BySize, by_size
from .cyclic import Cyclic, cyclic
from .everyone import Everyone, everyone
from .importance import Importance, importance
from .oort import Oort, oort
from .poisson import Poisson, poisson
from .power_of_choice import PowerOfChoice, power_of_choice
from .progress_per_bit import ProgressPerBit, progress_per_bit
from .uniform import Uniform, uniform

__all__ = [
    "BySize", "Cohort", "Cyclic", "Draw", "Everyone", "Importance", "Oort", "Poisson", "PowerOfChoice", "ProgressPerBit",
    "Registry", "Uniform", "by_size", "cyclic", "distinct", "everyone", "importance", "oort", "poisson", "power_of_choice",
    "progress_per_bit", "uniform",
]  # fmt: skip
