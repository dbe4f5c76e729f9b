"""Federated averaging."""

from typing import Any, ClassVar

from thalweg._trees import axpy, minus
from thalweg.algorithm.base import Claims, Facts
from thalweg.algorithm.local import LocalSGD, LocalSolver
from thalweg.algorithm.step import Real
from thalweg.cohort import Cohort
from thalweg.message.combine import Combine, Mean

from .base import ClientContext, ClientInfo, ServerAlgorithm, ServerContext
from .filling import filled


class FedAvg(ServerAlgorithm[tuple[()]]):
    """Federated averaging: local steps at every client of the cohort, then the average of what they changed.

        client   y_i ← local solver on f_i, from x;   sends Δ_i = y_i − x
        server   x ← x + η Σ_i w_i Δ_i                      (estimated from the cohort, unbiased)

    With one local gradient step and everybody taking part it is gradient descent. With several (K > 1; "local SGD" where
    everybody takes part) clients drift towards their own minimisers, and on heterogeneous clients the limit is not the
    optimum: for f_i = h_i/2 (x − b_i)² it is Σ a_i b_i / Σ a_i with a_i = w_i (1 − (1 − η_l h_i)^K).

    Args:
        solver: the local solver; its step size comes from max L_i when it is left open.
        cohort: who takes part: a `tw.cohort` rule, a number of clients, or None for everybody.
        server_learning_rate: η.

    H. Brendan McMahan, Eider Moore, Daniel Ramage, Seth Hampson, Blaise Agüera y Arcas, *Communication-efficient learning of
    deep networks from decentralized data*, AISTATS 2017; the limit: Zachary Charles, Jakub Konečný, *Convergence and accuracy
    trade-offs in federated learning and meta-learning*, AISTATS 2021.
    """

    solver: LocalSolver = LocalSGD()
    cohort: Cohort | int | None = None
    server_learning_rate: Real = 1.0

    combine: ClassVar[dict[str, Combine]] = {"x": Mean()}
    handles: ClassVar[frozenset[str]] = frozenset({"partial_work"})
    claims: ClassVar[Claims] = Claims(
        exact=False, rate="linear", theorem="Charles and Konečný 2021, surrogate losses of quadratics"
    )

    def resolve(self, facts: Facts) -> "FedAvg":
        return filled(self, facts)

    def init_server(self, shared, x0):
        return x0

    def init_client(self, local, x0, context: ClientContext):
        return ()

    def broadcast(self, server, context: ServerContext):
        return {"x": server}

    def work(self, local, client, received, context: ClientContext):
        run = self.solver.run(local, received["x"], context)
        info = ClientInfo.of(run, received["x"])
        return client, {"x": minus(run.x, received["x"])}, info

    def update(self, shared, server, aggregate, context: ServerContext):
        return axpy(self.server_learning_rate, aggregate["x"], server), {}

    def estimate(self, server, client) -> Any:
        return server
