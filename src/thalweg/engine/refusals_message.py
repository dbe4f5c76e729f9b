"""What of pipelines, aggregators and adversaries is refused before a run: got, expected, how to mend."""

from typing import Any

import jax
import numpy as np

from thalweg.adversary import Adversary
from thalweg.cohort import Cohort, Everyone
from thalweg.fleet import Fleet
from thalweg.message.aggregate import Aggregator, Mixer
from thalweg.message.combine import Mean, Mix
from thalweg.message.flow import Flow
from thalweg.message.stage import Stage
from thalweg.network import Network

from .aggregation import over_arrivals
from .simulated import EventDriven


def check_aggregator(algorithm: Any, n: int, uplink: Stage | None, aggregate: Any, adversary: Any, slots: int) -> None:
    """Of a server that hears at most `slots` clients in a round: its aggregator fits them, their messages and the uplink."""
    if aggregate is not None and not isinstance(aggregate, Aggregator):
        kind = "an aggregator of a server, such as tw.message.trimmed_mean(0.1), or None"
        raise TypeError(f"solve: got {type(aggregate).__name__} as aggregate, expected {kind}")
    _check_adversary(adversary, n)
    flow = Flow() if uplink is None else uplink.after(Flow())
    if aggregate is None:
        return
    name, rules = type(algorithm).__name__, algorithm.combine
    if not any(isinstance(rule, Mean) for rule in rules.values()):
        raise ValueError(
            f"solve: {name} takes no mean of its clients' messages, so there is nothing for {type(aggregate).__name__} to stand in "
            "for; leave aggregate= out, or use a method that averages, such as tw.FedAvg"
        )
    others = [field for field, rule in rules.items() if not isinstance(rule, Mean)]
    if others:
        raise ValueError(
            f"solve: {name} adds up {', '.join(map(repr, others))} beside its means, which {type(aggregate).__name__} would leave "
            "unprotected; use a method that only averages, such as tw.FedAvg or tw.FedOpt"
        )
    aggregate.after(flow)
    aggregate.check(slots)


def check_link(link: Stage | None, network: Network) -> None:
    """Of peers: copies that neighbours keep of each other's messages stay the same at both ends."""
    if link is None or not link.after(Flow()).replicated:
        return
    schedule = type(network.schedule).__name__
    if schedule == "Fixed" and not network.failures.any:
        return
    what = f"a network with {network.failures}" if schedule == "Fixed" else f"the schedule {network.schedule}"
    raise ValueError(
        f"solve: got a link that sends changes of a replica (ef21) on {what}, expected a network on which every message arrives: a "
        "change that is missed is never made up for; use error_feedback(…), whose messages stand by themselves"
    )


def check_downlink(downlink: Stage | None, cohort: Cohort, fleet: Fleet | None, engine: Any) -> None:
    """Of a server: what its pipeline remembers of earlier broadcasts, every client has received."""
    flow = Flow() if downlink is None else downlink.after(Flow())
    if not (flow.memory or flow.replicated):
        return
    if isinstance(engine, EventDriven) or engine == EventDriven.name:
        why = "the event-driven engine, where the server speaks to one client at a time"
    elif not isinstance(cohort, Everyone):
        why = f"the cohort {cohort!r}"
    elif fleet is not None and fleet.selective:
        why = "a fleet with a deadline, accept or availability"
    else:
        return
    raise ValueError(
        f"solve: got a downlink with a memory (error_feedback, ef21) and {why}, expected that every client receives every "
        "broadcast, since what is left out of one comes with a later one; use a downlink without memory, such as quantise(8), or "
        "cohort=None"
    )


def link_facts(link: Stage | None, x0: Any) -> dict[str, float | None]:
    """The `Facts` that are the link's, for messages like `x0`."""
    if link is None:
        return {}
    spec = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), x0)
    return {"contraction": link.contraction(spec), "variance": link.variance(spec)}


def settled_aggregator(aggregate: Aggregator | None, cohort: Cohort, fleet: Fleet | None, n: int, buffer: int | None) -> Any:
    """The aggregator of this cohort. `buffer`: messages of an update, where a server does not wait for rounds."""
    if aggregate is None:
        return None
    name = type(aggregate).__name__
    if aggregate.sealed and buffer is not None:
        raise ValueError(
            f"EventDriven: {name} adds up what clients have weighted before they know how late they come, and whose masks cancel "
            "within a round; use an engine with rounds, or leave aggregate= out"
        )
    if aggregate.sealed and cohort.reports:
        raise ValueError(
            f"solve: cohort {type(cohort).__name__} learns each client's {', '.join(cohort.reports)} in the clear, beside the sums "
            f"of {name} that are to hide it; use a cohort that does not learn, such as tw.cohort.uniform(…)"
        )
    known = fleet is None or not fleet.selective
    return aggregate.resolve(cohort.slots(n) if buffer is None else buffer, over_arrivals(cohort, known))


def weight_warnings(aggregate: Any, weights: np.ndarray) -> list[str]:
    """What is worth a warning: weights of clients that an aggregator does not look at."""
    if aggregate is None or not aggregate.unweighted or np.ptp(weights) <= 1e-6 * weights.max():
        return []
    name = type(aggregate).__name__
    return [f"{name} counts every client once: their weights, from {weights.min():.3g} to {weights.max():.3g}, do not matter"]


def check_mixer(algorithm: Any, n: int, mixer: Any, adversary: Any, neighbours: int) -> None:
    """Of peers, who have at least so many `neighbours`: what stands in place of mixing has something to mix."""
    if mixer is not None and not isinstance(mixer, Mixer):
        kind = "a mixer of peers, such as tw.message.clipped_gossip(…), or None"
        raise TypeError(f"solve: got {type(mixer).__name__} as aggregate, expected {kind}")
    _check_adversary(adversary, n)
    if mixer is not None and not any(type(rule) is Mix for rule in algorithm.combine.values()):
        raise ValueError(
            f"solve: {type(algorithm).__name__} does not mix with its neighbours, so {type(mixer).__name__} has nothing to stand "
            "in for; leave aggregate= out, or use a method that mixes, such as tw.DGD"
        )
    if mixer is not None:
        mixer.check(neighbours)


def _check_adversary(adversary: Any, n: int) -> None:
    if adversary is None:
        return
    if not isinstance(adversary, Adversary):
        raise TypeError(f"solve: got {type(adversary).__name__} as adversary, expected one of tw.adversary, or None")
    agents = adversary.agents
    if not agents or len(set(agents)) < len(agents) or min(agents) < 0 or max(agents) >= n:
        raise ValueError(f"solve: got adversary.agents={agents}, expected different positions from 0 to {n - 1}")
    if len(agents) == n:
        raise ValueError(f"solve: got adversary.agents={agents}, which is everybody; leave somebody honest")
