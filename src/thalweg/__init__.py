"""Thalweg: one optimisation problem, scattered over many agents, solved without gathering the pieces.

    minimise Σ_i w_i f_i(x) + r(x)          agent i alone can evaluate f_i

State the problem (`Consensus`, `EmpiricalRisk`, `Measurements`), choose a network (`tw.network`) and an algorithm
(`tw.algorithms`), and `solve`.
"""

from . import algorithm, data, engine, message, network, observe, problem
from ._version import __version__
from .algorithm import *  # noqa: F403
from .algorithm import peer as algorithms
from .algorithm.peer import *  # noqa: F403
from .engine import Debug, RoleFailure, Sharded, Simulated, Stop, solve
from .network import Network
from .observe import History, Ledger, Outcome, Result
from .problem import *  # noqa: F403
from .problem import losses
