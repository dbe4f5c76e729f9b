"""DANE: local Newton-like steps towards the global gradient."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from thalweg._trees import axpy, minus, times
from thalweg.algorithm.base import Claims, Facts
from thalweg.algorithm.local import LocalSGD, LocalSolver, minimise
from thalweg.algorithm.step import Real, fill
from thalweg.cohort import Cohort
from thalweg.message.combine import Combine, Mean

from .base import ClientContext, ClientInfo, ServerAlgorithm, ServerContext
from .filling import check_penalty, filled


class DaneServer(eqx.Module):
    """`x`: the model; `g`: the last average gradient."""

    x: Any
    g: Any


class DANE(ServerAlgorithm[tuple[()]]):
    """DANE: clients minimise their own loss, tilted so that its gradient at x is the global one.

        gradient   client sends ∇f_i(x);   g ← Σ_i w_i ∇f_i(x)
        descent    client   y_i ≈ argmin_y f_i(y) − ⟨∇f_i(x) − η g, y⟩ + ½μ‖y − x‖²;   sends Δ_i = y_i − x
                   server   x ← x + Σ_i w_i Δ_i

    On quadratics x − x* ← (I − η Σ w_i (H_i + μI)⁻¹ H)(x − x*): the more alike the clients, the smaller μ may be, and the nearer
    it is to Newton's method. μ > η max L_i/2 suffices for convergence there. At the optimum g = 0 and nobody moves, exact
    solutions or not.

    Args:
        solver: the local solver, with the gradient of the tilted loss in place of g(y), and an open step size from max L_i + μ;
            or None: the exact solution, by the prox of f_i.
        cohort: who takes part: a `tw.cohort` rule, a number of clients, or None for everybody. In a cohort g is an estimate
            (`tw.FedDANE`).
        penalty: μ. Default: max L_i, with which no error grows or alternates in sign on any quadratics.
        gradient_weight: η.

    Ohad Shamir, Nathan Srebro, Tong Zhang, *Communication-efficient distributed optimization using an approximate Newton-type
    method*, ICML 2014.
    """

    solver: LocalSolver | None = None
    cohort: Cohort | int | None = None
    penalty: Real | None = None
    gradient_weight: Real = 1.0

    combine: ClassVar[dict[str, Combine]] = {"gradient": Mean(), "x": Mean()}
    phases: ClassVar[tuple[str, ...]] = ("gradient", "descent")
    exact_under: ClassVar[frozenset[str]] = frozenset({"local_steps"})
    claims: ClassVar[Claims] = Claims(exact=True, rate="linear", theorem="Shamir, Srebro and Zhang 2014, quadratics")

    def __check_init__(self):
        check_penalty(self)

    def resolve(self, facts: Facts) -> "DANE":
        chosen = self if facts.smoothness is None else fill(self, penalty=facts.smoothness)
        return filled(chosen, facts, chosen.penalty)

    def init_server(self, shared, x0):
        return DaneServer(x0, times(0, x0))

    def init_client(self, local, x0, context: ClientContext):
        return ()

    def broadcast(self, server: DaneServer, context: ServerContext):
        return {"x": server.x} if context.phase == "gradient" else {"x": server.x, "g": server.g}

    def work(self, local, client, received, context: ClientContext):
        x = received["x"]
        value, gradient = local.value_and_grad(x)
        if context.phase == "gradient":
            return client, {"gradient": gradient}, ClientInfo.of_gradient(value, gradient)

        def tilted(x, own, common):
            weight, penalty = (jnp.asarray(number, x.dtype) for number in (self.gradient_weight, self.penalty))
            return x + (own - weight * common) / penalty

        centre = jax.tree.map(tilted, x, gradient, received["g"])
        run = minimise(self.solver, local, x, centre, self.penalty, context)
        return client, {"x": minus(run.x, x)}, ClientInfo.of(run, x)

    def update(self, shared, server: DaneServer, aggregate, context: ServerContext):
        if context.phase == "gradient":
            return DaneServer(server.x, aggregate["gradient"]), {}
        return DaneServer(axpy(1, aggregate["x"], server.x), server.g), {}

    def estimate(self, server: DaneServer, client) -> Any:
        return server.x


def FedDANE(
    solver: LocalSolver = LocalSGD(),  # noqa: B008  (frozen)
    cohort: Cohort | int | None = None,
    penalty: Real | None = None,
) -> DANE:
    """FedDANE: `tw.DANE` with inexact local solutions and, usually, a cohort, which answers in both exchanges of a round.

    Args:
        solver, cohort, penalty: as for `tw.DANE`.

    Tian Li, Anit Kumar Sahu, Manzil Zaheer, Maziar Sanjabi, Ameet Talwalkar, Virginia Smith, *FedDANE: a federated Newton-type
    method*, Asilomar Conference on Signals, Systems, and Computers 2019.
    """
    return DANE(solver, cohort, penalty)
