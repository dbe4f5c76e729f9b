"""`solve`: one verb for every problem, algorithm, network, pipeline, engine and stop rule."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from thalweg.adversary import Adversary
from thalweg.algorithm.asynchronous.base import AsynchronousAlgorithm
from thalweg.algorithm.base import PeerAlgorithm
from thalweg.algorithm.server.base import ServerAlgorithm
from thalweg.fleet import Fleet
from thalweg.message.aggregate import Aggregator, Mixer
from thalweg.message.payload import HEADER_BYTES, payload_bytes
from thalweg.message.stage import Stage
from thalweg.network import Network
from thalweg.observe import History, Ledger, Result
from thalweg.observe.trackers import Tracker
from thalweg.privacy import Budget
from thalweg.problem import Coupled, Problem

from . import refusals, setup
from .assembly import assemble
from .async_solve import solve_asynchronously
from .debug import Debug
from .describe_network import graph_of
from .driver import Run
from .epoch import bring
from .federate import federate
from .led import Asked
from .loop import Rules
from .moving import goal_of
from .peer_round import message_specs, wire_specs
from .privacy import of_peers, plan
from .refusals_events import check_rounds
from .sharded import Sharded
from .simulated import Simulated
from .stop import Stop
from .tabulate import Messages, Tabulator
from .tracking import checked_trackers
from .trade import trade
from .warm import WarmStart

# Above this many values per record the history keeps no row per agent.
AGENT_ROWS = 2000


def solve(
    problem: Problem | Coupled,
    algorithm: PeerAlgorithm | AsynchronousAlgorithm | ServerAlgorithm,
    network: Network | None = None,
    *,
    rounds: int = 1000,
    stop: Stop | None = None,
    seed: int = 0,
    every: int | None = None,
    link: Stage | None = None,
    uplink: Stage | None = None,
    downlink: Stage | None = None,
    aggregate: Aggregator | Mixer | None = None,
    adversary: Adversary | None = None,
    privacy: Budget | None = None,
    fleet: Fleet | None = None,
    evaluate: dict[str, tuple] | None = None,
    engine: str | Simulated | Sharded | Debug = "simulated",
    deterministic: bool | None = None,
    report: tuple[str, ...] = (),
    reference: Any = None,
    ids: np.ndarray | None = None,
    start: Result | WarmStart | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool | Callable[[int, History], None] | None = None,
    trackers: Sequence[Tracker] = (),
    keep_agents: bool | None = None,
    groups: Sequence[str] | None = None,
) -> Result:
    """Solve a problem whose pieces are scattered over the agents of a network.

    Args:
        problem: what is minimised; agent i alone holds piece i.
        algorithm: how agents coordinate; a step size left None is chosen from theory, and the result says which.
        network: of peers: who talks to whom, when, and what fails. A server's algorithm has none.
        rounds: at most this many rounds; without rounds (`tw.asynchronous`), so many wakes of an agent on average.
        stop: when to stop earlier; None runs all rounds.
        seed: of everything random in the run (schedule, failures, stochastic gradients).
        every: record (and check the stop rule) every so many rounds; None chooses about 200 records.
        link: of peers: what is done to messages on the wire (`tw.message.chain(...)`); None sends them as they are.
        uplink, downlink: of a server: the same, to the server and from it.
        aggregate: what stands in place of the weighted mean of messages (`tw.message.trimmed_mean(…)`, a secure sum, …);
            of peers, in place of the mixing with neighbours.
        adversary: agents that send what they like (`tw.adversary`), to see what a method withstands. What is then reported, and
            x of peers, is of the honest agents; `agents` has the liars' estimates too.
        privacy: what the run may cost its agents (`tw.privacy.Budget(epsilon, delta)`): it ends before that is
            exceeded, and the ledger has ε at every record. What hides them is said by `aggregate`, a pipeline,
            or the local solver.
        fleet: of a server: its clients' devices (`tw.Fleet`), which give the run a simulated clock; None: all answer at once.
        evaluate: of a server: name → (metric, examples): the mean of `metric(x, example)` over one pool `[m, ...]` at the shared
            answer, or, with a list of one entry per client, of every client's own answer on its own examples.
        engine: "simulated", "sharded", "debug" or "event-driven", or an engine object.
        deterministic: the same bits on every engine (float64, CPU); overrides the engine's own setting.
        report: fields of the agents' `Info` to keep in the history, for example ("gradient_norm",).
        reference: a central solution (`tw.reference(problem)`, or x itself) to measure gap and error against. Of a problem that
            drifts: one for every round (`tw.online.references(problem, rounds)`); the history then has the tracking "error", "gap"
            and "regret" of every round, measured before the agents see the data of that round.
        ids: `[n]` the agents' ids: who is who from epoch to epoch, and what random keys derive from; 0 … n−1 when None.
        start: continue from another result of the same algorithm in a new epoch: agents with an id of that run call
            `restart` on their record, new ones begin at x0. Problem, network and step sizes may differ. Of a coupled problem
            under a price-setter also a `tw.WarmStart(price, plans)`.
        checkpoint: a folder that receives the run's state every 10 s and at its end.
        resume: continue the run in `checkpoint`; the result is bitwise that of an uninterrupted run.
        progress: show a progress bar (None: when a person watches), or a function of (round, history).
        trackers: told of the run while it runs, as `tw.trackers.JsonLines(path)`; each record is logged once, also on resume.
        keep_agents: keep loss and disagreement of every agent in the history (None: up to 2,000 agents).
        groups: a label for each agent (a region, a kind of device); the result and its report say how each group fares.

    Returns:
        A `Result`. A run that diverges or produces NaN ends with that outcome and the last good state.

    Raises:
        TypeError, ValueError: an impossible combination, before anything runs.
    """
    trackers = checked_trackers(trackers)
    if isinstance(algorithm, ServerAlgorithm):
        if network is not None or link is not None or report:
            raise TypeError(
                f"solve: {type(algorithm).__name__} has a server, got network=, link= or report=, which peers have; expected "
                "solve(problem, algorithm, uplink=…, downlink=…, fleet=…, evaluate=…)"
            )
        refusals.check_kind(problem, algorithm)
        asked = Asked(
            rounds=rounds, stop=stop, seed=seed, every=every, uplink=uplink, downlink=downlink, aggregate=aggregate,
            adversary=adversary, fleet=fleet, engine=engine, deterministic=deterministic, reference=reference, ids=ids,
            start=start, checkpoint=checkpoint, resume=resume, progress=progress, trackers=trackers, keep_agents=keep_agents,
            groups=setup.checked_groups(groups, problem), privacy=privacy,
        )  # fmt: skip
        if not isinstance(problem, Coupled):
            return federate(problem, algorithm, asked, evaluate)
        if evaluate is not None:
            raise TypeError("solve: got evaluate=, which asks about one answer for all, with a Coupled problem; leave it out")
        return trade(problem, algorithm, asked)
    if uplink is not None or downlink is not None or fleet is not None or evaluate is not None:
        raise TypeError(
            "solve: got uplink=, downlink=, fleet= or evaluate=, which algorithms with a server have; peers have link= and "
            "network.with_failures(…)"
        )
    if isinstance(algorithm, AsynchronousAlgorithm):
        asked = Asked(
            rounds=rounds, stop=stop, seed=seed, every=every, engine=engine, deterministic=deterministic, reference=reference,
            ids=ids, checkpoint=checkpoint, resume=resume, progress=progress, trackers=trackers, keep_agents=keep_agents,
            groups=setup.checked_groups(groups, problem),
        )  # fmt: skip
        return solve_asynchronously(
            problem, algorithm, network, asked,
            link=link, aggregate=aggregate, adversary=adversary, privacy=privacy, start=start, report=report,
        )  # fmt: skip
    refusals.check_arguments(problem, algorithm, network, rounds, every, seed, stop, link, report)
    seed = int(seed)
    refusals.check_steps(algorithm, problem.n, problem.m if isinstance(problem, Coupled) else None)
    engine = setup.chosen_engine(engine, deterministic).open()
    check_rounds(engine, algorithm)
    asked_ids = ids is not None
    ids = setup.checked_ids(ids, problem.n)
    dense = aggregate is None and not engine.deterministic
    assembled = assemble(
        problem, algorithm, network, ids=ids, seed=seed, link=link, mixer=aggregate, adversary=adversary, fast=dense
    )
    experiment, kind, algorithm, facts = assembled.program, assembled.kind, assembled.algorithm, assembled.facts
    said = assembled.said
    kind.check_stop(stop)
    asked, problem = problem, kind.problem
    stop = setup.with_diameter(stop, network, problem)
    keep = problem.n <= AGENT_ROWS if keep_agents is None else keep_agents
    spending = plan(of_peers(algorithm, link, report), privacy, int(rounds), start)
    said += spending.said
    rounds = spending.rounds
    asked_every, goal = every, goal_of(reference, problem, asked, rounds, every)
    rules = Rules(
        stop=setup.traced_stop(stop, problem.dtype),
        every=jnp.asarray(goal.every, jnp.int32),
        reference=goal.row,
        limit=jnp.asarray(jnp.inf, problem.dtype),
        report=tuple(report),
        keep_agents=keep,
        moving=goal.moving,
    )
    fingerprint, labels = asked.fingerprint(), setup.checked_groups(groups, problem)
    identity = setup.identified(
        fingerprint, algorithm, seed, engine, start,
        network=f"{network!r} {setup.digest_of((experiment.world, experiment.setting))}",
        columns=f"reference: {goal.kind}, agents: {keep}, report: {', '.join(report) or 'none'}",
        link=f"{experiment.link!r} {setup.digest_of(experiment.link)}",
        aggregate=f"{aggregate!r} {adversary!r} {setup.digest_of((aggregate, adversary))}",
    )  # fmt: skip
    engine.hosts.check_alike(identity | setup.length(rounds, goal, stop, checkpoint, resume))
    began = time.monotonic()
    local, shared = engine.begin(experiment, rules)
    if start is not None:
        earlier = bring(start, algorithm, local.agents.state, problem.x0, ids, asked=asked_ids)
        local, shared = engine.begin(experiment, rules, earlier)
    compile_seconds = time.monotonic() - began
    rules = dataclasses.replace(rules, limit=setup.size_limit(local.previous))
    specs = message_specs(experiment, local.agents.state)
    wires = wire_specs(experiment, specs)
    message_bytes = sum(map(payload_bytes, wires.values()))
    tabulate = Tabulator(Messages("sent"), kind.columns(message_bytes, goal, reference is not None, keep))
    tabulate.resume(None, local)
    run = Run(engine, experiment, rules, local, shared, History.empty(), compile_seconds=compile_seconds, regrets=goal.moving)
    names = problem.names or tuple(f"agent {i}" for i in range(problem.n))
    config = (
        _config(asked, fingerprint, algorithm, network, engine, seed, stop, spending.asked, facts) | labels | spending.config
    )
    config |= setup.protection(aggregate, adversary, problem.n)
    outcome, reason, tracking = setup.execute(
        run, rounds, every=asked_every, checkpoint=checkpoint, resume=resume, identity=identity, tabulate=tabulate, said=said,
        names=names, config=config, stop=stop, progress=progress, trackers=trackers,
    )  # fmt: skip
    result = Result(
        **spending.ended(outcome, reason, run.round) | kind.answer(run, algorithm, outcome),
        rounds=run.round,
        history=run.history,
        ledger=Ledger(
            messages=tabulate.messages["sent"],
            message_bytes=message_bytes,
            header_bytes=HEADER_BYTES * len(wires),
            report_bytes=_report_bytes(run.history, report),
            seconds=run.seconds,
            compile_seconds=run.compile_seconds,
            **spending.ledger(run.history["round"]),
        ),
        algorithm=algorithm,
        names=tuple(names),
        graph=graph_of(network),
        config=config,
        reference=reference,
        warnings=tuple(said),
        records=run.local.agents,
        ids=ids,
    )
    tracking.finish(result)
    return result


def _report_bytes(history: History, report: tuple[str, ...]) -> int:
    return sum(history.agents[name].nbytes for name in report if name in history.agents)


def _config(problem, fingerprint, algorithm, network, engine, seed, stop, rounds, facts) -> dict[str, Any]:
    return setup.stated(problem, fingerprint, "agents", algorithm, stop, rounds, seed) | {
        "network": repr(network),
        "engine": f"{engine.name}{', deterministic' if engine.deterministic else ''}",
        "constants": setup.constants(facts),
        **setup.surroundings(),
    }
