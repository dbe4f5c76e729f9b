"""q-fair federated learning."""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp

from thalweg._trees import minus, plus, times
from thalweg.algorithm.base import Claims, Facts
from thalweg.algorithm.local import LocalSGD, LocalSolver
from thalweg.algorithm.step import Real
from thalweg.cohort import Cohort
from thalweg.message.combine import Combine, Mean

from .base import ClientContext, ClientInfo, ServerAlgorithm, ServerContext
from .filling import filled


class QFFL(ServerAlgorithm[tuple[()]]):
    """q-FedAvg: minimise Σ_i w_i f_i(x)^(q+1)/(q+1), which weighs clients with large losses more, the more the larger q.

        client   y_i ← local solver on f_i, from x;   u_i = L (x − y_i)
                 sends  F_i^q u_i   and   h_i = q F_i^(q−1) ‖u_i‖² + L F_i^q,      F_i = f_i(x)
        server   x ← x − Σ_i w_i F_i^q u_i / Σ_i w_i h_i

    h_i bounds the curvature of f_i^(q+1)/(q+1) at x, so that one step size serves all q. With q = 0 it is federated averaging
    (with the cohort's mean normalised). As q → ∞ the answer tends to that of `AgnosticFL`.

    Args:
        solver: the local solver; its step size comes from max L_i when it is left open.
        cohort: who takes part: a `tw.cohort` rule, a number of clients, or None for everybody.
        q: ≥ 0; 0 for no reweighting.
        lipschitz: L; None for 1/(local learning rate), so that with one local step u_i = ∇f_i(x).

    Assumptions: losses are not negative (a negative one makes F^q undefined, and the run ends and says so).
    Claim: a stationary point of the q-fair objective with one local step; with more, of a surrogate, as in federated averaging.

    Tian Li, Maziar Sanjabi, Ahmad Beirami, Virginia Smith, *Fair resource allocation in federated learning*, ICLR 2020.
    """

    solver: LocalSolver = LocalSGD()
    cohort: Cohort | int | None = None
    q: Real = 1.0
    lipschitz: Real | None = None

    combine: ClassVar[dict[str, Combine]] = {"x": Mean(), "h": Mean()}
    handles: ClassVar[frozenset[str]] = frozenset({"partial_work"})
    claims: ClassVar[Claims] = Claims(
        exact=False, rate="linear", theorem="Li et al. 2020, Lemma on the local Lipschitz constant"
    )

    def __check_init__(self):
        if isinstance(self.q, int | float) and not self.q >= 0:
            raise ValueError(f"QFFL(q={self.q!r}): expected a number ≥ 0")
        if isinstance(self.lipschitz, int | float) and not self.lipschitz > 0:
            raise ValueError(f"QFFL(lipschitz={self.lipschitz!r}): expected a positive number, or None for 1/(learning rate)")

    def resolve(self, facts: Facts) -> "QFFL":
        chosen = filled(self, facts)
        if chosen.lipschitz is not None:
            return chosen
        rate = getattr(chosen.solver, "learning_rate", None)
        if rate is None or callable(rate) or getattr(chosen.solver, "optimizer", None) is not None:
            raise ValueError(
                "QFFL: L is 1/(local learning rate) for plain steps of a constant size, got a schedule or an optimiser; give "
                "lipschitz="
            )
        return dataclasses.replace(chosen, lipschitz=1 / rate)

    def init_server(self, shared, x0):
        return x0

    def init_client(self, local, x0, context: ClientContext):
        return ()

    def broadcast(self, server, context: ServerContext):
        return {"x": server}

    def work(self, local, client, received, context: ClientContext):
        x = received["x"]
        run = self.solver.run(local, x, context)
        value = local.value(x)
        step = minus(run.x, x)
        size = run.drift(x).astype(value.dtype)
        power = value**self.q
        # F^(q−1) at F = 0 is infinite for q < 1, where ‖u‖ = 0 as well: the smallest number stands in for it.
        tiny = jnp.finfo(value.dtype).tiny
        slope = self.q * jnp.where(value == 0, tiny, value) ** (self.q - 1)
        curvature = slope * (self.lipschitz * size) ** 2 + self.lipschitz * power
        info = ClientInfo(run.loss, run.gradient_norm, run.drift(x), run.steps)
        return client, {"x": times(power * self.lipschitz, step), "h": curvature}, info

    def update(self, shared, server, aggregate, context: ServerContext):
        h = aggregate["h"]
        scale = jnp.where(h > 0, 1 / jnp.where(h > 0, h, 1), 0)
        # A NaN must stay one, so that the run ends and says so.
        scale = jnp.where(jnp.isnan(h), h, scale)
        return plus(server, times(scale, aggregate["x"])), {"curvature": h}

    def estimate(self, server, client) -> Any:
        return server
