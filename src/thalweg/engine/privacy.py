"""What of a run is private, for whom, and what a round of it costs; what is not known is refused, never guessed."""

import dataclasses
from typing import Any

import numpy as np

from thalweg.algorithm.local import PrivateSGD
from thalweg.cohort import Cohort, Cyclic, Everyone, Poisson, Uniform
from thalweg.message.flow import Flow, Mechanism
from thalweg.message.noisy_mean import NoisyMean
from thalweg.message.stage import Stage
from thalweg.observe import Outcome
from thalweg.privacy import Account, Budget

# A site of a deployed run may do every round so many times, if its budget allows that: some are done again.
AGAIN = 10
# Messages of these depend on a client's data through its local solver alone.
THROUGH_SOLVER = ("FedAvg", "FedOpt", "FedProx", "FedAvgM", "FedAdagrad", "FedAdam", "FedYogi")


def with_weights(aggregate: Any, weights: Any, cohort: Cohort, fleet: Any, n: int) -> Any:
    """The aggregator with the largest weight that a client can have in its mean, where it asks for that.

    Raises:
        ValueError: the weights of a mean depend on who came.
    """
    if not isinstance(aggregate, NoisyMean):
        return aggregate
    if cohort.normalise or not isinstance(cohort, Everyone | Poisson | Uniform | Cyclic):
        raise ValueError(
            f"noisy_mean: the denominator of a mean over {cohort!r} depends on who came, which changes what one client can do to "
            "it; use tw.cohort.poisson(rate), everyone() or cyclic(size), with normalise=False"
        )
    if fleet is not None and (fleet.selective or np.max(fleet.dropout) > 0):
        raise ValueError(
            "noisy_mean: weights grow with the chance to drop out; leave fleet= out, or give one without drop-outs"
        )
    factor = {Poisson: lambda: 1 / cohort.rate, Uniform: lambda: n / cohort.size, Cyclic: lambda: n / cohort.size}
    largest = float(np.max(weights)) * factor.get(type(cohort), lambda: 1.0)()
    return dataclasses.replace(aggregate, largest=largest)


def of_server(algorithm: Any, problem: Any, cohort: Cohort, uplink: Stage | None, aggregate: Any) -> Account | None:
    """What a round costs; None where nothing is private.

    Raises:
        ValueError: noise in a composition whose cost is not known.
    """
    account, combined = _of_noise(algorithm, problem, cohort, uplink, aggregate)
    return _of_clients(combined, aggregate, cohort, problem.n, len(algorithm.phases)) if combined else account


def of_client(algorithm: Any, problem: Any, cohort: Cohort, uplink: Stage | None, aggregate: Any) -> Account | None:
    """What a round under a server that is a process of its own costs a client that takes part in it, which is no secret there.

    Args:
        problem: with the client's own piece; None: of a client with room for all the examples that it may draw.

    Raises:
        ValueError: noise in a composition whose cost is not known, or that the server adds.
    """
    account, combined = _of_noise(algorithm, problem, cohort, uplink, aggregate)
    if combined and not aggregate.sealed:
        raise ValueError(
            "got noise that the server adds, in a mean whose weights depend on who answers in time; expected noise in the uplink "
            "(clip and gaussian), in secure_sum, or in PrivateSGD"
        )
    return _of_sums(combined, aggregate, len(algorithm.phases)) if combined else account


def _of_noise(
    algorithm: Any, problem: Any, cohort: Cohort, uplink: Stage | None, aggregate: Any
) -> tuple[Account | None, Mechanism | None]:
    """(what noise costs that clients add by themselves, or else what adds it to their mean); None where there is none.

    Raises:
        ValueError: it is added in several places, or clients tell something beside it.
    """
    solver = getattr(algorithm, "solver", None)
    private = solver if isinstance(solver, PrivateSGD) else None
    sent = (Flow() if uplink is None else uplink.after(Flow())).noise
    combined = aggregate.after(Flow()).noise if aggregate is not None else ()
    if (private is not None) + len(sent) + len(combined) > 1:
        raise ValueError(
            "solve: noise is added in several places (in the local solver, to messages, to their mean); what they cost together is "
            "not accounted for: keep one of them"
        )
    if cohort.reports and (private or sent or combined):
        raise ValueError(
            f"solve: {cohort!r} learns from what clients report without noise ({', '.join(cohort.reports)}); use poisson"
        )
    if private is not None:
        return _of_examples(type(algorithm).__name__, private, problem), None
    return (_of_messages(sent[0], len(algorithm.phases)) if sent else None), combined[0] if combined else None


