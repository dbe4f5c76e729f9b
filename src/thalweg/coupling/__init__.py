"""Who depends on whom, read from the equations: which agents are coupled, and the least network that lets them work."""

from thalweg.coupling.analyse import analyse
from thalweg.coupling.structure import Equation, Structure

__all__ = ["Equation", "Structure", "analyse"]
