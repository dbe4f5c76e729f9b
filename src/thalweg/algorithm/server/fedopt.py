"""Federated averaging with an optimiser at the server."""

from typing import Any, ClassVar

import equinox as eqx
import optax

from thalweg._trees import axpy, minus, times
from thalweg.algorithm.base import Claims, Facts
from thalweg.algorithm.local import LocalSGD, LocalSolver
from thalweg.algorithm.step import Real
from thalweg.cohort import Cohort
from thalweg.message.combine import Combine, Mean

from .base import ClientContext, ClientInfo, ServerAlgorithm, ServerContext
from .filling import filled


class FedOptServer(eqx.Module):
    """`x`: the model; `state`: of the server's optimiser."""

    x: Any
    state: Any


class FedOpt(ServerAlgorithm[tuple[()]]):
    """FedOpt: the average change is a pseudo-gradient, which any optimiser may use.

        client   y_i ← local solver on f_i, from x;   sends Δ_i = y_i − x
        server   (u, s) ← optimiser(−Σ_i w_i Δ_i, s, x),   x ← x + η u

    Its fixed points are those of federated averaging, Σ w_i Δ_i = 0. `optax.sgd(1.0)` is federated averaging itself;
    `tw.FedAvgM`, `tw.FedAdagrad`, `tw.FedAdam` and `tw.FedYogi` are the usual ones.

    Args:
        solver: the local solver; its step size comes from max L_i when it is left open.
        cohort: who takes part: a `tw.cohort` rule, a number of clients, or None for everybody.
        server_optimizer: an optax transformation, for example `optax.adam(1e-2)`; None for averaging. Two transformations are
            equal only if they are the same object: make one and keep it, and nothing is compiled twice.
        server_learning_rate: η, a factor on its updates.

    Sashank Reddi, Zachary Charles, Manzil Zaheer, Zachary Garrett, Keith Rush, Jakub Konečný, Sanjiv Kumar, H. Brendan McMahan,
    *Adaptive federated optimization*, ICLR 2021.
    """

    solver: LocalSolver = LocalSGD()
    cohort: Cohort | int | None = None
    server_optimizer: optax.GradientTransformation | None = eqx.field(static=True, default=None)
    server_learning_rate: Real = 1.0

    combine: ClassVar[dict[str, Combine]] = {"x": Mean()}
    handles: ClassVar[frozenset[str]] = frozenset({"partial_work"})
    claims: ClassVar[Claims] = Claims(exact=False, rate="linear", theorem="fixed points of federated averaging")

    def __check_init__(self):
        optimizer = self.server_optimizer
        if optimizer is not None and not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
            raise TypeError(
                f"FedOpt(server_optimizer={optimizer!r}): expected an optax transformation such as optax.adam(1e-2)"
            )

    def resolve(self, facts: Facts) -> "FedOpt":
        return filled(self, facts)

    def init_server(self, shared, x0):
        return FedOptServer(x0, () if self.server_optimizer is None else self.server_optimizer.init(x0))

    def init_client(self, local, x0, context: ClientContext):
        return ()

    def broadcast(self, server: FedOptServer, context: ServerContext):
        return {"x": server.x}

    def work(self, local, client, received, context: ClientContext):
        x = received["x"]
        run = self.solver.run(local, x, context)
        return client, {"x": minus(run.x, x)}, ClientInfo.of(run, x)

    def update(self, shared, server: FedOptServer, aggregate, context: ServerContext):
        updates, state = aggregate["x"], server.state
        if self.server_optimizer is not None:
            updates, state = self.server_optimizer.update(times(-1, updates), state, server.x)
        return FedOptServer(axpy(self.server_learning_rate, updates, server.x), state), {}

    def estimate(self, server: FedOptServer, client) -> Any:
        return server.x
