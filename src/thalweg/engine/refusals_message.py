"""What of pipelines, aggregators and adversaries is refused before a run: got, expected, how to mend."""

from typing import Any

from thalweg.adversary import Adversary
from thalweg.cohort import Cohort
from thalweg.fleet import Fleet
from thalweg.message.aggregate import Aggregator, Mixer
from thalweg.message.combine import Mean, Mix
from thalweg.message.flow import Flow
from thalweg.message.stage import Stage

from .aggregation import over_arrivals


def check_aggregator(algorithm: Any, n: int, uplink: Stage | None, aggregate: Any, adversary: Any) -> None:
    """Of a server: its aggregator fits the algorithm's messages, and what the uplink makes of them."""
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


def check_mixer(algorithm: Any, n: int, mixer: Any, adversary: Any) -> None:
    """Of peers: what stands in place of mixing has something to mix."""
    if mixer is not None and not isinstance(mixer, Mixer):
        kind = "a mixer of peers, such as tw.message.clipped_gossip(…), or None"
        raise TypeError(f"solve: got {type(mixer).__name__} as aggregate, expected {kind}")
    _check_adversary(adversary, n)
    if mixer is not None and not any(type(rule) is Mix for rule in algorithm.combine.values()):
        raise ValueError(
            f"solve: {type(algorithm).__name__} does not mix with its neighbours, so {type(mixer).__name__} has nothing to stand "
            "in for; leave aggregate= out, or use a method that mixes, such as tw.DGD"
        )


def _check_adversary(adversary: Any, n: int) -> None:
    if adversary is None:
        return
    if not isinstance(adversary, Adversary):
        raise TypeError(f"solve: got {type(adversary).__name__} as adversary, expected one of tw.adversary, or None")
    agents = adversary.agents
    if not agents or len(set(agents)) < len(agents) or min(agents) < 0 or max(agents) >= n:
        raise ValueError(f"solve: got adversary.agents={agents}, expected different positions from 0 to {n - 1}")
