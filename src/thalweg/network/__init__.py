"""Networks: who hears whom, with which mixing weights, in which rounds, and what fails.

A `Network` knows its edges, its weights and what is *proved* about them (`network.facts`), its schedule and its failures;
it knows nothing of problems, algorithms or engines.

    network = tw.network.ring(12)                                  # Metropolis weights
    network = tw.network.geometric(50, seed=1, weights="laplacian")
    network = network.with_failures(loss=0.1, asleep=0.05)
    print(network.report())

`n` agents, `E` edges, `D` neighbour slots, `P` phases of a schedule. `mixing[i, j]` is the weight that agent i gives to what
agent j sends; a directed edge is (sender, receiver).
"""

from thalweg.network.circulant import exponential, one_peer_exponential, ring
from thalweg.network.convert import from_edges, from_matrix, from_networkx
from thalweg.network.facts import NetworkFacts
from thalweg.network.failures import Failures
from thalweg.network.network import Network
from thalweg.network.random_graphs import erdos_renyi, geometric, random_regular, small_world
from thalweg.network.report import NetworkReport
from thalweg.network.schedule import Fixed, Gossip, Periodic, RandomPhase, Schedule
from thalweg.network.scheduled import pairwise_gossip, periodic, random_phases
from thalweg.network.slots import Slots
from thalweg.network.undirected import complete, grid, hypercube, path, star, torus, tree

__all__ = [
    "Failures",
    "Fixed",
    "Gossip",
    "Network",
    "NetworkFacts",
    "NetworkReport",
    "Periodic",
    "RandomPhase",
    "Schedule",
    "Slots",
    "complete",
    "erdos_renyi",
    "exponential",
    "from_edges",
    "from_matrix",
    "from_networkx",
    "geometric",
    "grid",
    "hypercube",
    "one_peer_exponential",
    "pairwise_gossip",
    "path",
    "periodic",
    "random_phases",
    "random_regular",
    "ring",
    "small_world",
    "star",
    "torus",
    "tree",
]
