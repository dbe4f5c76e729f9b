"""What peers are to find: one answer that all agree on, or a plan each and the price of what they share."""

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thalweg.algorithm.asynchronous.base import AsynchronousAlgorithm
from thalweg.algorithm.base import Facts, PeerAlgorithm
from thalweg.network import Network
from thalweg.observe import Outcome
from thalweg.problem import Coupled, Problem
from thalweg.problem.certificate import certify, infeasible

from . import refusals, setup
from .driver import Run
from .facts import gather_facts, of_market, of_network
from .market import PeerMarketGauge
from .market_tabulate import PeerMarketColumns
from .metrics import AgreementGauge, PeerGauge
from .moving import Goal
from .refusals_market import check_coupled
from .stop import Stop
from .tabulate import PeerColumns


class Kind(abc.ABC):
    """What a run of peers looks for."""

    problem: Problem | Coupled
    gauge: PeerGauge

    @abc.abstractmethod
    def facts(self, algorithm: PeerAlgorithm | AsynchronousAlgorithm, network: Network) -> Facts:
        """What the algorithm may choose its steps from."""

    @abc.abstractmethod
    def check_stop(self, stop: Stop | None) -> None:
        """Refuse a stop rule that asks what there is not."""

    @abc.abstractmethod
    def columns(self, message_bytes: int, goal: Goal, has_target: bool, keep_agents: bool) -> Any:
        """What makes columns of records, as `Tabulator` wants it."""

    @abc.abstractmethod
    def answer(self, run: Run, algorithm: PeerAlgorithm | AsynchronousAlgorithm, outcome: Outcome) -> dict[str, Any]:
        """Of the `Result`: x, agents, and price and certificate where there are any; another outcome if they say so."""


@dataclasses.dataclass(frozen=True)
class OneAnswer(Kind):
    """One answer for all; `asked` is the problem before anything was folded into it."""

    problem: Problem
    asked: Problem
    gauge: PeerGauge = dataclasses.field(default_factory=AgreementGauge)

    def facts(self, algorithm, network):
        return gather_facts(self.problem, algorithm, network)

    def check_stop(self, stop):
        pass

    def columns(self, message_bytes, goal, has_target, keep_agents):
        return PeerColumns(self.problem.n * self.problem.weights, message_bytes, goal.optimum, has_target, keep_agents)

    def answer(self, run, algorithm, outcome):
        unravel = setup.unraveller(self.problem)
        estimates = run.engine.estimates(run.experiment, run.local, run.shared)
        liars = () if run.experiment.adversary is None else run.experiment.adversary.agents
        honest = np.delete(np.arange(self.problem.n), liars)
        mean = estimates.mean(0) if not liars else estimates[honest].mean(0)
        return {"x": unravel(mean), "agents": jax.vmap(unravel)(estimates)}


@dataclasses.dataclass(frozen=True)
class PlansAndPrice(Kind):
    """A plan for each agent, and a price."""

    problem: Coupled
    gauge: PeerGauge = dataclasses.field(default_factory=PeerMarketGauge)

    def facts(self, algorithm, network):
        return dataclasses.replace(of_market(self.problem), **of_network(network))

    def check_stop(self, stop):
        if stop is not None and stop.distributed:
            raise ValueError(
                "Stop(distributed=True): got a Coupled problem, whose stop rule is its certificate, and no agent knows that; use "
                "Stop() and a number of rounds"
            )

    def columns(self, message_bytes, goal, has_target, keep_agents):
        return PeerMarketColumns(message_bytes, self.problem.row_names, goal, has_target, keep_agents)

    def answer(self, run, algorithm, outcome):
        rows = run.engine.estimates(run.experiment, run.local, run.shared)
        plans = jax.vmap(setup.unraveller(self.problem))(rows)
        copies = np.asarray(jax.vmap(algorithm.price)(run.local.agents.state))
        price = self.problem.coupling.project(jnp.asarray(copies.mean(0), self.problem.dtype))
        found = {"x": plans, "agents": plans, "price": np.asarray(price)}
        now = self.problem.at(run.round)
        found["certificate"] = certify(now, price, plans)
        if outcome in (Outcome.ROUND_LIMIT, Outcome.DIVERGED) and (proof := infeasible(now, price)) is not None:
            found |= {"outcome": Outcome.INFEASIBLE, "reason": proof}
        return found


def kind_of(problem: Problem | Coupled, algorithm: PeerAlgorithm | AsynchronousAlgorithm) -> Kind:
    """What this problem asks for, once it is known to have what the algorithm needs."""
    if isinstance(problem, Coupled):
        check_coupled(algorithm, problem)
        return PlansAndPrice(problem)
    return OneAnswer(refusals.check_problem(algorithm, problem), problem)