def of_peers(algorithm: Any, link: Stage | None, report: Any) -> Account | None:
    """What a round of peers costs each message's sender; None where nothing is private."""
    sent = (Flow() if link is None else link.after(Flow())).noise
    if not sent:
        return None
    if report:
        raise ValueError(f"solve: report={report!r} would leave the agents without noise; leave it out")
    if len(sent) > 1:
        raise ValueError("solve: the link adds noise twice; what both cost together is not accounted for: keep one of them")
    return _of_messages(sent[0], len(algorithm.phases))


def _of_messages(mechanism: Mechanism, draws: int) -> Account:
    """Any two messages within the bound differ by twice the bound."""
    return Account(
        "message", "replace one", "nobody but the agent itself", mechanism.kind, mechanism.noise_multiplier / 2, draws=draws
    )


def _of_examples(name: str, solver: PrivateSGD, problem: Any) -> Account:
    if name not in THROUGH_SOLVER:
        raise ValueError(
            f"PrivateSGD: {name} sends more than where its local solver ended, which is not hidden; use one of "
            f"{', '.join(THROUGH_SOLVER[:3])}"
        )
    counts = np.asarray(getattr(problem, "counts", 0))
    overflow = max((solver.overflow(int(m)) for m in np.unique(counts) if m), default=0.0)
    return Account(
        "example", "add or remove one", "the client that holds it", "gaussian", solver.noise_multiplier,
        sampling_rate=solver.sampling_rate, draws=solver.steps, overflow=overflow,
    )  # fmt: skip


def _of_sums(mechanism: Mechanism, aggregate: Any, draws: int) -> Account:
    """Of a client that takes part in every round."""
    sees = "the server" if aggregate.individual else "nobody but the client itself"
    return Account("client", "add or remove one", sees, mechanism.kind, mechanism.noise_multiplier, draws=draws)


