"""Dual decomposition by consensus on the prices, for costs whose best responses jump."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from thalweg.algorithm.base import Claims, Context, Facts, Info
from thalweg.algorithm.step import Whole, fill
from thalweg.message.combine import Combine, Mix

from .base import PricePeerAlgorithm
from .steps import EachRow, check_rows, power


class PricedAverage(eqx.Module):
    """`x`: the last best response; `price` λ_i `[m]`; `average` of best responses, and the `weight` of all in it."""

    x: Any
    price: Float[Array, " m"]
    average: Any
    weight: Float[Array, ""]


class ConsensusDualDecomposition(PricePeerAlgorithm[PricedAverage]):
    """Dual decomposition by consensus: mix the neighbours' prices, answer, and move the price by one's own excess alone,

        ℓ_i = Σ_j w_ij λ_j
        x_i ∈ argmin_x∈X_i f_i(x) + ⟨ℓ_i, g_i(x)⟩
        λ_i ← Π(ℓ_i + c_k (g_i(x_i) − b_i)),   c_k = α/(k + 1)^p
        x̄_i ← Σ_k c_k x_i,k / Σ_k c_k

    with Π onto the prices that a row's sense allows. Steps whose sum is infinite and whose sum of squares is finite bring all
    λ_i to the same optimal price, and the averages x̄_i, which are the agents' plans, to optimal ones: best responses of costs
    that are not strongly convex clear no market however good the price. Slow and robust: the reference for other methods.

    Args:
        step_size: α, a number or `[m]`. Default: n/(ω M_jj) of row j, as `DualAscent` for the mean of the agents; n/(1 + |b_j|),
            a typical price over a typical quantity, where some cost is not strongly convex.
        power: p in (½, 1]. The smaller, the sooner averages forget the first rounds.
        burn_in: rounds that the averages leave out; the limit does not depend on it.

    Alessandro Falsone, Kostas Margellos, Simone Garatti, Maria Prandini, *Dual decomposition for multi-agent distributed
    optimization with coupling constraints*, Automatica 84, 2017.
    """

    step_size: EachRow | None = None
    power: float = eqx.field(static=True, default=0.6)
    burn_in: Whole = 0

    combine: ClassVar[dict[str, Combine]] = {"price": Mix()}
    needs: ClassVar[frozenset[str]] = frozenset({"doubly_stochastic"})
    handles: ClassVar[frozenset[str]] = frozenset({"prices"})
    exact_under: ClassVar[frozenset[str]] = frozenset({"symmetric"})
    claims: ClassVar[Claims] = Claims(exact=True, rate="sublinear", theorem="Falsone, Margellos, Garatti and Prandini 2017")

    def __check_init__(self):
        check_rows(self, "step_size")
        if not 0.5 < self.power <= 1:
            raise ValueError(f"ConsensusDualDecomposition(power={self.power!r}): expected a number in (½, 1]")
        if isinstance(self.burn_in, int) and self.burn_in < 0:
            raise ValueError(f"ConsensusDualDecomposition(burn_in={self.burn_in!r}): expected a number of rounds, at least 0")

    def resolve(self, facts: Facts) -> "ConsensusDualDecomposition":
        dual = facts.pricing
        typical = 1 / (1 + np.abs(dual.total))
        if np.isfinite(dual.diagonal).all():
            typical = 1 / (dual.scaled * np.where(dual.diagonal > 0, dual.diagonal, 1))
        return fill(self, step_size=facts.n * typical)

    def init(self, local, x0, context: Context) -> PricedAverage:
        return PricedAverage(x0, 0 * local.share, x0, jnp.zeros((), local.share.dtype))

    def send(self, state: PricedAverage, context: Context):
        return {"price": state.price}

    def receive(self, local, state: PricedAverage, inbox, context: Context):
        price = inbox["price"]
        answer = local.respond(price, state.x)
        decay = 1 / power((context.round + 1).astype(price.dtype), self.power)
        weight = state.weight + jnp.where(context.round >= self.burn_in, decay, 0)
        part = jnp.where(weight > 0, decay / jnp.where(weight > 0, weight, 1), 1)
        average = jax.tree.map(lambda a, x: a + part.astype(a.dtype) * (x - a), state.average, answer.x)
        price = local.public.project(price + self.step_size * decay * (answer.quantity - local.share))
        return PricedAverage(answer.x, price, average, weight), Info.none()

    def restart(self, local, state: PricedAverage, context: Context) -> PricedAverage:
        return PricedAverage(state.x, state.price, state.x, jnp.zeros_like(state.weight))

    def estimate(self, state: PricedAverage):
        return state.average

    def price(self, state: PricedAverage):
        return state.price
