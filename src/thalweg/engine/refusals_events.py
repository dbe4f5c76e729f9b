"""What is refused, or warned about, before a run without rounds: got, expected, how to mend."""

from typing import Any

from thalweg.algorithm.asynchronous.base import AsynchronousAlgorithm
from thalweg.algorithm.base import Facts, PeerAlgorithm
from thalweg.network import Network
from thalweg.problem import Coupled, Problem

from . import refusals
from .simulated import EventDriven

# What only rounds have, and what there is instead.
_ONLY_ROUNDS = {
    "link": "a pipeline of messages is made for rounds",
    "aggregate": "messages come one by one, and are not combined",
    "adversary": "adversaries are simulated in rounds",
    "privacy": "an account of privacy counts rounds",
    "start": "epochs begin between rounds; begin anew from x0=result.x",
    "report": "agents have no Info",
}


def check_asked(problem, algorithm, network, engine, rounds, every, seed, stop, **others: Any) -> None:
    """What was passed to `solve` with an algorithm without rounds; `others` by the names of `_ONLY_ROUNDS`.

    Raises:
        TypeError, ValueError: something that there is not.
    """
    name = type(algorithm).__name__
    for value, kind, what in ((problem, Problem, "problem"), (network, Network, "network")):
        if isinstance(value, Coupled):
            refusals.check_kind(value, algorithm)
        if not isinstance(value, kind):
            raise TypeError(f"solve: got {type(value).__name__} as {what}, expected a thalweg {kind.__name__}")
    refusals.check_sizes(problem, network)
    refusals.check_run(rounds, every, seed, stop)
    for argument, value in others.items():
        if value is not None and value != ():
            raise TypeError(
                f"solve: got {argument}=, expected none: {name} has no rounds, and {_ONLY_ROUNDS[argument]}; use a method with "
                "rounds, such as tw.EdgeADMM() or tw.PushSum()"
            )
    if not isinstance(engine, EventDriven):
        raise TypeError(
            f"solve: {name} has no rounds, got engine {getattr(engine, 'name', engine)!r}, expected "
            "engine=tw.EventDriven(clocks=tw.Clocks(…)), or engine='event-driven'"
        )
    if engine.buffer != 1 or engine.staleness != 0.5:
        raise ValueError(f"EventDriven(buffer=…, staleness=…) is of a server, got {name}; leave them out")
    if problem.drifts:
        raise ValueError(f"solve: {name} has no rounds, got a problem that changes from round to round; give one that does not")
    if stop is not None and stop.distributed:
        raise ValueError(
            "Stop(distributed=True) is decided in rounds, which there are not; use tw.Stop(), or a number of rounds"
        )
    check_network(algorithm, network)


def check_network(algorithm: AsynchronousAlgorithm, network: Network) -> None:
    """The network has what the algorithm needs, and nothing that happens in rounds.

    Raises:
        ValueError: it has not.
    """
    name, failures = type(algorithm).__name__, network.failures
    if not network.facts.connected:
        raise ValueError(
            f"{network.name} is not {'strongly ' * network.directed}connected, so its agents can never agree; add edges"
        )
    if network.directed and ("undirected" in algorithm.needs or algorithm.per_neighbour):
        raise ValueError(
            f"{name} needs an undirected network, got the directed {network.name}; use a method for directed graphs "
            "(AsynchronousPushSum) or make the edges two-way"
        )
    if type(network.schedule).__name__ != "Fixed":
        raise ValueError(f"{name} has no rounds, got a network that changes from round to round: {network.schedule}")
    kinds = failures.kinds
    if "symmetric" in kinds or failures.burst is not None:
        raise ValueError(
            f"{name} has no rounds, in which both ends could miss each other, or losses come in bursts: got {failures}; write "
            f"with_failures(loss={failures.loss:g}, symmetric=False)"
        )
    for kind, mend in (("delay", "latency=…, jitter=…"), ("asleep", "availability=…")):
        if kind in kinds:
            raise ValueError(
                f"{name} has no rounds that a network's failures could be counted in: got {failures}; say it in seconds, "
                f"tw.EventDriven(clocks=tw.Clocks({mend}))"
            )


def check_rounds(engine: Any, algorithm: PeerAlgorithm) -> None:
    """An algorithm with rounds is not asked to run without.

    Raises:
        TypeError: it is.
    """
    if isinstance(engine, EventDriven):
        mend = (
            ""
            if "prices" in algorithm.handles
            else ", or a method without rounds: tw.AsynchronousADMM(), tw.AsynchronousPushSum()"
        )
        raise TypeError(
            f"solve: {type(algorithm).__name__} goes in rounds, got the event-driven engine, expected engine='simulated'{mend}"
        )


def warnings_of(algorithm: AsynchronousAlgorithm, facts: Facts, network: Network, engine: EventDriven) -> list[str]:
    """Failures under which the method is biased, steps above a bound."""
    texts = refusals.step_warnings(algorithm, facts, network)
    clocks = engine.clocks
    kinds = (
        set()
        if clocks is None
        else {
            *(["delay"] if clocks.latency.any() or clocks.jitter.any() else []),
            *(["asleep"] if clocks.availability is not None else []),
        }
    )
    inexact = frozenset(kinds) - algorithm.exact_under
    if inexact and algorithm.claims.exact:
        texts.append(f"{type(algorithm).__name__} is not exact under {refusals.listing(inexact)}: its limit is biased here")
    return texts
