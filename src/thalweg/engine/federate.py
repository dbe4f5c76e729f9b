"""Setting up a run under a server, and what comes of it."""

import dataclasses
import time
import warnings
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np

from thalweg.algorithm.base import Facts
from thalweg.algorithm.server.base import Shared as PublicPart
from thalweg.algorithm.step import traced
from thalweg.cohort import Cohort, Everyone, Registry, Uniform
from thalweg.message.payload import HEADER_BYTES
from thalweg.message.stage import Identity
from thalweg.observe import History, Ledger, Result, describe
from thalweg.problem import Problem
from thalweg.problem.regularizer import Zero

from . import refusals_server as refusals
from . import setup
from .driver import Run
from .loop import Rules
from .moving import aim
from .pace import expected_seconds
from .plans import planned
from .server import Server
from .server_metrics import Evaluation, LearningGauge
from .server_tabulate import ServerTabulator
from .simulated import EventDriven

# Above this many clients the history keeps no row per client, and records measure no gradients.
CLIENT_ROWS = 2000
# As many clients of a streamed problem are measured.
WATCHED = 500
# Constants of a larger model are not estimated behind the user's back.
ESTIMATED_VARIABLES = 20_000


def federate(
    problem, algorithm, *, rounds, stop, seed, every, uplink, downlink, fleet, evaluate, engine, deterministic, reference, ids,
    start, checkpoint, resume, progress, trackers, keep_agents,
) -> Result:  # fmt: skip
    """`solve` with a server; arguments as there."""
    refusals.check_arguments(problem, algorithm, rounds, every, seed, stop, uplink, downlink, fleet, evaluate)
    asked, problem = problem, refusals.check_problem(algorithm, problem)
    cohort = refusals.cohort_of(algorithm, problem.n)
    algorithm = algorithm.resolve(_facts(problem, algorithm))
    ids = setup.checked_ids(ids, problem.n)
    clients = unscaled(problem)
    evaluations = {name: _evaluation(name, *pair, problem) for name, pair in (evaluate or {}).items()}
    keep = problem.n <= CLIENT_ROWS if keep_agents is None else keep_agents
    weights = jnp.asarray(problem.weights, problem.dtype)
    engine = setup.chosen_engine(engine, deterministic)
    gradients = problem.n <= CLIENT_ROWS and problem.size <= ESTIMATED_VARIABLES and clients.pieces is not None
    program = Server(
        problem=clients,
        algorithm=traced(algorithm, problem.dtype),
        cohort=cohort,
        registry=Registry(weights, jnp.ones_like(weights)),
        public=PublicPart(problem.regularizer or Zero(), problem.n, weights),
        uplink=Identity() if uplink is None else uplink,
        downlink=Identity() if downlink is None else downlink,
        fleet=fleet,
        ids=jnp.asarray(ids, jnp.int32),
        order=jnp.asarray(np.argsort(ids), jnp.int32),
        ranks=jnp.asarray(np.argsort(np.argsort(ids)), jnp.int32),
        key=jax.random.key_data(jax.random.key(seed)),
        slots=cohort.slots(problem.n),
        watched=_watched(clients),
        gauge=LearningGauge(evaluations, gradients),
    )
    if isinstance(engine, EventDriven):
        refusals.check_asynchronous(engine, algorithm, cohort, fleet, problem.n)
    engine, program, plan = planned(engine, program, None if checkpoint is None else Path(checkpoint) / "records")
    said = refusals.server_warnings(algorithm, cohort, fleet)
    rounds, seed = int(rounds), int(seed)
    asked_every, goal = every, aim(reference, problem, asked, rounds, every)
    rules = Rules(
        stop=setup.traced_stop(stop, problem.dtype),
        every=jnp.asarray(goal.every, jnp.int32),
        reference=goal.row,
        limit=jnp.asarray(jnp.inf, problem.dtype),
        keep_agents=keep,
        moving=goal.moving,
    )
    identity = setup.identified(
        problem, algorithm, seed, engine, start,
        cohort=repr(cohort),
        fleet=f"{'none' if fleet is None else setup.digest_of(fleet)}",
        ids=setup.digest_of(ids),
        columns=f"reference: {goal.kind}, agents: {keep}, evaluate: {', '.join(evaluations) or 'none'}",
        link=f"{program.uplink!r} {program.downlink!r} {setup.digest_of((program.uplink, program.downlink))}",
    )  # fmt: skip
    began = time.monotonic()
    local, shared = engine.begin(program, rules)
    if start is not None:
        local, shared = carried(start, local, shared, setup.target_row(start, problem) if isinstance(start, Result) else None)
    compile_seconds = time.monotonic() - began
    rules = dataclasses.replace(rules, limit=setup.size_limit(np.asarray(shared.previous)[None]))
    sizes = engine.bytes(program, local, shared)
    if fleet is not None:
        counts = getattr(problem, "counts", None) if asked.pieces is not None else problem.source.counts
        seconds = expected_seconds(fleet, getattr(algorithm, "solver", None), counts, sizes)
        program = dataclasses.replace(program, registry=Registry(weights, jnp.asarray(seconds, weights.dtype)))
    tabulate = ServerTabulator(sizes, problem.weights, goal.optimum, reference is not None, keep)
    tabulate.resume(None, local)
    run = Run(engine, program, rules, local, shared, History.empty(), compile_seconds=compile_seconds, regrets=goal.moving)
    names = problem.names or (tuple(f"client {i}" for i in range(problem.n)) if keep else ("all clients",))
    config = _config(asked, algorithm, cohort, fleet, engine, plan, seed, stop, rounds, evaluations)
    outcome, reason, tracking = setup.execute(
        run, rounds, every=asked_every, checkpoint=checkpoint, resume=resume, identity=identity, tabulate=tabulate, said=said,
        names=names, config=config, stop=stop, progress=progress, trackers=trackers, depth=4,
    )  # fmt: skip
    heard = algorithm.remarks(run.shared.central.state, names)
    for text in heard:
        warnings.warn(text, RuntimeWarning, stacklevel=3)
    unravel = setup.unraveller(problem)
    own = None
    if "personal" in algorithm.handles:
        own = jax.vmap(unravel)(run.engine.estimates(program, run.local, run.shared))
    sent, received = tabulate.traffic
    result = Result(
        x=unravel(_answer(run)),
        agents=own,
        outcome=outcome,
        reason=reason,
        rounds=run.round,
        history=run.history,
        ledger=Ledger(
            messages=sent,
            message_bytes=sizes["up"],
            header_bytes=HEADER_BYTES * len(algorithm.phases),
            report_bytes=0,
            seconds=run.seconds,
            compile_seconds=run.compile_seconds,
            received=received,
            received_bytes=sizes["down"],
        ),
        algorithm=algorithm,
        names=tuple(names),
        graph={"edges": np.zeros((0, 2), int), "positions": None, "directed": False, "facts": {}},
        config=config,
        reference=reference,
        warnings=(*said, *heard),
        records=(run.local.records, run.shared.central),
        ids=ids,
    )
    tracking.finish(result)
    return result


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


