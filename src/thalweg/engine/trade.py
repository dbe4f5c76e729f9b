"""A run of a coupled problem with a price-setter: what is set up, and what comes of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from thalweg.algorithm.server.base import ServerAlgorithm
from thalweg.algorithm.server.base import Shared as PublicPart
from thalweg.observe import Outcome, Result
from thalweg.problem.certificate import certify, infeasible
from thalweg.problem.coupled import Coupled
from thalweg.problem.regularizer import Zero

from . import privacy, refusals_market, setup
from . import refusals_server as refusals
from .facts import of_market
from .led import Asked, Prepared, carried, conduct, lead
from .market import MarketGauge
from .market_tabulate import MarketColumns
from .refusals_message import check_aggregator, check_downlink
from .warm import WarmStart, warmed


def trade(problem: Coupled, algorithm: ServerAlgorithm, asked: Asked) -> Result:
    """`solve` with a price-setter."""
    a = asked
    refusals.check_arguments(problem, algorithm, a.rounds, a.every, a.seed, a.stop, a.uplink, a.downlink, a.fleet, None)
    prepared = prepare(problem, algorithm, a)
    algorithm = prepared.algorithm
    account = privacy.of_server(algorithm, problem, prepared.cohort, a.uplink, None)
    spending = privacy.plan(account, a.privacy, int(a.rounds), a.start)
    prepared.said.extend(spending.said)
    led = lead(a, prepared, MarketGauge())

    def begin(local, shared):
        if isinstance(a.start, WarmStart):
            return warmed(led.program, local, shared, a.start)
        return carried(a.start, local, shared, lambda: jnp.asarray(a.start.price, problem.dtype))

    ended = conduct(
        a, led, problem, algorithm,
        stated=problem,
        member="agent",
        head=f"one price-setter, {problem.n} agents, {problem.m} rows",
        begin=begin,
        columns=lambda sizes, goal, keep: MarketColumns(sizes, problem.row_names, goal, a.reference is not None, keep),
        spending=spending,
    )  # fmt: skip
    run, now = ended.run, problem.at(ended.run.round)
    plans = jax.vmap(setup.unraveller(problem))(run.engine.estimates(run.experiment, run.local, run.shared))
    price = problem.coupling.project(run.engine.shared_answer(run.experiment, run.shared))
    answer = {"x": plans, "agents": plans, "price": np.asarray(price), "certificate": certify(now, price, plans)}
    if ended.outcome in (Outcome.ROUND_LIMIT, Outcome.DIVERGED) and (proof := infeasible(now, price)) is not None:
        answer |= {"outcome": Outcome.INFEASIBLE, "reason": proof}
    elif ended.outcome in (Outcome.DIVERGED, Outcome.NOT_FINITE):
        hint = "; a best response may be unbounded: bound X_i (local=), or use tw.ExchangeADMM(), whose penalty holds plans"
        answer["reason"] = ended.reason + hint
    return ended.result(**answer)


def prepare(problem: Coupled, algorithm: ServerAlgorithm, a: Asked) -> Prepared:
    """What is settled before a market's program is made.

    Raises:
        TypeError, ValueError: an impossible combination.
    """
    refusals_market.check_market(problem, algorithm)
    cohort = refusals.cohort_of(algorithm, problem.n)
    check_downlink(a.downlink, cohort, a.fleet, a.engine)
    check_aggregator(algorithm, problem.n, a.uplink, a.aggregate, a.adversary)
    engine = setup.chosen_engine(a.engine, a.deterministic)
    part = refusals_market.participation(cohort, a.fleet, engine, problem.n)
    algorithm = algorithm.resolve(dataclasses.replace(of_market(problem), participation=part))
    return Prepared(
        problem=problem,
        clients=problem,
        algorithm=algorithm,
        cohort=cohort,
        public=PublicPart(Zero(), problem.n, jnp.ones(problem.n, problem.dtype), problem.coupling),
        aggregate=a.aggregate,
        said=[
            *refusals.server_warnings(algorithm, cohort, a.fleet),
            *refusals_market.lost_warning(algorithm, a.fleet, engine, problem.n),
            *refusals_market.step_warning(problem, algorithm),
        ],
    )
