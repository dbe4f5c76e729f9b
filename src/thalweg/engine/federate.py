"""A run under a server: what is set up, and what comes of it."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.algorithm.base import Facts
from thalweg.algorithm.server.base import ServerAlgorithm
from thalweg.algorithm.server.base import Shared as PublicPart
from thalweg.observe import Result
from thalweg.problem import Problem
from thalweg.problem.regularizer import Zero

from . import privacy, setup
from . import refusals_server as refusals
from .led import CLIENT_ROWS, Asked, Prepared, carried, conduct, lead
from .refusals_message import check_aggregator, check_downlink, weight_warnings
from .server_metrics import Evaluation, LearningGauge
from .server_tabulate import ServerColumns
from .simulated import EventDriven

# As many clients of a streamed problem are measured.
WATCHED = 500
# Constants of a larger model are not estimated behind the user's back.
ESTIMATED_VARIABLES = 20_000


def federate(problem: Problem, algorithm: ServerAlgorithm, asked: Asked, evaluate: dict[str, tuple] | None) -> Result:
    """`solve` with a server."""
    a = asked
    refusals.check_arguments(problem, algorithm, a.rounds, a.every, a.seed, a.stop, a.uplink, a.downlink, a.fleet, evaluate)
    prepared = prepare(problem, algorithm, a)
    stated, problem, algorithm = problem, prepared.problem, prepared.algorithm
    evaluations = {name: _evaluation(name, *pair, problem) for name, pair in (evaluate or {}).items()}
    gradients = problem.n <= CLIENT_ROWS and problem.size <= ESTIMATED_VARIABLES and problem.pieces is not None
    a = dataclasses.replace(a, aggregate=prepared.aggregate)
    account = privacy.of_server(algorithm, problem, prepared.cohort, a.uplink, prepared.aggregate)
    if account is not None and isinstance(setup.chosen_engine(a.engine, a.deterministic), EventDriven):
        raise ValueError("EventDriven: without rounds what noise costs is not accounted for; use the simulated engine")
    spending = privacy.plan(account, a.privacy, int(a.rounds), a.start)
    prepared.said.extend(spending.said)
    led = lead(a, prepared, LearningGauge(evaluations, gradients), _watched(prepared.clients))
    ended = conduct(
        a, led, problem, algorithm,
        stated=stated,
        member="client",
        head=f"one server, {problem.n} clients",
        begin=lambda local, shared: carried(a.start, local, shared, lambda: setup.target_row(a.start, problem)),
        columns=lambda sizes, goal, keep: ServerColumns(sizes, problem.weights, goal.optimum, a.reference is not None, keep),
        counts=getattr(problem, "counts", None) if stated.pieces is not None else problem.source.counts,
        extra=f", evaluate: {', '.join(evaluations) or 'none'}",
        config={"evaluate": {name: _said(evaluation) for name, evaluation in evaluations.items()}},
        spending=spending,
    )  # fmt: skip
    run, unravel = ended.run, setup.unraveller(problem)
    own = None
    if "personal" in algorithm.handles:
        own = jax.vmap(unravel)(run.engine.estimates(run.experiment, run.local, run.shared))
    return ended.result(x=unravel(run.engine.shared_answer(run.experiment, run.shared)), agents=own)


def prepare(problem: Problem, algorithm: ServerAlgorithm, a: Asked) -> Prepared:
    """What is settled before a federation's program is made.

    Raises:
        TypeError, ValueError: an impossible combination.
    """
    problem = refusals.check_problem(algorithm, problem)
    cohort = refusals.cohort_of(algorithm, problem.n)
    check_downlink(a.downlink, cohort, a.fleet, a.engine)
    check_aggregator(algorithm, problem.n, a.uplink, a.aggregate, a.adversary)
    algorithm = algorithm.resolve(_facts(problem, algorithm))
    aggregate = privacy.with_weights(a.aggregate, problem.weights, cohort, a.fleet, problem.n)
    return Prepared(
        problem=problem,
        clients=unscaled(problem),
        algorithm=algorithm,
        cohort=cohort,
        public=PublicPart(problem.regularizer or Zero(), problem.n, jnp.asarray(problem.weights, problem.dtype)),
        aggregate=aggregate,
        said=[*refusals.server_warnings(algorithm, cohort, a.fleet), *weight_warnings(aggregate, problem.weights)],
    )


def unscaled(problem: Problem) -> Problem:
    """The same problem whose locals are f_i: a client's weight is applied by `combine`, once."""
    if problem.pieces is None:
        return problem
    ones = jax.tree.map(jnp.ones_like, problem.pieces.scale)
    return problem.with_pieces(eqx.tree_at(lambda piece: piece.scale, problem.pieces, ones))


def _watched(problem: Problem):
    """Which clients records measure: a sample where nobody holds the examples of all."""
    if problem.pieces is not None:
        return None
    size = min(problem.n, WATCHED)
    return jnp.asarray(np.sort(np.random.default_rng(0).choice(problem.n, size, replace=False)), jnp.int32)


def wants_constants(algorithm: ServerAlgorithm) -> bool:
    """Whether something was left open that needs L_i and μ_i, or the method does."""
    return bool(algorithm.needs & {"smooth", "strongly_convex"}) or refusals.is_open(algorithm)


def _facts(problem: Problem, algorithm) -> Facts:
    """L_i and μ_i of the f_i, where they are needed."""
    if not wants_constants(algorithm) or refusals.does_without(algorithm, problem, ESTIMATED_VARIABLES):
        return Facts(smoothness=None, strong_convexity=0.0, local_smoothness=None, n=problem.n)
    refusals.check_constants(algorithm, problem, ESTIMATED_VARIABLES)
    scale = np.where(problem.weights > 0, problem.n * problem.weights, np.inf)
    smoothness, strong = problem.smoothness / scale, problem.strong_convexity / scale
    strong = float(strong[problem.weights > 0].min())
    return Facts(float(smoothness.max()), strong, smoothness, problem.n, source=problem.constants.source)


def _evaluation(name: str, metric, examples, problem: Problem) -> Evaluation:
    """A metric with its examples on the device; padded where they lie with the clients."""
    from thalweg.problem.empirical_risk import pad_agents

    dtype = problem.dtype
    place = lambda tree: jax.tree.map(
        lambda a: jnp.asarray(a, dtype if np.issubdtype(np.asarray(a).dtype, np.floating) else None), tree
    )
    if isinstance(examples, list):
        if len(examples) != problem.n:
            raise ValueError(
                f"solve evaluate {name!r}: got examples of {len(examples)} clients, expected {problem.n}; pass one pytree of "
                "arrays to evaluate the shared answer on a pool"
            )
        padded, counts = pad_agents(examples, problem.names)
        return Evaluation(metric, place(padded), jnp.asarray(counts, jnp.int32))
    return Evaluation(metric, place(examples), None)


def _said(evaluation: Evaluation) -> str:
    """What is evaluated, told apart by its examples."""
    where = "examples of each client's own" if evaluation.per_client else "one pool of examples"
    name = getattr(evaluation.metric, "__qualname__", type(evaluation.metric).__qualname__)
    return f"{name} on {where}, {setup.digest_of((evaluation.pieces, evaluation.counts))}"
