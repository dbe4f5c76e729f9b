"""What runs with somebody at their head have in common, be it a server (`federate`) or a price-setter (`trade`)."""

import dataclasses
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.adversary import Adversary
from thalweg.algorithm.server.base import ServerAlgorithm
from thalweg.algorithm.server.base import Shared as PublicPart
from thalweg.algorithm.step import traced
from thalweg.cohort import Cohort, Everyone, Registry, Uniform
from thalweg.fleet import Fleet
from thalweg.message.aggregate import Aggregator
from thalweg.message.payload import HEADER_BYTES
from thalweg.message.stage import Identity, Stage
from thalweg.observe import History, Ledger, Outcome, Result, describe
from thalweg.problem.scattered import Scattered

from . import refusals_server as refusals
from . import setup
from .driver import Run
from .loop import Rules
from .moving import Goal, goal_of
from .pace import expected_seconds
from .plans import planned
from .privacy import Spending
from .refusals_message import settled_aggregator
from .server import Server, ServerProgram
from .server_metrics import Gauge
from .simulated import EventDriven
from .stop import Stop
from .tabulate import Messages, Tabulator
from .tracking import Tracking

# Above this many clients the history keeps no row per client, and records measure no gradients.
CLIENT_ROWS = 2000


@dataclasses.dataclass(frozen=True)
class Asked:
    """What `solve` was asked for beside the problem and the algorithm; fields as its arguments."""

    rounds: Any
    seed: Any
    stop: Stop | None = None
    every: Any = None
    uplink: Stage | None = None
    downlink: Stage | None = None
    aggregate: Aggregator | None = None
    adversary: Adversary | None = None
    fleet: Fleet | None = None
    engine: Any = "simulated"
    deterministic: bool | None = None
    reference: Any = None
    ids: Any = None
    start: Any = None
    checkpoint: str | Path | None = None
    resume: bool = False
    progress: Any = None
    trackers: Sequence[Any] = ()
    keep_agents: bool | None = None
    groups: dict[str, Any] = dataclasses.field(default_factory=dict)
    privacy: Any = None

    def keeps(self, n: int) -> bool:
        """Whether the history has a row for each of `n` clients."""
        return n <= CLIENT_ROWS if self.keep_agents is None else self.keep_agents


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What is settled before a program is made.

    Attributes:
        problem: with what the algorithm folds into it; clients: as the clients see it.
        algorithm: resolved; cohort: its rule; public: what the server knows of the problem.
        aggregate: what stands in place of means.
        said: warnings.
    """

    problem: Scattered
    clients: Scattered
    algorithm: ServerAlgorithm
    cohort: Cohort
    public: PublicPart
    aggregate: Aggregator | None
    said: list[str]


@dataclasses.dataclass(frozen=True)
class Led:
    """A program that is ready to run, on `engine` by `plan`; `said` are warnings, `ids` the clients'."""

    program: ServerProgram
    engine: Any
    plan: str
    cohort: Cohort
    ids: np.ndarray
    said: list[str]


@dataclasses.dataclass(frozen=True)
class Ended:
    """A run that is over: `result(**answer)` is what comes of it."""

    run: Run
    outcome: Outcome
    reason: str
    tracking: Tracking
    common: dict[str, Any]

    def result(self, **answer: Any) -> Result:
        """The result with this answer: x, agents, and what else belongs to it."""
        result = Result(**{"outcome": self.outcome, "reason": self.reason} | self.common | answer)
        self.tracking.finish(result)
        return result


def lead(asked: Asked, prepared: Prepared, gauge: Gauge, watched: Any = None) -> Led:
    """The program for what was prepared; weights are those of the public part."""
    problem, algorithm, cohort, public = prepared.clients, prepared.algorithm, prepared.cohort, prepared.public
    n, ids = problem.n, setup.checked_ids(asked.ids, problem.n)
    engine = setup.chosen_engine(asked.engine, asked.deterministic)
    aggregate = settled_aggregator(prepared.aggregate, cohort, asked.fleet, n, getattr(engine, "buffer", None))
    program = Server(
        problem=problem,
        algorithm=traced(algorithm, problem.dtype),
        cohort=cohort,
        registry=Registry(public.weights, jnp.ones_like(public.weights)),
        public=public,
        uplink=Identity() if asked.uplink is None else asked.uplink,
        downlink=Identity() if asked.downlink is None else asked.downlink,
        aggregate=None if aggregate is None else traced(aggregate, problem.dtype),
        adversary=None if asked.adversary is None else traced(asked.adversary, problem.dtype),
        fleet=asked.fleet,
        ids=jnp.asarray(ids, jnp.int32),
        order=jnp.asarray(np.argsort(ids), jnp.int32),
        ranks=jnp.asarray(np.argsort(np.argsort(ids)), jnp.int32),
        key=jax.random.key_data(jax.random.key(asked.seed)),
        slots=cohort.slots(n),
        watched=watched,
        gauge=gauge,
        in_order=bool(np.all(np.diff(ids) > 0)) and problem.pieces is not None,
    )
    if isinstance(engine, EventDriven):
        refusals.check_asynchronous(engine, algorithm, cohort, asked.fleet, n)
    engine, program, plan = planned(engine, program, None if asked.checkpoint is None else Path(asked.checkpoint) / "records")
    return Led(program, engine, plan, cohort, ids, prepared.said)


