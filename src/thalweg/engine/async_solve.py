"""`solve` without rounds: an order of events first, then one compiled loop over it."""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thalweg.algorithm.asynchronous.base import AsynchronousAlgorithm
from thalweg.fleet import Clocks
from thalweg.message.payload import HEADER_BYTES, payload_bytes
from thalweg.network import Network
from thalweg.observe import History, Ledger, Result

from . import refusals, refusals_events, setup
from .async_assembly import assemble_asynchronous
from .async_peers import entries
from .describe_network import graph_of
from .draw_events import draw_events
from .driver import Run
from .event_plan import Plan, plan_of
from .led import Asked
from .loop import Rules
from .moving import goal_of
from .sequenced import Sequenced
from .simulated import EventDriven
from .tabulate import Columns, Messages, PeerColumns, Tabulator


def solve_asynchronously(problem: Any, algorithm: AsynchronousAlgorithm, network: Any, asked: Asked, **others: Any) -> Result:
    """`thalweg.solve` for algorithms without rounds; `others` are arguments that only rounds have.

    Raises:
        TypeError, ValueError: as `solve`.
    """
    engine = setup.chosen_engine(asked.engine, asked.deterministic)
    rounds, seed = asked.rounds, asked.seed
    refusals_events.check_asked(problem, algorithm, network, engine, rounds, asked.every, seed, asked.stop, **others)
    refusals.check_steps(algorithm, problem.n)
    keep_agents = asked.keeps(problem.n)
    ids, seed = setup.checked_ids(asked.ids, problem.n), int(seed)
    plan = _plan(engine, network, ids, seed, rounds := int(rounds))
    rounds = min(rounds, plan.rounds)
    found = assemble_asynchronous(problem, algorithm, network, ids=ids, seed=seed, places=plan.places)
    program, kind, algorithm = found.program, found.kind, found.algorithm
    said = refusals_events.warnings_of(algorithm, found.facts, network, engine)
    stop = setup.with_diameter(asked.stop, network, kind.problem)
    goal = goal_of(asked.reference, kind.problem, problem, rounds, asked.every)
    rules = Rules(
        stop=setup.traced_stop(stop, problem.dtype),
        every=jnp.asarray(goal.every, jnp.int32),
        reference=goal.row,
        limit=jnp.asarray(jnp.inf, problem.dtype),
        keep_agents=keep_agents,
    )
    fingerprint = problem.fingerprint()
    identity = setup.identified(
        fingerprint, algorithm, seed, engine, None,
        network=f"{network!r} {setup.digest_of((program.world, program.setting))}",
        columns=f"reference: {goal.kind}, agents: {keep_agents}",
        events=setup.digest_of([network.failures.loss, *_told(engine)]),
    )  # fmt: skip
    session = Sequenced(deterministic=engine.deterministic, order=plan)
    began = time.monotonic()
    local, shared = session.begin(program, rules)
    compile_seconds = time.monotonic() - began
    rules = dataclasses.replace(rules, limit=setup.size_limit(local.previous))
    message = jax.eval_shape(lambda flight: entries(algorithm, jax.tree.map(lambda leaf: leaf[:1], flight), 0), shared.flight)
    message_bytes = payload_bytes(message)
    columns = kind.columns(message_bytes, goal, asked.reference is not None, keep_agents)
    tabulate = Tabulator(Messages("sent"), EventColumns(columns, plan))
    tabulate.resume(None, local)
    run = Run(session, program, rules, local, shared, History.empty(), compile_seconds=compile_seconds)
    names = problem.names or tuple(f"agent {i}" for i in range(problem.n))
    config = setup.stated(problem, fingerprint, "agents", algorithm, stop, rounds, seed) | {
        "network": repr(network),
        "engine": f"event-driven, {_in_words(engine)}{', deterministic' if engine.deterministic else ''}",
        "constants": setup.constants(found.facts),
        **setup.surroundings(),
        **asked.groups,
    }
    outcome, reason, tracking = setup.execute(
        run, rounds, every=asked.every, checkpoint=asked.checkpoint, resume=asked.resume, identity=identity, tabulate=tabulate,
        said=said, names=names, config=config, stop=stop, progress=asked.progress, trackers=asked.trackers, depth=4,
    )  # fmt: skip
    result = Result(
        outcome=outcome,
        reason=reason,
        **kind.answer(run, algorithm, outcome),
        rounds=run.round,
        history=run.history,
        ledger=Ledger(
            messages=tabulate.messages["sent"],
            message_bytes=message_bytes,
            header_bytes=HEADER_BYTES,
            report_bytes=0,
            seconds=run.seconds,
            compile_seconds=run.compile_seconds,
        ),
        algorithm=algorithm,
        names=tuple(names),
        graph=graph_of(network),
        config=config,
        reference=asked.reference,
        warnings=tuple(said),
        records=run.local.agents,
        ids=ids,
    )
    tracking.finish(result)
    return result


@dataclasses.dataclass(frozen=True)
class EventColumns:
    """The columns of peers, and "events", how many there were so far, and "clock", the virtual time where it is known."""

    columns: PeerColumns
    plan: Plan

    def __call__(self, rows: Any, messages: dict[str, np.ndarray]) -> tuple[Columns, Columns]:
        """See `Tabulator`."""
        scalars, agents = self.columns(rows, messages)
        k = scalars["round"]
        clock = {} if self.plan.clock is None else {"clock": self.plan.clock[k]}
        return scalars | clock | {"events": self.plan.starts[k]}, agents


def _plan(engine: EventDriven, network: Network, ids: np.ndarray, seed: int, rounds: int) -> Plan:
    if engine.events is not None:
        return plan_of(engine.events, network, None, None)
    clocks = engine.clocks or Clocks()
    clocks.check(network.n)
    events, over = draw_events(clocks, network, ids, seed, rounds)
    return plan_of(events, network, over, clocks)


def _told(engine: EventDriven) -> list[Any]:
    """Every number that the order of events depends on, beside network, ids and seed."""
    told = engine.clocks or Clocks() if engine.events is None else engine.events
    fields = {field.name: getattr(told, field.name) for field in dataclasses.fields(told)}
    return [type(told).__name__, *(value for value in fields.values() if value is not None)]


def _in_words(engine: EventDriven) -> str:
    return repr(engine.clocks or Clocks()) if engine.events is None else f"{len(engine.events):,} given events"
