"""What of pipelines, aggregators and adversaries is refused before a run: got, expected, how to mend."""

from typing import Any

import numpy as np

from thalweg.adversary import Adversary
from thalweg.message.aggregate import Aggregator, Mixer
from thalweg.message.combine import Mean, Mix
from thalweg.message.flow import Flow
from thalweg.message.stage import Stage


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