def _facts(problem: Problem, algorithm) -> Facts:
    """L_i and μ_i of the f_i, where something was left open that needs them."""
    needed = algorithm.needs & {"smooth", "strongly_convex"} or refusals.is_open(algorithm)
    if not needed or refusals.does_without(algorithm, problem, ESTIMATED_VARIABLES):
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


def _answer(run: Run):
    """The shared answer, as a row."""
    return run.engine.shared_answer(run.experiment, run.shared)


def carried(start: Result, local, shared, row):
    """(local, shared) with the records of an earlier run of the same algorithm and clients; `row` was its shared answer."""
    if not isinstance(start, Result):
        raise TypeError(f"solve: got {type(start).__name__} as start, expected a Result")
    like = (local.records, shared.central)
    same = jax.tree.structure(start.records) == jax.tree.structure(like) and all(
        np.shape(a) == np.shape(b) for a, b in zip(jax.tree.leaves(start.records), jax.tree.leaves(like), strict=True)
    )
    if not same:
        raise ValueError("solve(start=…): the earlier run had another algorithm, number of clients or shape of x")
    records, central = start.records
    pick = lambda s: (s.central, s.previous)
    return eqx.tree_at(lambda c: c.records, local, records), eqx.tree_at(pick, shared, (central, row))


def _config(problem, algorithm, cohort: Cohort, fleet, engine, plan, seed, stop, rounds, evaluations) -> dict[str, Any]:
    return setup.stated(problem, "clients", algorithm, stop, rounds, seed) | {
        "network": f"one server, {problem.n} clients, {in_words(cohort, problem.n)} in each round",
        "fleet": "none" if fleet is None else repr(fleet),
        "engine": f"{engine.name}, {plan}{', deterministic' if engine.deterministic else ''}",
        "evaluate": {name: _said(evaluation) for name, evaluation in evaluations.items()},
        **setup.surroundings(),
    }


def in_words(cohort: Cohort, n: int) -> str:
    """Who takes part in a round."""
    return {Everyone: "everybody", Uniform: f"{cohort.slots(n)} drawn uniformly"}.get(type(cohort), describe(cohort))


def _said(evaluation: Evaluation) -> str:
    """What is evaluated, told apart by its examples."""
    where = "examples of each client's own" if evaluation.per_client else "one pool of examples"
    name = getattr(evaluation.metric, "__qualname__", type(evaluation.metric).__qualname__)
    return f"{name} on {where}, {setup.digest_of((evaluation.pieces, evaluation.counts))}"
