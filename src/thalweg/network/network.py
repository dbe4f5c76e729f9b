"""The network of agents: who hears whom, with which weights, when, and what can fail."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_array

from thalweg.network import _checks, graph
from thalweg.network.facts import NetworkFacts
from thalweg.network.failures import Failures
from thalweg.network.report import NetworkReport
from thalweg.network.schedule import Fixed, Gossip, Schedule
from thalweg.network.slots import Slots, build_slots
from thalweg.network.weights import choose

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True, eq=False, repr=False)
class Network:
    """An immutable network of n agents. Make one with a builder (`ring`, `from_edges`, …), change it with `with_…`.

    Convention: `mixing[i, j]` is the weight that agent i gives to what agent j sends, so x⁺ = W x. On an undirected
    network W is symmetric; on a directed one it is doubly stochastic, or None where no such weights are known, and
    algorithms then use `pull` (rows sum to 1) and `push` (columns sum to 1). With a schedule of phases, the edges are the
    union over phases and the weights are expectations; `phases` has the networks of the phases themselves.

    **Raises** `ValueError` if the graph is not (strongly) connected, unless `allow_disconnected`; if symmetric losses are
    asked of a directed network; `ValueError` / `TypeError` if `edges` are not pairs of ids in 0..n-1.
    """

    n: int
    edges: np.ndarray
    """int64 [E, 2]. Undirected: each pair once, low id first, sorted. Directed: (sender, receiver) by (receiver, sender)."""
    directed: bool = False
    name: str = "network"
    weights: Any = None
    """Pass what `with_weights` takes. Holds how `mixing` was made: "metropolis", "lazy_metropolis", "laplacian", "fastest",
    "uniform" (directed), "given", "pairwise" (gossip), "per phase", or None where there is none."""
    mixing: csr_array | None = None
    """W [n, n], doubly stochastic."""
    pull: csr_array | None = None
    """Row-stochastic [n, n]; by default 1/(in-degree of i + 1)."""
    push: csr_array | None = None
    """Column-stochastic [n, n]; by default 1/(out-degree of j + 1)."""
    positions: np.ndarray | None = None
    """float64 [n, 2], for drawing and for geometric graphs."""
    schedule: Schedule = field(default_factory=Fixed)
    failures: Failures = field(default_factory=Failures)
    allow_disconnected: bool = False

    def __post_init__(self) -> None:
        n = _checks.integer("n", self.n, 1)
        edges = graph.canonical_edges(self.edges, n, self.directed)
        if not self.allow_disconnected:
            graph.require_connected(edges, n, self.directed, self.name)
        if self.directed and self.failures.loss > 0 and self.failures.symmetric:
            raise ValueError(
                f"symmetric loss means that both ends drop their edge together, and {self.name} is directed, where messages are "
                "lost one by one. Pass symmetric=False."
            )
        edges.setflags(write=False)
        object.__setattr__(self, "n", n)
        object.__setattr__(self, "edges", edges)
        if self.mixing is None and self.pull is None and self.push is None:
            chosen = choose(n, edges, self.directed, self.weights)
            for part, value in chosen._asdict().items():
                object.__setattr__(self, "weights" if part == "label" else part, value)
        for matrix in (self.mixing, self.pull, self.push):
            if matrix is not None:
                matrix.sum_duplicates()
                matrix.data.setflags(write=False)
        if self.positions is not None:
            positions = np.array(self.positions, dtype=float)
            if positions.shape != (n, 2):
                raise ValueError(f"positions must have shape ({n}, 2), one point per agent; got {positions.shape}.")
            positions.setflags(write=False)
            object.__setattr__(self, "positions", positions)

    @property
    def phases(self) -> tuple[Network, ...]:
        """The network of each phase; the network itself if it has only one."""
        return (self,) if isinstance(self.schedule, Fixed | Gossip) else self.schedule.networks

    @cached_property
    def facts(self) -> NetworkFacts:
        """What is provably true of this network: stochasticity, eigenvalues, connectivity, degrees, diameter."""
        return NetworkFacts(self)

    @cached_property
    def _slots(self) -> Slots:
        return build_slots(self)

    def slots(self) -> Slots:
        """Padded neighbour slots for the engines; computed once."""
        return self._slots

    @cached_property
    def in_degree(self) -> np.ndarray:
        """int64 [n]: how many agents each agent hears (over all phases)."""
        return np.bincount(self.edges[:, 1] if self.directed else self.edges.ravel(), minlength=self.n)

    @cached_property
    def out_degree(self) -> np.ndarray:
        """int64 [n]: how many agents hear each agent (over all phases)."""
        return np.bincount(self.edges[:, 0] if self.directed else self.edges.ravel(), minlength=self.n)

    def neighbours(self, agent: int) -> np.ndarray:
        """int64 [in-degree]: the ids that `agent` hears, ascending."""
        sender, receiver = graph.arcs_of(self.edges, self.n, self.directed).T
        return sender[receiver == agent]

    def with_weights(self, weights: Any) -> Network:
        """The same graph with other mixing weights: "metropolis", "lazy_metropolis", "laplacian", "fastest", or a matrix.

        With a schedule of phases, every phase gets them. On a directed network pass a matrix: doubly stochastic ones become
        `mixing`, row-stochastic ones `pull`, column-stochastic ones `push`.

        **Raises** `ValueError` for pairwise gossip (its weights are 1/2), for weights on pairs without an edge, rows that
        do not sum to 1, or an asymmetric matrix on an undirected network.
        """
        if isinstance(self.schedule, Gossip):
            raise ValueError("pairwise gossip averages two agents with weights 1/2; there is nothing to choose.")
        if not isinstance(self.schedule, Fixed):
            networks = tuple(phase.with_weights(weights) for phase in self.schedule.networks)
            return self.with_schedule(replace(self.schedule, networks=networks))
        chosen = choose(self.n, self.edges, self.directed, weights)
        return replace(self, weights=chosen.label, mixing=chosen.mixing, pull=chosen.pull, push=chosen.push)

    def with_failures(self, **changes: Any) -> Network:
        """The same network with failures changed: loss=, symmetric=, burst=, delay=, asleep= (see `Failures`)."""
        try:
            return replace(self, failures=replace(self.failures, **changes))
        except TypeError as error:
            if "unexpected keyword" not in str(error):
                raise
            expected = ", ".join(f"{known}=" for known in Failures.__dataclass_fields__)
            raise TypeError(f"failures are {expected}; got {', '.join(f'{c}=' for c in changes)}.") from None

    def with_schedule(self, schedule: Schedule) -> Network:
        """The same agents and failures under another schedule.

        `Gossip()` and `Fixed()` keep this network's edges (`Fixed` with uniform or Metropolis weights, if a schedule is
        taken away); `Periodic` and `RandomPhase` bring their own.
        """
        from thalweg.network.scheduled import scheduled

        return scheduled(self, schedule)

    def to_networkx(self) -> nx.Graph | nx.DiGraph:
        """A networkx graph with mixing weights as edge attribute "weight" (where there are any) and positions as "pos"."""
        import networkx as nx

        result = nx.DiGraph() if self.directed else nx.Graph()
        result.add_nodes_from(range(self.n))
        result.add_edges_from(self.edges.tolist())
        if self.mixing is not None:
            for sender, receiver, attributes in result.edges(data=True):
                attributes["weight"] = float(self.mixing[receiver, sender])
        if self.positions is not None:
            nx.set_node_attributes(result, dict(enumerate(self.positions.tolist())), "pos")
        return result

    def report(self) -> NetworkReport:
        """Facts, predicted rounds, schedule and failures, to print or to show in a notebook."""
        return NetworkReport.of(self)

    def __repr__(self) -> str:
        parts = [
            f"{self.n} agent{'s' * (self.n != 1)}",
            f"{len(self.edges)} {'arc' if self.directed else 'edge'}{'s' * (len(self.edges) != 1)}",
            f"{self.weights} weights" if self.weights else "pull and push weights",
        ]
        if self.n <= 1000 and self.mixing is not None:
            parts.append(f"sigma {self.facts.sigma:.4g}")
        parts.append(str(self.schedule))
        parts.append(f"failures: {self.failures}" if self.failures.any else "no failures")
        return f"{self.name}: {', '.join(parts)}"
