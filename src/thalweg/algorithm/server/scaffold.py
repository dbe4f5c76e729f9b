"""SCAFFOLD: control variates against client drift."""

from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp

from thalweg._trees import axpy, minus, plus, times
from thalweg.algorithm.base import Claims, Facts
from thalweg.algorithm.local import LocalSGD, LocalSolver
from thalweg.algorithm.step import Real
from thalweg.cohort import Cohort
from thalweg.message.combine import Combine, Mean, Sum

from .base import ClientContext, ClientInfo, ServerAlgorithm, ServerContext
from .filling import check_plain, filled


class ScaffoldServer(eqx.Module):
    """`x`: the model; `c`: Σ_i w_i c_i."""

    x: Any
    c: Any


class SCAFFOLD(ServerAlgorithm[Any]):
    """SCAFFOLD: every local gradient is corrected by the difference of two control variates, c − c_i.

        client   y_i ← K steps with g_i(y) − c_i + c in place of g_i(y), from x
                 c_i⁺ = ∇f_i(x)                                   (option I)
                 c_i⁺ = c_i − c + (x − y_i)/(K η_l)               (option II: the average of the gradients used)
                 sends Δ_i = y_i − x and c_i⁺ − c_i
        server   x ← x + η Σ_i w_i Δ_i,   c ← c + Σ_{i arrived} w_i (c_i⁺ − c_i)

    c = Σ w_i c_i in every round, whoever took part, since a client keeps c_i⁺ only if its message was accepted. At the optimum
    all corrections are exact and nobody moves: no drift, whatever K.

    Args:
        solver: the local solver: plain steps of a constant size within a round (option II divides by their sum).
        cohort: who takes part: a `tw.cohort` rule, a number of clients, or None for everybody.
        option: "I" or "II".
        server_learning_rate: η.

    Sai Praneeth Karimireddy, Satyen Kale, Mehryar Mohri, Sashank Reddi, Sebastian Stich, Ananda Theertha Suresh, *SCAFFOLD:
    stochastic controlled averaging for federated learning*, ICML 2020.
    """

    solver: LocalSolver = LocalSGD()
    cohort: Cohort | int | None = None
    option: Literal["I", "II"] = eqx.field(static=True, default="II")
    server_learning_rate: Real = 1.0

    combine: ClassVar[dict[str, Combine]] = {"x": Mean(), "c": Sum()}
    exact_under: ClassVar[frozenset[str]] = frozenset({"partial", "dropout", "local_steps"})
    claims: ClassVar[Claims] = Claims(exact=True, rate="linear", theorem="Karimireddy et al. 2020, Theorem III")

    def __check_init__(self):
        if self.option not in ("I", "II"):
            raise ValueError(f"SCAFFOLD(option={self.option!r}): expected 'I' or 'II'")
        check_plain(self, "control variates are averages of gradients")

    def resolve(self, facts: Facts) -> "SCAFFOLD":
        return filled(self, facts)

    def init_server(self, shared, x0):
        return ScaffoldServer(x0, times(0, x0))

    def init_client(self, local, x0, context: ClientContext):
        return times(0, x0)

    def broadcast(self, server: ScaffoldServer, context: ServerContext):
        return {"x": server.x, "c": server.c}

    def work(self, local, client, received, context: ClientContext):
        x, correction = received["x"], minus(received["c"], client)
        run = self.solver.run(local, x, context, lambda gradient, y: plus(gradient, correction))
        if self.option == "I":
            variate = local.grad(x)
        else:
            # Without a step (no budget) nothing was learnt.
            scale = jnp.where(run.length > 0, 1 / jnp.where(run.length > 0, run.length, 1), 0)
            learnt = jax.tree.map(lambda a, b: scale.astype(a.dtype) * a - b, minus(x, run.x), correction)
            variate = jax.tree.map(lambda a: jnp.where(run.steps > 0, a, 0), learnt)
        info = ClientInfo.of(run, x)
        return variate, {"x": minus(run.x, x), "c": minus(variate, client)}, info

    def update(self, shared, server: ScaffoldServer, aggregate, context: ServerContext):
        x = axpy(self.server_learning_rate, aggregate["x"], server.x)
        return ScaffoldServer(x, plus(server.c, aggregate["c"])), {}

    def estimate(self, server: ScaffoldServer, client) -> Any:
        return server.x
