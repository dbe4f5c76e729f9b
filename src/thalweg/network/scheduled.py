"""Networks whose edges change from round to round."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.sparse import csr_array, eye_array

from thalweg.network.graph import arcs_of, laplacian
from thalweg.network.network import Network
from thalweg.network.schedule import Fixed, Gossip, Periodic, RandomPhase, Schedule


def periodic(networks: Sequence[Network], *, allow_disconnected: bool = False) -> Network:
    """Round k uses `networks[k mod P]`. Only the union of the phases has to be connected.

    **Raises** `ValueError` if sizes differ, a phase has a schedule or failures of its own, or the union is disconnected.
    """
    return _union(Periodic(networks), allow_disconnected)


def random_phases(
    networks: Sequence[Network], probabilities: Sequence[float] | None = None, *, allow_disconnected: bool = False
) -> Network:
    """Every round uses one of `networks`, drawn with `probabilities` (None: all alike); all agents see the same draw.

    **Raises** as `periodic`, and `ValueError` for probabilities that are not one per network or do not sum to 1.
    """
    return _union(RandomPhase(networks, probabilities), allow_disconnected)


def pairwise_gossip(network: Network) -> Network:
    """Every round one uniformly drawn edge wakes and its two ends average; E[W] = I - L_g/(2|E|).

    Boyd, Ghosh, Prabhakar and Shah, *Randomized gossip algorithms*, IEEE Trans. Information Theory 2006.

    **Raises** `ValueError` on a directed or scheduled network and on one without edges.
    """
    if network.directed:
        raise ValueError(f"pairwise gossip needs both ends of an edge to hear each other; {network.name} is directed.")
    if not isinstance(network.schedule, Fixed):
        raise ValueError(f"pairwise gossip draws edges of a fixed network; {network.name} is {network.schedule} already.")
    if len(network.edges) == 0:
        raise ValueError(f"pairwise gossip needs at least one edge; {network.name} has none.")
    expected = csr_array(eye_array(network.n) - laplacian(network.edges, network.n) / (2.0 * len(network.edges)))
    return replace(
        network,
        weights="pairwise",
        mixing=expected,
        pull=expected,
        push=expected,
        schedule=Gossip(),
    )


def scheduled(network: Network, schedule: Schedule) -> Network:
    """`network.with_schedule(schedule)`."""
    match schedule:
        case Fixed():
            if isinstance(network.schedule, Fixed):
                return network
            return replace(network, weights=None, mixing=None, pull=None, push=None, schedule=schedule)
        case Gossip():
            return pairwise_gossip(network)
        case Periodic() | RandomPhase():
            if schedule.networks[0].n != network.n:
                raise ValueError(f"the schedule has n = {schedule.networks[0].n} agents, the network n = {network.n}.")
            return replace(_union(schedule, network.allow_disconnected), failures=network.failures)
        case _:
            raise TypeError(f"a schedule is Fixed, Periodic, RandomPhase or Gossip; got {type(schedule).__name__}.")


def _union(schedule: Periodic | RandomPhase, allow_disconnected: bool) -> Network:
    """The network of all edges that some phase uses, with expected weights (time averages, if periodic)."""
    networks = schedule.networks
    n, directed = networks[0].n, any(network.directed for network in networks)
    edges = [arcs_of(network.edges, n, network.directed) if directed else network.edges for network in networks]
    labels = {network.weights for network in networks}
    names = ", ".join(network.name for network in networks) if len(networks) <= 3 else f"{len(networks)} phases"
    mixed = all(network.mixing is not None for network in networks)

    def expected(matrices: Sequence[csr_array]) -> csr_array:
        return csr_array(sum(p * matrix for p, matrix in zip(schedule.probabilities, matrices, strict=True)))

    return Network(
        n,
        np.concatenate(edges),
        directed,
        name=f"union({names})",
        weights=(labels.pop() if len(labels) == 1 else "per phase") if mixed else None,
        mixing=expected([network.mixing for network in networks]) if mixed else None,
        pull=expected([network.pull for network in networks]),
        push=expected([network.push for network in networks]),
        positions=next((network.positions for network in networks if network.positions is not None), None),
        schedule=schedule,
        allow_disconnected=allow_disconnected,
    )
