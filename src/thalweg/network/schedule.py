"""Which edges are used in which round.

A schedule only describes; the engine draws what is random. `Fixed` and `Gossip` use the edges of the network they belong
to; `Periodic` and `RandomPhase` bring a network for each of their phases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thalweg.network import _checks

if TYPE_CHECKING:
    from thalweg.network.network import Network


@dataclass(frozen=True)
class Fixed:
    """The same edges in every round."""

    @property
    def phase_count(self) -> int:
        """P = 1."""
        return 1

    def __str__(self) -> str:
        return "fixed"


@dataclass(frozen=True, eq=False)
class Periodic:
    """Round k uses `networks[k mod P]`.

    **Raises** `ValueError` if there is no network, sizes differ, or a network has a schedule or failures of its own.
    """

    networks: tuple[Network, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "networks", _checked_phases(self.networks, "periodic"))

    @property
    def phase_count(self) -> int:
        """P, the number of rounds in a period."""
        return len(self.networks)

    @property
    def probabilities(self) -> tuple[float, ...]:
        """The share of rounds that each phase has, 1/P."""
        return (1.0 / self.phase_count,) * self.phase_count

    def __str__(self) -> str:
        return f"periodic ({_count(self.phase_count)})"

    __repr__ = __str__


@dataclass(frozen=True, eq=False)
class RandomPhase:
    """Every round uses one of `networks`, drawn with `probabilities` (None: all alike), independently of other rounds.

    **Raises** as `Periodic`, and `ValueError` if the probabilities do not sum to 1 or are not one per network.
    """

    networks: tuple[Network, ...]
    probabilities: Sequence[float] | None = None

    def __post_init__(self) -> None:
        networks = _checked_phases(self.networks, "random_phases")
        given = (1.0 / len(networks),) * len(networks) if self.probabilities is None else self.probabilities
        probabilities = _checks.distribution("probabilities", given)
        if len(probabilities) != len(networks):
            raise ValueError(f"{len(probabilities)} probabilities for {len(networks)} networks; pass one for each.")
        object.__setattr__(self, "networks", networks)
        object.__setattr__(self, "probabilities", probabilities)

    @property
    def phase_count(self) -> int:
        """P, the number of different networks."""
        return len(self.networks)

    def __str__(self) -> str:
        return f"random ({_count(self.phase_count)})"

    __repr__ = __str__


@dataclass(frozen=True)
class Gossip:
    """Every round one edge of the network, drawn uniformly, wakes, and its two ends average: W = I - l_e/2.

    Boyd, Ghosh, Prabhakar and Shah, *Randomized gossip algorithms*, 2006 (with the edge's clock ticking, not the agent's).
    """

    @property
    def phase_count(self) -> int:
        """P = 1: the slots of all edges, of which the engine wakes one pair."""
        return 1

    def __str__(self) -> str:
        return "pairwise gossip"


Schedule = Fixed | Periodic | RandomPhase | Gossip


def _count(phases: int) -> str:
    return "1 phase" if phases == 1 else f"{phases} phases"


def _checked_phases(networks: Sequence[Network], who: str) -> tuple[Network, ...]:
    try:
        networks = tuple(networks)
    except TypeError:
        raise TypeError(f"{who} takes a list of networks; got {networks!r}.") from None
    if not networks:
        raise ValueError(f"{who} needs at least one network; got none.")
    for k, network in enumerate(networks):
        if not hasattr(network, "schedule"):
            raise TypeError(f"{who} takes networks; phase {k} is a {type(network).__name__}.")
        if network.n != networks[0].n:
            raise ValueError(
                f"all phases must have the same agents; phase 0 has n = {networks[0].n}, phase {k} has n = {network.n}. "
                "Agents that are absent in a phase are agents without edges: pass n= and allow_disconnected=True."
            )
        if not isinstance(network.schedule, Fixed):
            raise ValueError(f"phase {k} ({network.name}) has a schedule itself: {network.schedule}. List its phases instead.")
        if network.failures.any:
            raise ValueError(f"phase {k} ({network.name}) has failures; give them to the scheduled network: .with_failures(…).")
    return networks
