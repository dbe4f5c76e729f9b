"""A shared model that is good after one step of each client's own."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from thalweg._trees import minus
from thalweg.algorithm.base import Claims
from thalweg.algorithm.local import LocalSGD, LocalSolver
from thalweg.algorithm.local.views import View
from thalweg.algorithm.step import Real
from thalweg.cohort import Cohort

from .base import ClientContext, ClientInfo
from .ditto import positive
from .fine_tune import Averaging


class AfterOneStep(View):
    """f_i(x − α∇f_i(x)), its gradient by `order`. Of a minibatch, every other example makes the step, the rest judge it."""

    base: Any
    rate: Any
    probe: Any
    order: str = eqx.field(static=True)

    def stepped(self, x: Any, gradient: Any) -> Any:
        """x − α g."""
        return jax.tree.map(lambda a, g: a - jnp.asarray(self.rate, a.dtype) * g, x, gradient)

    def seen(self, y, oracle, judged=None):
        gradient = lambda x: oracle(x)[1]
        value, outer = (judged or oracle)(self.stepped(y, gradient(y)))
        if self.order == "first":
            return value, outer
        if self.order == "exact":
            product = jax.jvp(gradient, (y,), (outer,))[1]
        else:
            shifted = lambda sign: gradient(
                jax.tree.map(lambda a, u: a + sign * jnp.asarray(self.probe, a.dtype) * u, y, outer)
            )
            product = jax.tree.map(lambda a, b: (a - b) / (2 * jnp.asarray(self.probe, a.dtype)), shifted(1), shifted(-1))
        return value, self.stepped(outer, product)

    def batch_value_and_grad(self, y, indices, real=None):
        if indices.shape[0] == 1:
            return super().batch_value_and_grad(y, indices, real)
        part = lambda start: (
            lambda x: self.base.batch_value_and_grad(x, indices[start::2], None if real is None else real[start::2])
        )
        return self.seen(y, part(0), part(1))


class PerFedAvg(Averaging):
    """Per-FedAvg (MAML): minimise Σ_i w_i F_i(x) with F_i(x) = f_i(x − α∇f_i(x)), the loss after one step of the client's own.

        client   y_i ← local solver on F_i, from x;   sends y_i − x
                 ∇F_i(y) = (I − α∇²f_i(y)) ∇f_i(y − α∇f_i(y))                          order "exact"
                 the second factor alone                                                order "first"
                 ∇²f_i(y) u = (∇f_i(y + δu) − ∇f_i(y − δu))/(2δ)                        order "hessian_free"
                 keeps v_i = x − α∇f_i(x)
        server   x ← x + η Σ_i w_i (y_i − x)

    v_i is the client's own answer, from the model that it received last. Of a minibatch every other example makes the step and the
    others judge it.

    Args:
        solver: the local solver on F_i; its step size comes from max L_i when it is left open.
        cohort: who takes part: a `tw.cohort` rule, a number of clients, or None for everybody.
        server_learning_rate: η.
        adaptation: α, the size of the client's own step; below 1/L_i.
        order: "exact" (a product with the Hessian costs two gradients), "first" or "hessian_free".
        probe: δ of "hessian_free".

    Claim: with one exact full-batch step and everybody taking part, gradient descent on Σ w_i F_i. "first" ends elsewhere, by
    O(α); with more steps clients drift on theirs.

    Alireza Fallah, Aryan Mokhtari, Asuman Ozdaglar, *Personalized federated learning with theoretical guarantees: a model-agnostic
    meta-learning approach*, NeurIPS 2020.
    """

    solver: LocalSolver = LocalSGD()
    cohort: Cohort | int | None = None
    server_learning_rate: Real = 1.0
    adaptation: Real = 0.1
    order: str = eqx.field(static=True, default="exact")
    probe: Real = 1e-3

    claims: ClassVar[Claims] = Claims(exact=False, rate="sublinear", theorem="Fallah, Mokhtari and Ozdaglar 2020")

    def __check_init__(self):
        positive(self, "adaptation", "probe")
        if self.order not in ("exact", "first", "hessian_free"):
            raise ValueError(f"PerFedAvg(order={self.order!r}): expected 'exact', 'first' or 'hessian_free'")

    def init_client(self, local, x0, context: ClientContext):
        return self._view(local).stepped(x0, local.grad(x0))

    def work(self, local, client, received, context: ClientContext):
        x, view = received["x"], self._view(local)
        run = self.solver.run(view, x, context)
        info = ClientInfo(run.loss, run.gradient_norm, run.drift(x), run.steps)
        return view.stepped(x, local.grad(x)), {"x": minus(run.x, x)}, info

    def estimate(self, server, client) -> Any:
        return server if client is None else client

    def _view(self, local) -> AfterOneStep:
        return AfterOneStep(local, self.adaptation, self.probe, self.order)
