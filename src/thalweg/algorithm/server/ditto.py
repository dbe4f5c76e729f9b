"""A model of one's own, kept near the shared one."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from thalweg._trees import minus
from thalweg.algorithm.base import Claims, Facts
from thalweg.algorithm.local import LocalSGD, LocalSolver
from thalweg.algorithm.step import Real
from thalweg.cohort import Cohort

from .base import ClientContext, ClientInfo
from .filling import filled
from .fine_tune import Averaging


class Ditto(Averaging):
    """Ditto: every client has a model v_i of its own, drawn to the shared one with strength λ.

        client   y_i ← local solver on f_i, from x;   sends y_i − x
                 v_i ← personal solver on f_i(v) + λ/2 ‖v − x‖², from v_i          gradient ∇f_i(v) + λ (v − x)
        server   x ← x + η Σ_i w_i (y_i − x)

    At the end ∇f_i(v_i) + λ (v_i − x) = 0: λ → 0 gives what the client reaches alone, λ → ∞ the shared model. The shared model does
    not depend on the v_i. v_i stays with the client.

    Args:
        solver: the local solver of the shared model; its step size comes from max L_i when it is left open.
        cohort: who takes part: a `tw.cohort` rule, a number of clients, or None for everybody.
        server_learning_rate: η.
        penalty: λ.
        personal_solver: the local solver of v_i; its step size comes from max L_i + λ when it is left open.

    Assumptions: strongly convex, smooth f_i for the claim: v_i converges at the rate of the shared model.

    Tian Li, Shengyuan Hu, Ahmad Beirami, Virginia Smith, *Ditto: fair and robust federated learning through personalization*,
    ICML 2021.
    """

    solver: LocalSolver = LocalSGD()
    cohort: Cohort | int | None = None
    server_learning_rate: Real = 1.0
    penalty: Real = 1.0
    personal_solver: LocalSolver = LocalSGD()

    claims: ClassVar[Claims] = Claims(exact=False, rate="linear", theorem="Li et al. 2021, convergence of Ditto")
    # Two passes cannot share one budget of steps.
    handles: ClassVar[frozenset[str]] = frozenset({"personal"})

    def __check_init__(self):
        positive(self, "penalty")

    def resolve(self, facts: Facts) -> "Ditto":
        return dataclasses.replace(
            filled(self, facts), personal_solver=self.personal_solver.resolve(steeper(facts, self.penalty))
        )

    def init_client(self, local, x0, context: ClientContext):
        return x0

    def work(self, local, client, received, context: ClientContext):
        x = received["x"]
        run = self.solver.run(local, x, context)
        own = self.personal_solver.run(local, client, context, pulled(x, self.penalty))
        info = ClientInfo(run.loss, run.gradient_norm, run.drift(x), run.steps + own.steps)
        return own.x, {"x": minus(run.x, x)}, info

    def estimate(self, server, client) -> Any:
        return server if client is None else client


def pulled(x: Any, penalty: Any):
    """Correction of gradients: those of f(v) + λ/2 ‖v − x‖²."""
    return lambda gradient, v: jax.tree.map(lambda g, a, b: g + jnp.asarray(penalty, g.dtype) * (a - b), gradient, v, x)


def steeper(facts: Facts, penalty: Any) -> Facts:
    """Constants of f_i(v) + λ/2 ‖v − x‖²."""
    return facts if facts.smoothness is None else dataclasses.replace(facts, smoothness=facts.smoothness + penalty)


def positive(algorithm: Any, *names: str) -> None:
    """Hyper-parameters that are known are positive numbers.

    Raises:
        ValueError: one is not.
    """
    for name in names:
        value = getattr(algorithm, name)
        if isinstance(value, int | float) and not value > 0:
            raise ValueError(f"{type(algorithm).__name__}({name}={value!r}): expected a positive number")
