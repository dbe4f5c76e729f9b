"""Adaptive mixtures of a shared and an own model."""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from thalweg._trees import minus, norm
from thalweg.algorithm.base import Claims
from thalweg.algorithm.local import LocalSGD, LocalSolver
from thalweg.algorithm.local.views import View
from thalweg.algorithm.step import Real
from thalweg.cohort import Cohort

from .base import ClientContext, ClientInfo
from .fine_tune import Averaging


class Pair(NamedTuple):
    """The client's copy of the shared model, and its own."""

    shared: Any
    own: Any


class Mixture(eqx.Module):
    """Of a client: its own model v_i and its share α_i."""

    own: Any
    share: Float[Array, ""]


class OfPair(View):
    """Of (y, v): value f_i(y), gradient (∇f_i(y), α ∇f_i(α v + (1 − α) y)), the second with y held fixed."""

    base: Any
    share: Any

    def seen(self, y, oracle):
        value, gradient = oracle(y.shared)
        mixed = oracle(mixture(self.share, y.own, y.shared))[1]
        return value, Pair(gradient, jax.tree.map(lambda g: self.share.astype(g.dtype) * g, mixed))


def mixture(share: Any, own: Any, shared: Any) -> Any:
    """α own + (1 − α) shared."""
    return jax.tree.map(lambda v, x: x + share.astype(x.dtype) * (v - x), own, shared)


class APFL(Averaging):
    """Adaptive personalised federated learning: the client's own answer is v̄_i = α_i v_i + (1 − α_i) x, and it learns α_i.

        client   α_i ← clip(α_i − η_α ⟨v_i − x, ∇f_i(v̄_i)⟩, 0, 1)
                 K steps of   y ← y − η_l g_i(y)   from x,   together with   v_i ← v_i − η_l α_i g_i(α_i v_i + (1 − α_i) y)
                 sends y − x, keeps v_i and α_i
        server   x ← x + η Σ_i w_i (y_i − x)

    g_i are gradients on the same minibatch. α_i = 0 is the shared model, α_i = 1 a model trained alone.

    Args:
        solver: the local solver of both models; its step size comes from max L_i when it is left open.
        cohort: who takes part: a `tw.cohort` rule, a number of clients, or None for everybody.
        server_learning_rate: η.
        share: α_i at the start, in [0, 1].
        share_step_size: η_α; 0 keeps α_i as it is.

    Claim: x is that of federated averaging. In the limit α_i ∇f_i(v̄_i) = 0: own data are fitted, and what generalises depends on
    when one stops and on α_i.

    Yuyang Deng, Mohammad Mahdi Kamani, Mehrdad Mahdavi, *Adaptive personalized federated learning*, arXiv 2020.
    """

    solver: LocalSolver = LocalSGD()
    cohort: Cohort | int | None = None
    server_learning_rate: Real = 1.0
    share: Real = 0.5
    share_step_size: Real = 0.0

    claims: ClassVar[Claims] = Claims(exact=False, rate="linear", theorem="Deng, Kamani and Mahdavi 2020, strongly convex case")

    def __check_init__(self):
        if isinstance(self.share, int | float) and not 0 <= self.share <= 1:
            raise ValueError(f"APFL(share={self.share!r}): expected a number in [0, 1]")
        if isinstance(self.share_step_size, int | float) and not self.share_step_size >= 0:
            raise ValueError(f"APFL(share_step_size={self.share_step_size!r}): expected a number ≥ 0")

    def init_client(self, local, x0, context: ClientContext):
        return Mixture(x0, jnp.asarray(self.share, jnp.result_type(*jax.tree.leaves(x0))))

    def work(self, local, client: Mixture, received, context: ClientContext):
        x = received["x"]
        gradient = local.grad(mixture(client.share, client.own, x))
        products = jax.tree.map(lambda v, a, g: jnp.sum((v - a) * g).astype(client.share.dtype), client.own, x, gradient)
        slope = sum(jax.tree.leaves(products))
        share = jnp.clip(client.share - jnp.asarray(self.share_step_size, slope.dtype) * slope, 0, 1)
        run = self.solver.run(OfPair(local, share), Pair(x, client.own), context)
        step = minus(run.x.shared, x)
        info = ClientInfo(run.loss, run.gradient_norm, norm(step), run.steps)
        return Mixture(run.x.own, share), {"x": step}, info

    def estimate(self, server, client: Mixture | None) -> Any:
        return server if client is None else mixture(client.share, client.own, server)
