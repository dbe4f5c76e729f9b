"""MimeLite: Mime without variance reduction."""

from typing import Any, ClassVar

import equinox as eqx

from thalweg._trees import axpy, minus, norm
from thalweg.algorithm.base import Claims, Facts
from thalweg.algorithm.local import LocalSGD, LocalSolver
from thalweg.algorithm.step import Real
from thalweg.cohort import Cohort
from thalweg.message.combine import Combine, Mean

from .base import ClientContext, ClientInfo, ServerAlgorithm, ServerContext
from .fedopt import FedOptServer
from .filling import check_plain
from .mime import frozen, optimizer_of, resolved


class MimeLite(ServerAlgorithm[tuple[()]]):
    """MimeLite: clients use the server's optimiser, whose state s stays frozen in a round.

        client   y ← y + η U(g_i(y), s), K times from x;   sends Δ_i = y_i − x and ∇f_i(x)
        server   x ← x + η_s Σ_i w_i Δ_i,   s ← V(Σ_i w_i ∇f_i(x), s)

    with U the optimiser's update and V what it does to its state. Clients drift as in federated averaging when K > 1.

    Args:
        solver: the local solver: plain steps. Its learning rate is η; left open, it is 1/(2 max L_i), or 1 when there is a
            `server_optimizer`.
        cohort: who takes part: a `tw.cohort` rule, a number of clients, or None for everybody.
        server_optimizer: an optax transformation such as `optax.sgd(0.1, momentum=0.9)`; None for momentum as in `tw.Mime`.
        server_learning_rate: η_s.

    Sai Praneeth Karimireddy, Martin Jaggi, Satyen Kale, Mehryar Mohri, Sashank Reddi, Sebastian Stich, Ananda Theertha Suresh,
    *Breaking the centralized barrier for cross-device federated learning*, NeurIPS 2021.
    """

    solver: LocalSolver = LocalSGD()
    cohort: Cohort | int | None = None
    server_optimizer: Any = eqx.field(static=True, default=None)
    server_learning_rate: Real = 1.0

    combine: ClassVar[dict[str, Combine]] = {"x": Mean(), "gradient": Mean()}
    claims: ClassVar[Claims] = Claims(exact=False, rate="linear", theorem="Karimireddy et al. 2021")

    def __check_init__(self):
        check_plain(self, "the optimiser is the server's")

    def resolve(self, facts: Facts) -> "MimeLite":
        return resolved(self, facts)

    def init_server(self, shared, x0):
        return FedOptServer(x0, optimizer_of(self).init(x0))

    def init_client(self, local, x0, context: ClientContext):
        return ()

    def broadcast(self, server: FedOptServer, context: ServerContext):
        return {"x": server.x, "state": server.state}

    def work(self, local, client, received, context: ClientContext):
        x, gradient = received["x"], local.grad(received["x"])
        run = self.solver.run(local, x, context, frozen(self, received["state"]))
        info = ClientInfo(run.loss, norm(gradient), run.drift(x), run.steps)
        return client, {"x": minus(run.x, x), "gradient": gradient}, info

    def update(self, shared, server: FedOptServer, aggregate, context: ServerContext):
        state = optimizer_of(self).update(aggregate["gradient"], server.state, server.x)[1]
        return FedOptServer(axpy(self.server_learning_rate, aggregate["x"], server.x), state), {}

    def estimate(self, server: FedOptServer, client) -> Any:
        return server.x
