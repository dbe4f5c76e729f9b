"""The public names of `thalweg`. They stand apart from `__init__`, so that `thalweg --help` need not wait for JAX."""

# ruff: noqa: F401, F403

from . import (
    adversary,
    algorithm,
    cohort,
    coupling,
    data,
    deploy,
    engine,
    fleet,
    message,
    models,
    network,
    observe,
    online,
    privacy,
    problem,
)
from .algorithm import *
from .algorithm import asynchronous, price, server
from .algorithm import peer as algorithms
from .algorithm.asynchronous import *
from .algorithm.peer import *
from .algorithm.price import *
from .algorithm.server import *
from .engine import Debug, EventDriven, Events, Hosts, RoleFailure, Sharded, Simulated, Stop, WarmStart, distribute, solve
from .fleet import Clocks, Fleet
from .network import Network
from .observe import Comparison, History, Ledger, Outcome, Result, compare, trackers
from .problem import *
from .problem import losses
