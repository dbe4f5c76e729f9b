"""The program of a run under a server, as its sites see it: the simulated one, cut where messages travel.

Axes: `n` clients, `c` slots of the cohort.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp

from thalweg._extras import require
from thalweg.algorithm.server.base import ServerAlgorithm
from thalweg.cohort import Cyclic, Everyone, Poisson, Uniform
from thalweg.engine import federate, refusals, trade
from thalweg.engine.led import Asked, lead
from thalweg.engine.market import MarketGauge
from thalweg.engine.server import ServerProgram
from thalweg.engine.server_metrics import LearningGauge
from thalweg.engine.simulated import EventDriven, Simulated
from thalweg.message.aggregate import Aggregator
from thalweg.message.flow import Flow
from thalweg.message.secure_sum import SecureSum
from thalweg.message.stage import Stage
from thalweg.problem import Coupled
from thalweg.problem.scattered import Scattered


@dataclasses.dataclass(frozen=True)
class Plan:
    """What all sites of a run under a server do alike; fields as the arguments of `thalweg.solve`.

    `engine`: `EventDriven(buffer=…)` for a server that does not wait, None for rounds.
    """

    algorithm: ServerAlgorithm
    rounds: int = 1000
    seed: int = 0
    uplink: Stage | None = None
    downlink: Stage | None = None
    aggregate: Aggregator | None = None
    engine: EventDriven | None = None
    deterministic: bool = False

    def __post_init__(self):
        refusals.check_run(self.rounds, None, self.seed, None)
        if not isinstance(self.algorithm, ServerAlgorithm):
            raise TypeError(
                f"got {type(self.algorithm).__name__}, expected a method with a server, such as tw.FedAvg(); for peers use "
                "tw.deploy.Peer"
            )
        if self.sealed:
            _check_sealed(self.aggregate, self.algorithm)

    @property
    def sealed(self) -> bool:
        """Whether the server sees sums of its clients' messages alone."""
        return self.aggregate is not None and self.aggregate.sealed

    @property
    def constants(self) -> bool:
        """Whether clients must tell L_i and μ_i of what they hold."""
        return federate.wants_constants(self.algorithm)

    @property
    def private(self) -> bool:
        """Whether something is noise that nobody else may know."""
        noisy = lambda part: part is not None and bool(part.after(Flow()).noise)
        return noisy(self.uplink) or noisy(self.aggregate) or getattr(getattr(self.algorithm, "solver", None), "secret", False)

    def program(self, problem: Scattered, secret: Any) -> tuple[ServerProgram, list[str]]:
        """(the program for `problem`, put together from cards, warnings). `secret`: the key of what nobody else may know, None
        for the simulation's.

        Raises:
            TypeError, ValueError: an impossible combination.
        """
        asked = Asked(
            rounds=self.rounds, seed=self.seed, uplink=self.uplink, downlink=self.downlink, aggregate=self.aggregate,
            engine=self.engine or Simulated(), deterministic=self.deterministic,
        )  # fmt: skip
        market = isinstance(problem, Coupled)
        refusals.check_kind(problem, self.algorithm)
        prepared = (trade if market else federate).prepare(problem, self.algorithm, asked)
        led = lead(asked, prepared, MarketGauge() if market else LearningGauge({}))
        program = led.program if secret is None else dataclasses.replace(led.program, secret=secret)
        return program, prepared.said


def _check_sealed(aggregate: Aggregator, algorithm: ServerAlgorithm) -> None:
    """That the aggregator's protocol can be run between sites."""
    if not isinstance(aggregate, SecureSum):
        raise ValueError(
            f"aggregate: got {type(aggregate).__name__}, which is simulated only: a server that sees encrypted sums and what they "
            "decrypt to can compute its clients' key; use tw.message.secure_sum, or tw.solve"
        )
    cohort: Any = getattr(algorithm, "cohort", None)
    if not isinstance(cohort, Everyone | Uniform | Poisson | Cyclic | int | None):
        raise ValueError(
            f"aggregate: got secure_sum and the cohort {cohort!r}, where what a client's message counts depends on who is drawn: a "
            "client would have to believe its server; use tw.cohort.uniform, poisson, cyclic or everyone"
        )
    require("cryptography", "secure")


def alone(program: ServerProgram, place: int) -> ServerProgram:
    """The program of the client at `place`, whose piece is the only one here."""
    first = jnp.zeros(1, jnp.int32)
    return dataclasses.replace(program, ids=program.ids[place : place + 1], order=first, ranks=first)
