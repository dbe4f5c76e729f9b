"""A readable account of a network."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thalweg.network.network import Network


@dataclass(frozen=True)
class NetworkReport:
    """Title and rows (label, value) of a network's report; prints as text, shows as a table in a notebook."""

    title: str
    rows: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, network: Network) -> NetworkReport:
        """The report of `network`; computes every fact it shows."""
        return cls(network.name, tuple(_rows(network)))

    def __str__(self) -> str:
        width = max(len(label) for label, _ in self.rows)
        return "\n".join([self.title, *(f"  {label:<{width}}  {value}" for label, value in self.rows)])

    def _repr_html_(self) -> str:
        body = "".join(
            f"<tr><th style='text-align:left'>{html.escape(label)}</th><td style='text-align:left'>{html.escape(value)}</td></tr>"
            for label, value in self.rows
        )
        return f"<table><caption>{html.escape(self.title)}</caption><tbody>{body}</tbody></table>"


def _rows(network: Network):
    facts = network.facts
    kind = "arcs" if network.directed else "edges"
    yield "agents", f"{network.n}"
    yield kind, f"{len(network.edges)}"
    heard = "heard by each agent" if network.directed else "degree"
    low, high = facts.min_degree, facts.max_degree
    yield heard, f"{low}" if low == high else f"{low} to {high}"
    yield "connected", ("strongly" if network.directed else "yes") if facts.connected else "no"
    yield "diameter", f"{'at most ' * facts.diameter_is_bound}{facts.diameter:g}"
    yield "weights", _weights(network)
    if facts.sigma is None:
        yield "push-sum rate", f"{facts.push_sigma:.6g}"
    else:
        yield "sigma", f"{facts.sigma:.6g}{' (of the expected mixing)' * _is_scheduled(network)}"
        yield "spectral gap", f"{facts.spectral_gap:.6g}"
        if facts.lambda_min is not None:
            yield "lambda_min", f"{facts.lambda_min:.6g}"
        if _is_scheduled(network) and facts.mean_square_factor is not None:
            yield "mean-square factor", f"{facts.mean_square_factor:.6g}"
    yield "rounds to 1e-6", _rounds(facts.rounds_to_consensus(1e-6))
    yield "schedule", str(network.schedule)
    yield "failures", str(network.failures)


def _is_scheduled(network: Network) -> bool:
    return str(network.schedule) != "fixed"


def _weights(network: Network) -> str:
    facts = network.facts
    if network.mixing is None:
        return "pull (rows sum to 1) and push (columns sum to 1)"
    properties = ["symmetric"] if facts.symmetric else []
    properties += ["doubly stochastic"] if facts.doubly_stochastic else []
    properties += [] if facts.nonnegative else ["some negative"]
    return f"{network.weights} ({', '.join(properties)})"


def _rounds(rounds: float) -> str:
    return (
        "never: disagreement does not shrink" if math.isinf(rounds) else f"about {rounds} of plain averaging, without failures"
    )
