"""What is refused, or warned about, before a run under a server: got, expected, how to mend."""

import dataclasses
from typing import Any

import numpy as np

from thalweg.algorithm.server.base import ServerAlgorithm
from thalweg.cohort import Cohort, Everyone, Uniform
from thalweg.fleet import Fleet
from thalweg.message.stage import Stage
from thalweg.problem import Measurements, Problem
from thalweg.problem.scattered import Scattered

from .refusals import check_run
from .stop import Stop


def check_arguments(problem, algorithm, rounds, every, seed, stop, uplink, downlink, fleet, evaluate) -> None:
    """Types and sizes of what was passed to `solve`."""
    if not isinstance(problem, Scattered):
        raise TypeError(f"solve: got {type(problem).__name__} as problem, expected a thalweg Problem")
    if isinstance(problem, Measurements):
        raise TypeError(f"{type(algorithm).__name__} minimises losses, got Measurements; use tw.Averaging() on a network")
    check_run(rounds, every, seed, stop)
    if isinstance(stop, Stop) and stop.distributed:
        raise ValueError("Stop(distributed=True) is a rule of peers; a server sees all it needs: use tw.Stop()")
    for name, stage in (("uplink", uplink), ("downlink", downlink)):
        if stage is not None and not isinstance(stage, Stage):
            raise TypeError(f"solve: got {type(stage).__name__} as {name}, expected a stage of tw.message, or None")
    if fleet is not None and not isinstance(fleet, Fleet):
        raise TypeError(f"solve: got {type(fleet).__name__} as fleet, expected tw.Fleet(n, …), or None")
    if fleet is not None and fleet.n != problem.n:
        raise ValueError(f"solve: got a fleet of {fleet.n} devices for {problem.n} clients; build it with n={problem.n}")
    if fleet is not None and fleet.partial_work and "partial_work" not in algorithm.handles:
        raise ValueError(
            f"Fleet(partial_work=True): {type(algorithm).__name__} cannot use partial work; use tw.FedProx or tw.FedNova, or "
            "let late clients miss the round"
        )
    for name, pair in (evaluate or {}).items():
        if not (isinstance(pair, tuple) and len(pair) == 2 and callable(pair[0])):
            raise TypeError(f"solve evaluate {name!r}: got {type(pair).__name__}, expected (metric, examples)")


def check_problem(algorithm: ServerAlgorithm, problem: Problem) -> Problem:
    """The problem has what the algorithm needs; a smooth regulariser is folded into the losses where it must be."""
    if problem.regularizer is None or "regularizer" in algorithm.handles:
        return problem
    if problem.regularizer.smooth:
        return problem.folded()
    raise ValueError(
        f"{type(algorithm).__name__} has no prox, got the non-smooth regulariser {type(problem.regularizer).__name__}; use "
        "tw.ConsensusADMM(), or a smooth regulariser such as tw.l2"
    )


def cohort_of(algorithm: ServerAlgorithm, n: int) -> Cohort:
    """The rule that `algorithm.cohort` means."""
    cohort: Any = algorithm.cohort
    if cohort is None:
        cohort = Everyone()
    elif isinstance(cohort, int) and not isinstance(cohort, bool):
        cohort = Uniform(cohort)
    if not isinstance(cohort, Cohort):
        raise TypeError(
            f"{type(algorithm).__name__}(cohort={cohort!r}): expected a rule of tw.cohort, a number of clients, or None"
        )
    cohort.slots(n)
    if "everyone" in algorithm.needs and not isinstance(cohort, Everyone):
        raise ValueError(
            f"{type(algorithm).__name__} needs all clients in every round, got cohort={algorithm.cohort!r}; use None"
        )
    return cohort


def check_asynchronous(engine, algorithm: ServerAlgorithm, cohort: Cohort, fleet: Fleet | None, n: int) -> None:
    """A server that does not wait: no rounds, so nothing that only rounds have."""
    name = type(algorithm).__name__
    if len(algorithm.phases) > 1:
        raise ValueError(f"EventDriven: {name} exchanges {len(algorithm.phases)} messages in a round, and there are no rounds")
    if not isinstance(cohort, Everyone | Uniform):
        raise ValueError(
            f"EventDriven: got cohort={algorithm.cohort!r}, expected a number of clients that work at a time, or None for all"
        )
    if engine.buffer > n:
        raise ValueError(f"EventDriven(buffer={engine.buffer}): expected at most {n}, the number of clients")
    if "everyone" in algorithm.needs and engine.buffer < n:
        raise ValueError(f"EventDriven(buffer={engine.buffer}): {name} needs all clients in every round, expected buffer={n}")
    if fleet is not None and fleet.selective:
        raise ValueError(
            "EventDriven: got a fleet with a deadline, accept or availability; nobody is waited for, so leave them out"
        )


def is_open(algorithm: ServerAlgorithm) -> bool:
    """Whether something was left None that is chosen from the problem's constants."""
    steps = any(part.open() for part in _parts(algorithm) if hasattr(part, "open"))
    return steps or getattr(algorithm, "penalty", 0) is None


def _parts(algorithm: ServerAlgorithm) -> list[Any]:
    return [getattr(algorithm, field.name) for field in dataclasses.fields(algorithm)]


def does_without(algorithm: ServerAlgorithm, problem: Problem, most: int) -> bool:
    """Whether the losses are not smooth, and the algorithm only `handles` "constants" (its penalty is open, no step size)."""
    steps = any(part.open() for part in _parts(algorithm) if hasattr(part, "open"))
    if "constants" not in algorithm.handles or steps or problem.size > most:
        return False
    return not (np.isfinite(problem.smoothness).all() and problem.smoothness.max() > 0)


def check_constants(algorithm: ServerAlgorithm, problem: Problem, most: int) -> None:
    """Constants are there, or can be estimated in reasonable time."""
    name = type(algorithm).__name__
    if problem.size > most:
        raise ValueError(
            f"{name}: its step size or penalty was left open, and the constants of a model with {problem.size:,} variables are "
            "not estimated; give one, for example solver=tw.LocalSGD(0.1, batch_size=20) or penalty=0.1"
        )
    smoothness = problem.smoothness
    if not (np.isfinite(smoothness).all() and smoothness.max() > 0):
        raise ValueError(
            f"{name} needs smooth losses with a positive Lipschitz constant, got L_i = {smoothness.min():.4g} … "
            f"{smoothness.max():.4g}; pass smoothness= to the problem, or give the step size"
        )
    if "strongly_convex" in algorithm.needs and not problem.strong_convexity.min() > 0:
        raise ValueError(f"{name} needs every local loss to be strongly convex; add tw.l2, or pass strong_convexity=")


def server_warnings(algorithm: ServerAlgorithm, cohort: Cohort, fleet: Fleet | None) -> list[str]:
    """What is worth a warning: means that are biased towards some clients."""
    texts, name = [], type(algorithm).__name__
    if not cohort.unbiased:
        texts.append(f"{type(cohort).__name__} chooses clients by what they reported: means are biased towards them")
    if fleet is not None and fleet.selective:
        texts.append(
            "who answers depends on its device (deadline, accept or availability): means are biased towards those that do"
        )
    if not isinstance(cohort, Everyone) and algorithm.claims.exact and "partial" not in algorithm.exact_under:
        texts.append(f"{name} is exact with all clients in every round, not with a part of them: its limit is biased here")
    return texts
