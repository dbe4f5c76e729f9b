"""Personal models by Moreau envelopes."""

import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from thalweg._trees import minus, norm
from thalweg.algorithm.base import Claims, Facts
from thalweg.algorithm.local import LocalSolver
from thalweg.algorithm.step import Real
from thalweg.cohort import Cohort

from .base import ClientContext, ClientInfo
from .ditto import positive, pulled, steeper
from .fine_tune import Averaging


class PFedMe(Averaging):
    """pFedMe: minimise Σ_i w_i F_i(x) with the Moreau envelopes F_i(x) = min_θ f_i(θ) + λ/2 ‖θ − x‖².

        client   u ← x;   R times:   θ_i ≈ argmin_θ f_i(θ) + λ/2 ‖θ − u‖²,   u ← u − η λ (u − θ_i)
                 sends u − x, keeps θ_i                                λ (u − θ_i) = ∇F_i(u) where the minimum is exact
        server   x ← x + β Σ_i w_i (u_i − x)

    θ_i is the client's own answer. F_i is as smooth as λ and no flatter than f_i allows, however badly f_i is conditioned.

    Args:
        solver: the local solver of the inner minimum, from θ_i = u; its step size comes from max L_i + λ when it is left open. None
            for the exact prox.
        cohort: who takes part: a `tw.cohort` rule, a number of clients, or None for everybody.
        server_learning_rate: β.
        penalty: λ.
        steps: R, steps on the envelope.
        learning_rate: η of those steps, at most about 1/λ; None for 1/(2λ).

    Claim: with exact minima, R = 1 and everybody taking part it is gradient descent on the envelopes, at whose fixed point
    Σ w_i λ (x − θ_i) = 0 and ∇f_i(θ_i) = λ (x − θ_i); with R > 1 clients drift on theirs.

    Canh T. Dinh, Nguyen H. Tran, Tuan Dung Nguyen, *Personalized federated learning with Moreau envelopes*, NeurIPS 2020.
    """

    solver: LocalSolver | None = None
    cohort: Cohort | int | None = None
    server_learning_rate: Real = 1.0
    penalty: Real = 1.0
    steps: int = eqx.field(static=True, default=1)
    learning_rate: Real | None = None

    claims: ClassVar[Claims] = Claims(exact=False, rate="linear", theorem="Dinh, Tran and Nguyen 2020, strongly convex case")
    handles: ClassVar[frozenset[str]] = frozenset({"personal"})

    def __check_init__(self):
        positive(self, "penalty", "steps", "learning_rate")

    def resolve(self, facts: Facts) -> "PFedMe":
        solver = None if self.solver is None else self.solver.resolve(steeper(facts, self.penalty))
        rate = 0.5 / self.penalty if self.learning_rate is None else self.learning_rate
        return dataclasses.replace(self, solver=solver, learning_rate=rate)

    def init_client(self, local, x0, context: ClientContext):
        return x0

    def work(self, local, client, received, context: ClientContext):
        x = received["x"]

        def step(carry, key):
            u, _ = carry
            if self.solver is None:
                own, size, done = local.prox(u, 1 / self.penalty), None, jnp.asarray(1, jnp.int32)
                loss = local.value(own)
            else:
                run = self.solver.run(local, u, dataclasses.replace(context, key=key), pulled(u, self.penalty))
                own, loss, size, done = run.x, run.loss, run.gradient_norm, run.steps
            envelope = minus(u, own)
            moved = jax.tree.map(lambda a, g: a - jnp.asarray(self.learning_rate * self.penalty, a.dtype) * g, u, envelope)
            size = norm(envelope) if size is None else size
            return (moved, own), (loss, size, done)

        unroll = self.steps if context.unroll else 1
        (u, own), (loss, size, done) = jax.lax.scan(step, (x, client), jax.random.split(context.key, self.steps), unroll=unroll)
        info = ClientInfo(jnp.mean(loss), size[0], norm(minus(u, x)), jnp.sum(done))
        return own, {"x": minus(u, x)}, info

    def estimate(self, server, client) -> Any:
        return server if client is None else client
