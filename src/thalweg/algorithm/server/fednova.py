"""Federated averaging, normalised by how much work each client did."""

from typing import Any, ClassVar

import jax.numpy as jnp

from thalweg._trees import axpy, minus, times
from thalweg.algorithm.base import Claims, Facts
from thalweg.algorithm.local import LocalSGD, LocalSolver
from thalweg.algorithm.step import Real
from thalweg.cohort import Cohort
from thalweg.message.combine import Combine, Mean

from .base import ClientContext, ClientInfo, ServerAlgorithm, ServerContext
from .filling import check_plain, filled


class FedNova(ServerAlgorithm[tuple[()]]):
    """FedNova: what a client changed counts per local step, so that nobody gains weight by working more.

        client   y_i ← τ_i local steps on f_i, from x;   sends d_i = (y_i − x)/τ_i and τ_i
        server   x ← x + η τ Σ_i w_i d_i,   τ = Σ_i w_i τ_i

    Federated averaging with unequal τ_i tends, for small steps, to the minimiser of Σ w_i τ_i f_i; this one to that of
    Σ w_i f_i. What is left of client drift is of the order of the step size. Under equal work it is federated averaging.
    Clients may do as much of their work as they have time for.

    Args:
        solver: the local solver: plain gradient steps, of the same size at all clients.
        cohort: who takes part: a `tw.cohort` rule, a number of clients, or None for everybody.
        effective_steps: τ; None: estimated from the cohort, as in the paper. A number makes a round of few clients unbiased,
            since the estimates of τ and of Σ w_i d_i are correlated.
        server_learning_rate: η.

    Jianyu Wang, Qinghua Liu, Hao Liang, Gauri Joshi, H. Vincent Poor, *Tackling the objective inconsistency problem in
    heterogeneous federated optimization*, NeurIPS 2020.
    """

    solver: LocalSolver = LocalSGD()
    cohort: Cohort | int | None = None
    effective_steps: Real | None = None
    server_learning_rate: Real = 1.0

    combine: ClassVar[dict[str, Combine]] = {"x": Mean(), "steps": Mean()}
    handles: ClassVar[frozenset[str]] = frozenset({"partial_work"})
    claims: ClassVar[Claims] = Claims(exact=False, rate="linear", theorem="Wang, Liu, Liang, Joshi and Poor 2020")

    def __check_init__(self):
        check_plain(self, "what is sent is divided by their number")

    def resolve(self, facts: Facts) -> "FedNova":
        return filled(self, facts)

    def init_server(self, shared, x0):
        return x0

    def init_client(self, local, x0, context: ClientContext):
        return ()

    def broadcast(self, server, context: ServerContext):
        return {"x": server}

    def work(self, local, client, received, context: ClientContext):
        x = received["x"]
        run = self.solver.run(local, x, context)
        steps = run.steps.astype(run.loss.dtype)
        change = times(1 / jnp.maximum(steps, 1), minus(run.x, x))
        return client, {"x": change, "steps": steps}, ClientInfo.of(run, x)

    def update(self, shared, server, aggregate, context: ServerContext):
        steps = aggregate["steps"] if self.effective_steps is None else self.effective_steps
        return axpy(self.server_learning_rate * steps, aggregate["x"], server), {}

    def estimate(self, server, client) -> Any:
        return server