def _of_clients(mechanism: Mechanism, aggregate: Any, cohort: Cohort, n: int, draws: int) -> Account:
    account = _of_sums(mechanism, aggregate, draws)
    bands = getattr(aggregate, "bands", 1)
    if bands > 1:
        if not isinstance(cohort, Cyclic) or n // cohort.size < bands:
            raise ValueError(
                f"noisy_mean(bands={bands}): noise correlated over {bands} rounds hides a client that takes part once in them; "
                f"use tw.cohort.cyclic(size) with size ≤ {n // bands} of {n} clients"
            )
        spread = float(np.linalg.norm(aggregate.coefficients))
        return dataclasses.replace(account, cycle=n // cohort.size, spread=spread)
    if isinstance(cohort, Everyone):
        return account
    if isinstance(cohort, Cyclic):
        return dataclasses.replace(account, cycle=n // cohort.size)
    if isinstance(cohort, Poisson):
        return dataclasses.replace(account, sampling_rate=cohort.rate, overflow=cohort.overflow(n))
    raise ValueError(
        f"solve: {cohort!r} does not amplify privacy under the adjacency 'add or remove one client', which needs a coin for "
        "every client; use tw.cohort.poisson(rate)"
    )


@dataclasses.dataclass(frozen=True)
class Spending:
    """What a run may spend.

    Attributes:
        rounds: as many fit into the budget, at most what was asked for; asked: what was asked for.
        config: what the run's config says of privacy; said: what is worth a warning.
        allowance: of a deployed run: rounds in which one site may take part.
        turns: of a deployed run: of so many rounds a site takes part in one.
    """

    rounds: int
    asked: int
    account: Account | None = None
    budget: Budget | None = None
    config: dict[str, str] = dataclasses.field(default_factory=dict)
    said: tuple[str, ...] = ()
    allowance: int | None = None
    turns: int = 1

    def ledger(self, rounds: Any) -> dict[str, Any]:
        """Of the ledger: ε after each of these `rounds`, and δ."""
        if self.account is None or self.budget is None:
            return {}
        one = lambda k: self.account.epsilon(int(k), self.budget.delta, self.budget.accountant)
        return {"epsilon": np.array([one(k) for k in rounds]), "delta": self.budget.delta}

    def of_site(self, spent: int) -> float | None:
        """ε of a site of a deployed run that has taken part in so many rounds; None without a budget."""
        if self.account is None or self.budget is None:
            return None
        return self.account.epsilon(spent, self.budget.delta, self.budget.accountant)

    def ended(self, outcome: Outcome, reason: str, done: int) -> dict[str, Any]:
        """Outcome and reason of a run that the budget ended, and not the number of rounds asked for."""
        if outcome is not Outcome.ROUND_LIMIT or done < self.rounds or self.rounds >= self.asked:
            return {"outcome": outcome, "reason": reason}
        spent = self.account.epsilon(-(-self.rounds // self.turns), self.budget.delta, self.budget.accountant)
        text = f"after {done} of {self.asked} rounds ε = {spent:.4g} at δ = {self.budget.delta:g}; one more would exceed "
        return {"outcome": Outcome.PRIVACY, "reason": f"{text}{self.budget.epsilon:g}"}


def plan(account: Account | None, budget: Budget | None, rounds: int, start: Any = None) -> Spending:
    """What `rounds` and `budget` come to.

    Raises:
        ValueError: a budget where nothing is private, that no round fits into, or for a run that goes on from another one.
    """
    if budget is not None and not isinstance(budget, Budget):
        raise TypeError(f"solve: got {type(budget).__name__} as privacy, expected tw.privacy.Budget(epsilon, delta), or None")
    if account is None:
        if budget is not None:
            raise ValueError(
                "solve: got privacy=, and nothing in the run is private: add tw.message.noisy_mean(…) as aggregate=, a pipeline "
                "tw.message.chain(clip(…), gaussian(…)), or solver=tw.PrivateSGD(…)"
            )
        return Spending(rounds, rounds)
    if budget is None:
        text = "noise is added, and what it buys is not accounted for; pass privacy=tw.privacy.Budget(epsilon, delta)"
        return Spending(rounds, rounds, account, None, {"privacy": str(account)}, (text,))
    if start is not None:
        raise ValueError("solve: got start= and privacy=; what the earlier run has cost is not accounted for: begin at x0")
    allowed = account.rounds(budget, rounds)
    if allowed == 0 and rounds > 0:
        one = account.epsilon(1, budget.delta, budget.accountant)
        raise ValueError(
            f"solve: one round costs ε = {one:.3g} at δ = {budget.delta:g}, more than the budget of {budget.epsilon:g}; "
            "raise the noise (tw.privacy.calibrate gives how much), or the budget"
        )
    said = f"{account}; simulated secrets: a simulation shows what privacy costs, and gives none"
    return Spending(allowed, rounds, account, budget, {"privacy": said})


def deployed(account: Account | None, budget: Budget, rounds: int, cohort: Cohort | None, n: int) -> Spending:
    """As `plan`, of a run whose sites count their rounds themselves, each up to its `allowance`.

    Args:
        account: of a site, for every round in which it takes part.
        cohort: of a server with n clients, or of peers, which are everyone; None where nothing says how often a site takes part.
            There, and where it is up to chance, all rounds are begun, and who has spent its own takes part no more.
    """
    alone = plan(account, budget, rounds)
    allowance = account.rounds(budget, AGAIN * max(rounds, 1))
    said = {"privacy": f"{account}; every site counts the rounds in which it takes part, and what they cost it"}
    turns = max(1, n // cohort.size) if isinstance(cohort, Cyclic) else 1
    # What static maxima cut differs between sites, and all must mean the same rounds.
    planned = min(rounds, turns * dataclasses.replace(account, overflow=0.0).rounds(budget, rounds))
    certain = isinstance(cohort, Everyone | Cyclic)
    return dataclasses.replace(alone, rounds=planned if certain else rounds, config=said, allowance=allowance, turns=turns)
