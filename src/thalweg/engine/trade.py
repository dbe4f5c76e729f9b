"""Setting up a run of a coupled problem with a price-setter, and what comes of it."""

import dataclasses
import time
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thalweg.algorithm.base import Facts
from thalweg.algorithm.server.base import ServerAlgorithm
from thalweg.algorithm.server.base import Shared as PublicPart
from thalweg.algorithm.step import traced
from thalweg.cohort import Registry
from thalweg.message.payload import HEADER_BYTES
from thalweg.message.stage import Identity
from thalweg.observe import History, Ledger, Outcome, Result
from thalweg.problem.certificate import certify, infeasible
from thalweg.problem.coupled import Coupled
from thalweg.problem.regularizer import Zero

from . import refusals_server as refusals
from . import setup
from .driver import Run
from .federate import CLIENT_ROWS, carried, in_words
from .loop import Rules
from .market import MarketGauge
from .market_tabulate import MarketTabulator
from .moving import aim
from .plans import planned
from .server import Server
from .simulated import EventDriven
from .warm import WarmStart, warmed


def trade(
    problem: Coupled, algorithm: ServerAlgorithm, *, rounds, stop, seed, every, uplink, downlink, fleet, engine, deterministic,
    reference, ids, start, checkpoint, resume, progress, trackers, keep_agents,
) -> Result:  # fmt: skip
    """`solve` with a price-setter; arguments as there."""
    refusals.check_arguments(problem, algorithm, rounds, every, seed, stop, uplink, downlink, fleet, None)
    check_market(problem, algorithm)
    cohort = refusals.cohort_of(algorithm, problem.n)
    engine = setup.chosen_engine(engine, deterministic)
    part = participation(cohort, fleet, engine, problem.n)
    algorithm = algorithm.resolve(dataclasses.replace(facts_of(problem), participation=part))
    said = [*refusals.server_warnings(algorithm, cohort, fleet), *lost_warning(algorithm, fleet, engine, problem.n)]
    said += step_warning(problem, algorithm)
    ids = setup.checked_ids(ids, problem.n)
    keep = problem.n <= CLIENT_ROWS if keep_agents is None else keep_agents
    weights = jnp.ones(problem.n, problem.dtype)
    program = Server(
        problem=problem,
        algorithm=traced(algorithm, problem.dtype),
        cohort=cohort,
        registry=Registry(weights, jnp.ones_like(weights)),
        public=PublicPart(Zero(), problem.n, weights, problem.coupling),
        uplink=Identity() if uplink is None else uplink,
        downlink=Identity() if downlink is None else downlink,
        fleet=fleet,
        ids=jnp.asarray(ids, jnp.int32),
        order=jnp.asarray(np.argsort(ids), jnp.int32),
        ranks=jnp.asarray(np.argsort(np.argsort(ids)), jnp.int32),
        key=jax.random.key_data(jax.random.key(seed)),
        slots=cohort.slots(problem.n),
        watched=None,
        gauge=MarketGauge(),
    )
    if isinstance(engine, EventDriven):
        refusals.check_asynchronous(engine, algorithm, cohort, fleet, problem.n)
    engine, program, plan = planned(engine, program)
    rounds, seed = int(rounds), int(seed)
    asked_every, goal = every, aim(reference, problem, problem, rounds, every)
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
        fleet="none" if fleet is None else setup.digest_of(fleet),
        ids=setup.digest_of(ids),
        columns=f"reference: {goal.kind}, agents: {keep}",
        link=f"{program.uplink!r} {program.downlink!r} {setup.digest_of((program.uplink, program.downlink))}",
    )  # fmt: skip
    began = time.monotonic()
    local, shared = engine.begin(program, rules)
    if isinstance(start, WarmStart):
        local, shared = warmed(program, local, shared, start)
    elif start is not None:
        price = jnp.asarray(start.price, problem.dtype) if isinstance(start, Result) and start.price is not None else None
        local, shared = carried(start, local, shared, price)
    compile_seconds = time.monotonic() - began
    rules = dataclasses.replace(rules, limit=setup.size_limit(np.asarray(shared.previous)[None]))
    sizes = engine.bytes(program, local, shared)
    tabulate = MarketTabulator(sizes, problem.row_names, goal.optimum, reference is not None, keep, goal.price)
    tabulate.resume(None, local)
    run = Run(engine, program, rules, local, shared, History.empty(), compile_seconds=compile_seconds, regrets=goal.moving)
    names = problem.names or (tuple(f"agent {i}" for i in range(problem.n)) if keep else ("all clients",))
    config = setup.stated(problem, "agents", algorithm, stop, rounds, seed) | {
        "network": f"one price-setter, {problem.n} agents, {problem.m} rows, {in_words(cohort, problem.n)} in each round",
        "fleet": "none" if fleet is None else repr(fleet),
        "engine": f"{engine.name}, {plan}{', deterministic' if engine.deterministic else ''}",
        **setup.surroundings(),
    }
    outcome, reason, tracking = setup.execute(
        run, rounds, every=asked_every, checkpoint=checkpoint, resume=resume, identity=identity, tabulate=tabulate, said=said,
        names=names, config=config, stop=stop, progress=progress, trackers=trackers, depth=4,
    )  # fmt: skip
    heard = algorithm.remarks(run.shared.central.state, names)
    for text in heard:
        warnings.warn(text, RuntimeWarning, stacklevel=3)
    unravel = setup.unraveller(problem)
    plans = jax.vmap(unravel)(run.engine.estimates(program, run.local, run.shared))
    price = problem.coupling.project(run.engine.shared_answer(program, run.shared))
    certificate = certify(problem.at(run.round), price, plans)
    if outcome in (Outcome.ROUND_LIMIT, Outcome.DIVERGED) and (proof := infeasible(problem.at(run.round), price)) is not None:
        outcome, reason = Outcome.INFEASIBLE, proof
    sent, received = tabulate.traffic
    result = Result(
        x=plans,
        agents=plans,
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
        price=np.asarray(price),
        certificate=certificate,
    )
    tracking.finish(result)
    return result


