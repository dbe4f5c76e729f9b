"""Federated averaging, then steps of one's own."""

import dataclasses
from typing import Any, ClassVar

import equinox as eqx

from thalweg._trees import axpy, minus
from thalweg.algorithm.base import Claims, Facts
from thalweg.algorithm.local import LocalSGD, LocalSolver
from thalweg.algorithm.step import Real
from thalweg.cohort import Cohort
from thalweg.message.combine import Combine, Mean

from .base import ClientContext, ClientInfo, ServerAlgorithm, ServerContext
from .filling import filled


class Averaging(ServerAlgorithm[Any]):
    """The server's half of federated averaging over whole models; what a client keeps is up to the subclass."""

    solver: eqx.AbstractVar[LocalSolver]
    server_learning_rate: eqx.AbstractVar[Real]

    combine: ClassVar[dict[str, Combine]] = {"x": Mean()}
    handles: ClassVar[frozenset[str]] = frozenset({"partial_work", "personal"})

    def resolve(self, facts: Facts) -> Any:
        return filled(self, facts)

    def init_server(self, shared, x0):
        return x0

    def broadcast(self, server, context: ServerContext):
        return {"x": server}

    def update(self, shared, server, aggregate, context: ServerContext):
        return axpy(self.server_learning_rate, aggregate["x"], server), {}


class FineTune(Averaging):
    """Federated averaging; every client's own answer is the shared model after further steps on its own data.

        client   y_i ← local solver on f_i, from x;   sends y_i − x
                 v_i ← tuning on f_i, from x              (y_i itself where no tuning is given)
        server   x ← x + η Σ_i w_i (y_i − x)

    v_i stays with the client: it is what client i made of the model that it received last (x0 before that). The baseline that every
    other way of personalising has to beat.

    Args:
        solver: the local solver; its step size comes from max L_i when it is left open.
        cohort: who takes part: a `tw.cohort` rule, a number of clients, or None for everybody.
        server_learning_rate: η.
        tuning: a local solver for v_i; None takes y_i, at no cost.

    Claim: x is that of federated averaging. With more and more tuning v_i tends to the client's own minimiser.

    Tao Yu, Eugene Bagdasaryan, Vitaly Shmatikov, *Salvaging federated learning by local adaptation*, arXiv 2020; Gary Cheng, Karan
    Chadha, John Duchi, *Fine-tuning is fine in federated learning*, arXiv 2021.
    """

    solver: LocalSolver = LocalSGD()
    cohort: Cohort | int | None = None
    server_learning_rate: Real = 1.0
    tuning: LocalSolver | None = None

    claims: ClassVar[Claims] = Claims(exact=False, rate="linear", theorem="the shared model's is that of FedAvg")

    def resolve(self, facts: Facts) -> "FineTune":
        chosen = filled(self, facts)
        return chosen if self.tuning is None else dataclasses.replace(chosen, tuning=self.tuning.resolve(facts))

    def init_client(self, local, x0, context: ClientContext):
        return x0

    def work(self, local, client, received, context: ClientContext):
        x = received["x"]
        run = self.solver.run(local, x, context)
        tuned = run.x if self.tuning is None else self.tuning.run(local, x, context).x
        return tuned, {"x": minus(run.x, x)}, ClientInfo(run.loss, run.gradient_norm, run.drift(x), run.steps)

    def estimate(self, server, client) -> Any:
        return server if client is None else client
