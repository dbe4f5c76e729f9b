"""What is refused, or warned about, before anything runs: got, expected, how to mend."""

import dataclasses
import difflib
from collections.abc import Iterable
from typing import Any

import numpy as np

from thalweg.algorithm.asynchronous.base import AsynchronousAlgorithm
from thalweg.algorithm.base import Facts, PeerAlgorithm
from thalweg.algorithm.step import LocalStep, PerAgent
from thalweg.message.combine import Edges, Mix, Pull, Push
from thalweg.message.stage import Stage
from thalweg.network import Network
from thalweg.problem import Coupled, Measurements, Problem

from .stop import Stop


def nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'ring'?)` or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def check_arguments(problem, algorithm, network, rounds, every, seed, stop, link, report) -> None:
    """Types and sizes of what was passed to `solve`."""
    for value, kinds, name in ((problem, (Problem, Coupled), "problem"), (network, (Network,), "network")):
        if not isinstance(value, kinds):
            raise TypeError(f"solve: got {type(value).__name__} as {name}, expected a thalweg {kinds[0].__name__}")
    if isinstance(algorithm, type):
        raise TypeError(f"solve: got the class {algorithm.__name__}, expected an object: write {algorithm.__name__}()")
    if not isinstance(algorithm, PeerAlgorithm):
        raise TypeError(f"solve: got {type(algorithm).__name__} as algorithm, expected one of tw.algorithms")
    check_kind(problem, algorithm)
    check_sizes(problem, network)
    check_run(rounds, every, seed, stop)
    if link is not None and not isinstance(link, Stage):
        raise TypeError(f"solve: got {type(link).__name__} as link, expected a stage of tw.message, or None")
    if isinstance(report, str):
        raise TypeError(f"solve: report={report!r}, expected a tuple of names: report=({report!r},)")


def check_run(rounds, every, seed, stop) -> None:
    """How long, how often, from which seed, until when."""
    for value, least, name, what in (
        (rounds, 0, "rounds", "a whole number ≥ 0"),
        (1 if every is None else every, 1, "every", "a whole number ≥ 1, or None"),
        (seed, -np.inf, "seed", "a whole number; random keys are derived from it"),
    ):
        if not isinstance(value, int | np.integer) or isinstance(value, bool):
            raise TypeError(f"solve: {name}={value!r}, expected {what}")
        if value < least:
            raise ValueError(f"solve: {name}={value!r}, expected {what}")
    if stop is not None and not isinstance(stop, Stop):
        raise TypeError(f"solve: got {type(stop).__name__} as stop, expected tw.Stop(progress=…, agreement=…), or None")


def check_sizes(problem: Problem | Coupled, network: Network) -> None:
    """The network has as many agents as the problem."""
    if problem.n != network.n:
        raise ValueError(
            f"solve: the problem has {problem.n} agents and the network {network.n}; build the network with n={problem.n}"
        )


def check_network(algorithm: PeerAlgorithm, network: Network) -> None:
    """The network has what the algorithm needs."""
    name, facts, rules = type(algorithm).__name__, network.facts, algorithm.combine.values()
    if not facts.connected:
        raise ValueError(
            f"{network.name} is not {'strongly ' * network.directed}connected, so its agents can never agree; add edges, or use "
            "it as one phase of tw.network.periodic([...]) whose union is connected"
        )
    if "undirected" in algorithm.needs and network.directed:
        raise ValueError(
            f"{name} needs an undirected network, got the directed {network.name}; use a method for directed graphs "
            "(PushPull, PushDIGing, PushSum) or make the edges two-way"
        )
    if any(isinstance(rule, Edges) for rule in rules) and network.directed:
        raise ValueError(f"{name} sends a message of its own over every edge and back, got the directed {network.name}")
    if any(isinstance(rule, Mix) for rule in rules):
        if network.mixing is None:
            raise ValueError(
                f"{name} mixes with doubly stochastic weights, which {network.name} does not have; use a method for directed "
                "graphs (PushPull, PushDIGing, PushSum) or give a matrix: network.with_weights(W)"
            )
        mend = "network.with_weights('metropolis')"
        if network.directed:
            mend = "a method for directed graphs (PushPull, PushDIGing, PushSum) or make the edges two-way"
        for need, what in (("doubly_stochastic", "doubly stochastic"), ("symmetric", "symmetric")):
            if need in algorithm.needs and not getattr(facts, need):
                raise ValueError(
                    f"{name} needs {what} mixing weights, got {network.weights} weights on {network.name} which are not; "
                    f"use {mend}"
                )
    _check_mixing(name, rules, network)
    if "positive_definite" in algorithm.needs and facts.lambda_min is not None and facts.lambda_min <= 0:
        raise ValueError(f"{name} needs λ_min(W) > 0, got {facts.lambda_min:.4g}; use network.with_weights('lazy_metropolis')")
    if "reliable" in algorithm.needs and network.failures.any:
        raise ValueError(
            f"{name} adds up what its neighbours send, got a network with {network.failures}, expected one on which every message "
            "arrives: what is missed is never made up for; use tw.EdgeADMM(), which is exact under loss, without a lossy link"
        )
    kind = type(network.schedule).__name__
    if "fixed" in algorithm.needs and kind != "Fixed":
        raise ValueError(f"{name} needs a network that does not change, got the schedule {network.schedule}")
    if kind == "Gossip" and any(isinstance(rule, Pull | Push) for rule in rules):
        raise ValueError(f"{name} needs row- or column-stochastic weights, which pairwise gossip does not have")


def _check_mixing(name: str, rules: Iterable, network: Network) -> None:
    """Given weights let the agents agree; those of the library's own rules always do."""
    if network.n == 1 or network.weights != "given" or type(network.schedule).__name__ != "Fixed":
        return
    facts = network.facts
    for kind, sigma in ((Mix, facts.sigma), (Pull, facts.pull_sigma), (Push, facts.push_sigma)):
        if any(isinstance(rule, kind) for rule in rules) and not sigma < 1 - 1e-12:
            raise ValueError(
                f"{name}: with the given weights the agents of {network.name} never agree: got {sigma:.6g} as second largest "
                "eigenvalue modulus, expected less than 1; give weight to the diagonal, for example (I + W)/2, and make no "
                "entry negative"
            )


def check_problem(algorithm: PeerAlgorithm | AsynchronousAlgorithm, problem: Problem) -> Problem:
    """The problem has what the algorithm needs; a smooth regulariser is folded into the losses where it must be."""
    name = type(algorithm).__name__
    if "measurements" in algorithm.needs and not isinstance(problem, Measurements):
        raise TypeError(
            f"{name} computes with measurements, got a {type(problem).__name__}; use tw.Measurements(values), or an "
            "optimisation method such as tw.GradientTracking()"
        )
    if problem.regularizer is None or "regularizer" in algorithm.handles:
        return problem
    if problem.regularizer.smooth:
        return problem.folded()
    raise ValueError(
        f"{name} has no prox, got the non-smooth regulariser {type(problem.regularizer).__name__}; use tw.PGEXTRA() or "
        "tw.NIDS(), or a smooth regulariser such as tw.l2"
    )


def check_steps(algorithm: PeerAlgorithm | AsynchronousAlgorithm, n: int, rows: int | None = None) -> None:
    """Step sizes and penalties are positive numbers, per agent only where the method allows it, and per row of a coupling."""
    name = type(algorithm).__name__
    for field in dataclasses.fields(algorithm):
        value = getattr(algorithm, field.name)
        if isinstance(value, PerAgent | LocalStep) and "local_steps" not in algorithm.handles:
            raise ValueError(
                f"{name}({field.name}=…): the limit would depend on the agents' own step sizes; give one number, or use a "
                "method that allows them (tw.NIDS, tw.AugDGM)"
            )
        if isinstance(value, PerAgent) and value.values.shape != (n,):
            raise ValueError(
                f"{name}({field.name}=PerAgent(…)): got shape {value.values.shape}, expected ({n},), one value per agent"
            )
        if field.name not in ("step_size", "penalty", "price_step"):
            continue
        each_row = rows is not None and not (field.name == "step_size" and "local_steps" in algorithm.handles)
        values = value.values if isinstance(value, PerAgent) else value.fraction if isinstance(value, LocalStep) else value
        if values is None:
            continue
        if each_row and np.ndim(values) and not isinstance(value, PerAgent):
            if np.shape(values) != (rows,):
                raise ValueError(
                    f"{name}({field.name}=…): got shape {np.shape(values)}, expected one number, or ({rows},), one per row"
                )
        elif np.ndim(values) and not isinstance(value, PerAgent):
            raise TypeError(
                f"{name}({field.name}=…): got an array of shape {np.shape(values)}, expected one number; one for each agent is "
                "written tw.PerAgent(values), where the method allows it"
            )
        if not np.issubdtype(np.asarray(values).dtype, np.number):
            raise TypeError(f"{name}({field.name}={values!r}): expected a positive number, or None for the default")
        if not (np.isfinite(values).all() and (np.asarray(values) > 0).all()):
            raise ValueError(f"{name}({field.name}={values!r}): expected a positive number, or None for the default")


def step_warnings(algorithm: PeerAlgorithm | AsynchronousAlgorithm, facts: Facts, network: Network) -> list[str]:
    """What is worth a warning: steps above the provable bound, failures under which the method is biased."""
    name, texts = type(algorithm).__name__, []
    step = getattr(algorithm, "step_size", None)
    bound = algorithm.step_bound(facts) if facts.smoothness is not None else None
    if bound is not None and step is not None:
        steps, bounds = np.broadcast_arrays(step.values if isinstance(step, PerAgent) else step, bound)
        worst = np.argmax(steps / bounds)
        step, bound = steps.flat[worst], bounds.flat[worst]
        if step > bound * (1 + 1e-9):
            texts.append(f"{name}: step_size {step:.4g} is above the provable bound {bound:.4g}; the run may diverge")
    inexact = network.failures.kinds - algorithm.exact_under
    if inexact and algorithm.claims.exact:
        other = "" if "prices" in algorithm.handles else "; tw.EdgeADMM stays exact under every kind of failure"
        texts.append(
            f"{name} is exact under {listing(algorithm.exact_under)}, not under {listing(inexact)}: its limit is biased "
            f"here{other}"
        )
    return texts


def listing(kinds: frozenset[str]) -> str:
    """Kinds of failures, in words."""
    names = {
        "symmetric": "symmetric loss",
        "independent": "loss per direction",
        "asleep": "sleeping agents",
        "delay": "delays",
    }
    return ", ".join(names[kind] for kind in sorted(kinds)) or "no failures"


def check_kind(problem: Any, algorithm: Any) -> None:
    """A coupled problem is solved with prices, any other one without."""
    coupled, prices, name = isinstance(problem, Coupled), "prices" in algorithm.handles, type(algorithm).__name__
    if coupled and not prices:
        raise TypeError(
            f"solve: {name} finds one answer for all, got a Coupled problem, whose agents share a constraint; use a price method, "
            "such as tw.DualAscent() or tw.ExchangeADMM() with a price-setter, tw.TrackingADMM() among peers"
        )
    if prices and not coupled:
        raise TypeError(f"solve: {name} sets prices, got a {type(problem).__name__}; expected a tw.Coupled problem")