def facts_of(problem: Coupled) -> Facts:
    """What an algorithm may know of the problem."""
    found = problem.pricing
    return Facts(
        smoothness=float(found.smoothness.max()),
        strong_convexity=float(found.strong_convexity.min()),
        local_smoothness=found.smoothness,
        n=problem.n,
        source=found.source,
        pricing=found,
    )


def participation(cohort: Any, fleet: Any, engine: Any, n: int) -> float:
    """The part of the agents whose answers arrive in a round, as `Facts` has it.

    Without rounds answers are late besides, by about as many updates as it takes to hear everybody: half of the part.
    """
    answered = 1.0 if fleet is None else 1 - float(np.max(fleet.dropout))
    if isinstance(engine, EventDriven) and engine.buffer < n:
        return answered * engine.buffer / (2 * n)
    return answered * min(1.0, cohort.slots(n) / n)


def check_market(problem: Coupled, algorithm: Any) -> None:
    """Prices find nothing but convex optima, and only where there is a feasible plan."""
    found, name = problem.pricing, type(algorithm).__name__
    if not found.convex:
        i = int(np.argmin(found.lowest))
        who = problem.names[i] if problem.names else f"agent {i}"
        raise ValueError(
            f"{name} needs convex costs, got one with negative curvature {found.lowest[i]:.4g} ({who}); a price cannot hold a "
            "plan inside a non-convex cost: convexify it"
        )
    rows, b = problem.coupling, np.asarray(problem.coupling.total, float)
    up, down = np.asarray(rows.high) > 0, np.asarray(rows.low) < 0
    if not found.affine and (up & down).any():
        raise ValueError(
            f"coupling(x, data_i) is not affine, and row {problem.row_names[int(np.argmax(up & down))]!r} is an equality, which "
            'makes no convex problem; use sense="<=" where Σ g_i ≤ b is what is meant'
        )
    if not found.bulging:
        raise ValueError(
            'coupling(x, data_i) curves the wrong way: expected one that is convex where sense="<=", concave where sense=">="; a '
            "price finds nothing else"
        )
    if problem.drifts:
        return
    slack = 1e-9 * (1 + np.abs(b))
    for j in np.flatnonzero((up & (found.least > b + slack)) | (down & (found.most < b - slack))):
        raise ValueError(
            f"total of {problem.row_names[j]!r}: got {b[j]:.6g}, and the agents together can only reach {found.least[j]:.6g} … "
            f"{found.most[j]:.6g}: no plan is feasible; change the total, or the agents' bounds"
        )


def lost_warning(algorithm: Any, fleet: Any, engine: Any, n: int) -> list[str]:
    """Answers that do not arrive, or arrive late, and a method that needs them."""
    if isinstance(engine, EventDriven) and engine.buffer < n and "partial" not in algorithm.exact_under:
        return [
            f"EventDriven(buffer={engine.buffer}): {type(algorithm).__name__} diverges where many answers are late; use "
            f"tw.DualAscent(), or a buffer nearer to {n}"
        ]
    lossy = fleet is not None and (float(np.max(fleet.dropout)) > 0 or fleet.selective)
    if not lossy or "dropout" in algorithm.exact_under:
        return []
    return [
        f"{type(algorithm).__name__} is exact when everybody answers in every round, and here answers are lost: its limit may be "
        "wrong; look at the certificate, or use tw.DualAscent() or tw.ExchangeADMM()"
    ]


def step_warning(problem: Coupled, algorithm: Any) -> list[str]:
    """A step beyond the provable bound."""
    step, bound = getattr(algorithm, "step_size", None), getattr(algorithm, "step_bound", None)
    if "strongly_convex" in algorithm.needs and not np.isfinite(problem.pricing.largest):
        return [
            f"{type(algorithm).__name__}: costs are not strongly convex, so best responses jump, and no price alone clears the "
            "market; use tw.ExchangeADMM(), tw.ProximalBundle() or tw.DualSubgradient()"
        ]
    if step is None or bound is None or not np.isfinite(problem.pricing.largest):
        return []
    if np.ndim(step):
        beyond = float(np.max(np.asarray(step) * problem.pricing.diagonal)) * problem.pricing.scaled
        allowed = float(bound(facts_of(problem))) * problem.pricing.largest
        said = f"one of its scaled steps α_j ω M_jj is {beyond:.3g}"
    else:
        beyond, allowed = float(step), float(bound(facts_of(problem)))
        said = f"step_size={beyond:.4g}"
    if beyond < allowed:
        return []
    return [f"{type(algorithm).__name__}: {said}, and stability is proved below {allowed:.4g} only ({problem.pricing.source})"]
