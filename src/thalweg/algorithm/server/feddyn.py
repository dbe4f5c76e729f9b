"""Federated learning with dynamic regularisation."""

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp

from thalweg._trees import axpy, minus, times
from thalweg.algorithm.base import Claims, Facts
from thalweg.algorithm.local import LocalSolver, minimise
from thalweg.algorithm.penalty import geometric_penalty
from thalweg.algorithm.step import Real, fill
from thalweg.cohort import Cohort
from thalweg.message.combine import Combine, Sum

from .base import ClientContext, ClientInfo, ServerAlgorithm, ServerContext
from .filling import check_penalty, filled


class FedDynServer(eqx.Module):
    """`x`: the model; `h`: Σ_i w_i λ_i."""

    x: Any
    h: Any


class FedDyn(ServerAlgorithm[Any]):
    """FedDyn: a linear term λ_i, which becomes the gradient at the optimum, and a proximal term align local minimisers.

        client   y_i ≈ argmin_y f_i(y) − ⟨λ_i, y⟩ + ½α‖y − x‖²
                 λ_i ← λ_i − α(y_i − x);   sends Δ_i = y_i − x
        server   h ← h − α Σ_{i arrived} w_i Δ_i
                 x ← x + Σ_{i arrived} w_i Δ_i / Σ_{i arrived} w_i − h/α

    h = Σ w_i λ_i in every round, whoever took part, since a client keeps λ_i only if its message was accepted. A model at which
    nobody moves has λ_i = ∇f_i(x) and h = 0: the optimum, also with inexact local solutions. When all f_i have curvature a and
    everybody takes part, it contracts by max(a, α)/(a + α).

    Args:
        solver: the local solver, with g(y) − λ_i + α(y − x) in place of g(y), and an open step size from max L_i + α; or None:
            the exact solution, by the prox of f_i.
        cohort: who takes part: a `tw.cohort` rule, a number of clients, or None for everybody.
        penalty: α. Default: √(max L_i · min μ_i) (with μ at least L/100).

    Durmus Alp Emre Acar, Yue Zhao, Ramon Matas Navarro, Matthew Mattina, Paul Whatmough, Venkatesh Saligrama, *Federated learning
    based on dynamic regularization*, ICLR 2021.
    """

    solver: LocalSolver | None = None
    cohort: Cohort | int | None = None
    penalty: Real | None = None

    combine: ClassVar[dict[str, Combine]] = {"change": Sum()}
    handles: ClassVar[frozenset[str]] = frozenset({"constants", "partial_work"})
    exact_under: ClassVar[frozenset[str]] = frozenset({"partial", "dropout", "local_steps"})
    claims: ClassVar[Claims] = Claims(exact=True, rate="linear", theorem="Acar et al. 2021")

    def __check_init__(self):
        check_penalty(self)

    def resolve(self, facts: Facts) -> "FedDyn":
        chosen = fill(self, penalty=geometric_penalty(facts))
        return filled(chosen, facts, chosen.penalty)

    def init_server(self, shared, x0):
        return FedDynServer(x0, times(0, x0))

    def init_client(self, local, x0, context: ClientContext):
        return times(0, x0)

    def broadcast(self, server: FedDynServer, context: ServerContext):
        return {"x": server.x}

    def work(self, local, client, received, context: ClientContext):
        x = received["x"]
        run = minimise(self.solver, local, x, axpy(1 / self.penalty, client, x), self.penalty, context)
        change = minus(run.x, x)
        return axpy(-self.penalty, change, client), {"change": change}, ClientInfo.of(run, x)

    def update(self, shared, server: FedDynServer, aggregate, context: ServerContext):
        total, weight = aggregate["change"], context.counts.weight
        h = axpy(-self.penalty, total, server.h)
        # Nobody arrived: nothing was learnt.
        some = weight > 0
        mean = times(jnp.where(some, 1 / jnp.where(some, weight, 1), 0), total)
        x = axpy(jnp.where(some, -1 / self.penalty, 0), h, axpy(1, mean, server.x))
        return FedDynServer(x, h), {}

    def estimate(self, server: FedDynServer, client) -> Any:
        return server.x
