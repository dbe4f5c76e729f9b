"""What reports draw of a network."""

from typing import Any

from thalweg.network import Network

_DRAWN_FACTS = (
    "sigma", "rate", "spectral_gap", "diameter", "max_degree", "min_degree", "connected", "doubly_stochastic",
)  # fmt: skip


def graph_of(network: Network) -> dict[str, Any]:
    """`Result.graph`."""
    facts = network.facts
    known = {name: getattr(facts, name) for name in _DRAWN_FACTS}
    return {"edges": network.edges, "positions": network.positions, "directed": network.directed, "facts": known}