def conduct(
    asked: Asked,
    led: Led,
    problem: Scattered,
    algorithm: ServerAlgorithm,
    *,
    stated: Scattered,
    member: str,
    head: str,
    begin: Callable[[Any, Any], tuple[Any, Any]],
    columns: Callable[[dict[str, int], Goal, bool], Callable],
    counts: Any = None,
    extra: str = "",
    config: dict[str, Any] | None = None,
    spending: Spending,
) -> Ended:
    """Run it to its end.

    Args:
        stated: the problem as the user stated it.
        member, head: what a client and who leads them are called ("client", "one server").
        begin: (local, shared) with what `start` brings.
        columns: of the history, from the sizes of messages, the goal, and whether clients have rows.
        counts: examples of each client, on which the time of its work depends.
        spending: what privacy the rounds may cost.
        extra: what else the history's columns depend on; config: what else is said of the run.
    """
    program, engine, n = led.program, led.engine, problem.n
    rounds, seed, keep = spending.rounds, int(asked.seed), asked.keeps(n)
    goal = goal_of(asked.reference, problem, stated, rounds, asked.every)
    rules = Rules(
        stop=setup.traced_stop(asked.stop, problem.dtype),
        every=jnp.asarray(goal.every, jnp.int32),
        reference=goal.row,
        limit=jnp.asarray(jnp.inf, problem.dtype),
        keep_agents=keep,
        moving=goal.moving,
    )
    fleet = "none" if asked.fleet is None else setup.digest_of(asked.fleet)
    fingerprint = stated.fingerprint()
    identity = setup.identified(
        fingerprint, algorithm, seed, engine, asked.start,
        cohort=repr(led.cohort),
        fleet=fleet,
        ids=setup.digest_of(led.ids),
        columns=f"reference: {goal.kind}, agents: {keep}{extra}",
        link=f"{program.uplink!r} {program.downlink!r} {setup.digest_of((program.uplink, program.downlink))}",
        aggregate=f"{asked.aggregate!r} {asked.adversary!r} {setup.digest_of((asked.aggregate, asked.adversary))}",
    )  # fmt: skip
    engine.hosts.check_alike(identity | setup.length(rounds, goal, asked.stop, asked.checkpoint, asked.resume))
    began = time.monotonic()
    local, shared = engine.begin(program, rules)
    if asked.start is not None:
        local, shared = begin(local, shared)
    compile_seconds = time.monotonic() - began
    rules = dataclasses.replace(rules, limit=setup.size_limit(np.asarray(shared.previous)[None]))
    sizes = engine.bytes(program, local, shared)
    if asked.fleet is not None:
        seconds = expected_seconds(asked.fleet, getattr(algorithm, "solver", None), counts, sizes)
        registry = Registry(program.registry.weights, jnp.asarray(seconds, problem.dtype))
        program = dataclasses.replace(program, registry=registry)
    messages = Messages("sent", "received", keep_agents=keep)
    tabulate = Tabulator(messages, columns(sizes, goal, keep))
    tabulate.resume(None, local)
    run = Run(engine, program, rules, local, shared, History.empty(), compile_seconds=compile_seconds, regrets=goal.moving)
    names = problem.names or (tuple(f"{member} {i}" for i in range(n)) if keep else ("all clients",))
    said_of = setup.stated(stated, fingerprint, f"{member}s", algorithm, asked.stop, spending.asked, seed) | {
        "network": f"{head}, {_in_words(led.cohort, n)} in each round",
        **setup.protection(asked.aggregate, asked.adversary, n),
        "fleet": "none" if asked.fleet is None else repr(asked.fleet),
        "engine": f"{engine.name}, {led.plan}{', deterministic' if engine.deterministic else ''}",
        **(config or {}),
        **spending.config,
        **asked.groups,
        **setup.surroundings(),
    }
    outcome, reason, tracking = setup.execute(
        run, rounds, every=asked.every, checkpoint=asked.checkpoint, resume=asked.resume, identity=identity, tabulate=tabulate,
        said=led.said, names=names, config=said_of, stop=asked.stop, progress=asked.progress, trackers=asked.trackers, depth=5,
    )  # fmt: skip
    heard = algorithm.remarks(run.shared.central.state, names)
    for text in heard:
        warnings.warn(text, RuntimeWarning, stacklevel=4)
    common = {
        "rounds": run.round,
        "history": run.history,
        "ledger": Ledger(
            messages=messages["sent"],
            message_bytes=sizes["up"],
            header_bytes=HEADER_BYTES * len(algorithm.phases),
            report_bytes=0,
            seconds=run.seconds,
            compile_seconds=run.compile_seconds,
            received=messages["received"],
            received_bytes=sizes["down"],
            **spending.ledger(run.history["round"]),
        ),
        "algorithm": algorithm,
        "names": tuple(names),
        "graph": {"edges": np.zeros((0, 2), int), "positions": None, "directed": False, "facts": {}},
        "config": said_of,
        "reference": asked.reference,
        "warnings": (*led.said, *heard),
        "records": (run.local.records, run.shared.central),
        "ids": led.ids,
    }
    return Ended(run, **spending.ended(outcome, reason, run.round), tracking=tracking, common=common)


def carried(start: Any, local, shared, row):
    """(local, shared) with the records of an earlier run of the same algorithm and clients; `row()` was its shared answer."""
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
    return eqx.tree_at(lambda c: c.records, local, records), eqx.tree_at(pick, shared, (central, row()))


def _in_words(cohort: Cohort, n: int) -> str:
    """Who takes part in a round."""
    return {Everyone: "everybody", Uniform: f"{cohort.slots(n)} drawn uniformly"}.get(type(cohort), describe(cohort))
