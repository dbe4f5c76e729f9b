"""Mime: local steps that mimic an optimiser at the server."""

import functools
from typing import Any, ClassVar

import equinox as eqx

from thalweg._trees import axpy, minus, norm, plus, times
from thalweg.algorithm.base import Claims, Facts
from thalweg.algorithm.local import LocalSGD, LocalSolver
from thalweg.algorithm.step import Real
from thalweg.cohort import Cohort
from thalweg.message.combine import Combine, Mean

from .base import ClientContext, ClientInfo, ServerAlgorithm, ServerContext
from .filling import check_plain, filled


class MimeServer(eqx.Module):
    """`x`: the model; `c`: the last average gradient; `state`: of the optimiser."""

    x: Any
    c: Any
    state: Any


class Mime(ServerAlgorithm[tuple[()]]):
    """Mime: clients use the server's optimiser, whose state s stays frozen in a round, on variance-reduced gradients.

        gradient   client sends ∇f_i(x);   c ← Σ_i w_i ∇f_i(x)
        descent    client   y ← y + η U(g_i(y) − g_i(x) + c, s), K times from x (both g_i on the same minibatch)
                            sends Δ_i = y_i − x
                   server   x ← x + η_s Σ_i w_i Δ_i,   s ← V(c, s)

    with U the optimiser's update and V what it does to its state. At the optimum c = 0 and nobody moves, whatever K.

    Args:
        solver: the local solver: plain steps. Its learning rate is η; left open, it is 1/(2 max L_i), or 1 when there is a
            `server_optimizer`.
        cohort: who takes part: a `tw.cohort` rule, a number of clients, or None for everybody. In a cohort c is an estimate.
        server_optimizer: an optax transformation such as `optax.sgd(0.1, momentum=0.9)`; None for the momentum of the paper,
            U(g, m) = −((1 − β) g + β m), m ← (1 − β) c + β m with β = 0.9.
        server_learning_rate: η_s.

    Sai Praneeth Karimireddy, Martin Jaggi, Satyen Kale, Mehryar Mohri, Sashank Reddi, Sebastian Stich, Ananda Theertha Suresh,
    *Breaking the centralized barrier for cross-device federated learning*, NeurIPS 2021.
    """

    solver: LocalSolver = LocalSGD()
    cohort: Cohort | int | None = None
    server_optimizer: Any = eqx.field(static=True, default=None)
    server_learning_rate: Real = 1.0

    combine: ClassVar[dict[str, Combine]] = {"gradient": Mean(), "x": Mean()}
    phases: ClassVar[tuple[str, ...]] = ("gradient", "descent")
    exact_under: ClassVar[frozenset[str]] = frozenset({"local_steps"})
    claims: ClassVar[Claims] = Claims(exact=True, rate="linear", theorem="Karimireddy et al. 2021")

    def __check_init__(self):
        check_plain(self, "the optimiser is the server's")

    def resolve(self, facts: Facts) -> "Mime":
        return resolved(self, facts)

    def init_server(self, shared, x0):
        return MimeServer(x0, times(0, x0), optimizer_of(self).init(x0))

    def init_client(self, local, x0, context: ClientContext):
        return ()

    def broadcast(self, server: MimeServer, context: ServerContext):
        if context.phase == "gradient":
            return {"x": server.x}
        return {"x": server.x, "c": server.c, "state": server.state}

    def work(self, local, client, received, context: ClientContext):
        x = received["x"]
        if context.phase == "gradient":
            value, gradient = local.value_and_grad(x)
            return client, {"gradient": gradient}, ClientInfo.of_gradient(value, gradient)
        update = frozen(self, received["state"])
        run = self.solver.run(local, x, context, lambda g, y: update(plus(g, received["c"]), y), anchor=x)
        info = ClientInfo(run.loss, norm(received["c"]), run.drift(x), run.steps)
        return client, {"x": minus(run.x, x)}, info

    def update(self, shared, server: MimeServer, aggregate, context: ServerContext):
        if context.phase == "gradient":
            return MimeServer(server.x, aggregate["gradient"], server.state), {}
        state = optimizer_of(self).update(server.c, server.state, server.x)[1]
        return MimeServer(axpy(self.server_learning_rate, aggregate["x"], server.x), server.c, state), {}

    def estimate(self, server: MimeServer, client) -> Any:
        return server.x


def frozen(algorithm: Any, state: Any) -> Any:
    """(gradient, y) → what a plain step subtracts, so that it becomes a step of the optimiser in this `state`."""
    return lambda gradient, y: times(-1, optimizer_of(algorithm).update(gradient, state, y)[0])


def resolved(algorithm: Any, facts: Facts) -> Any:
    """The step size filled: a factor of one where the optimiser has its own."""
    solver = algorithm.solver
    if solver.open() and algorithm.server_optimizer is not None:
        return eqx.tree_at(lambda a: a.solver.learning_rate, algorithm, 1.0, is_leaf=lambda leaf: leaf is None)
    return filled(algorithm, facts)


def optimizer_of(algorithm: Any) -> Any:
    """The optax transformation in use."""
    return _momentum() if algorithm.server_optimizer is None else algorithm.server_optimizer


@functools.cache
def _momentum(beta: float = 0.9) -> Any:
    import optax

    return optax.chain(optax.ema(beta, debias=False), optax.scale(-1.0))
