"""Federated averaging with a proximal term."""

from typing import Any, ClassVar

from thalweg._trees import axpy, minus
from thalweg.algorithm.base import Claims, Facts
from thalweg.algorithm.local import LocalSGD, LocalSolver, minimise
from thalweg.algorithm.step import Real
from thalweg.cohort import Cohort
from thalweg.message.combine import Combine, Mean

from .base import ClientContext, ClientInfo, ServerAlgorithm, ServerContext
from .filling import filled


class FedProx(ServerAlgorithm[tuple[()]]):
    """FedProx: federated averaging whose clients are tied to the model that they received.

        client   y_i ≈ argmin_y f_i(y) + ½μ‖y − x‖²;   sends Δ_i = y_i − x
        server   x ← x + η Σ_i w_i Δ_i

    The larger μ, the less clients drift, and the slower the method. With exact local solutions it is gradient descent on
    Σ w_i M_i, with M_i the Moreau envelope of f_i with parameter 1/μ: a smoothed problem, whose minimiser tends to the optimum
    as μ → ∞. μ = 0 is federated averaging. Clients may do as much of their work as they have time for.

    Args:
        solver: the local solver, with g(y) + μ(y − x) in place of g(y), and an open step size from max L_i + μ; or None: the
            exact solution, by the prox of f_i.
        cohort: who takes part: a `tw.cohort` rule, a number of clients, or None for everybody.
        penalty: μ ≥ 0, in units of curvature.
        server_learning_rate: η.

    Tian Li, Anit Kumar Sahu, Manzil Zaheer, Maziar Sanjabi, Ameet Talwalkar, Virginia Smith, *Federated optimization in
    heterogeneous networks*, MLSys 2020.
    """

    solver: LocalSolver | None = LocalSGD()
    cohort: Cohort | int | None = None
    penalty: Real = 0.1
    server_learning_rate: Real = 1.0

    combine: ClassVar[dict[str, Combine]] = {"x": Mean()}
    handles: ClassVar[frozenset[str]] = frozenset({"partial_work"})
    claims: ClassVar[Claims] = Claims(exact=False, rate="linear", theorem="gradient descent on Moreau envelopes")

    def __check_init__(self):
        if isinstance(self.penalty, int | float) and not (self.penalty >= 0 and (self.penalty > 0 or self.solver is not None)):
            raise ValueError(
                f"FedProx(penalty={self.penalty!r}): expected a number ≥ 0, and a positive one with exact local solutions "
                "(solver=None)"
            )

    def resolve(self, facts: Facts) -> "FedProx":
        return filled(self, facts, self.penalty)

    def init_server(self, shared, x0):
        return x0

    def init_client(self, local, x0, context: ClientContext):
        return ()

    def broadcast(self, server, context: ServerContext):
        return {"x": server}

    def work(self, local, client, received, context: ClientContext):
        x = received["x"]
        run = minimise(self.solver, local, x, x, self.penalty, context)
        return client, {"x": minus(run.x, x)}, ClientInfo.of(run, x)

    def update(self, shared, server, aggregate, context: ServerContext):
        return axpy(self.server_learning_rate, aggregate["x"], server), {}

    def estimate(self, server, client) -> Any:
        return server
