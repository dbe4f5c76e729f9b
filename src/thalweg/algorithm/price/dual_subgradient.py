"""Dual subgradient with diminishing steps and averaged plans, for costs whose best responses jump."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from thalweg.algorithm.base import Claims, Facts
from thalweg.algorithm.server.base import ClientContext, ServerAlgorithm, ServerContext
from thalweg.algorithm.step import Real, fill
from thalweg.cohort import Cohort
from thalweg.message.combine import Combine, PerRow, Rows

from .plan import Market, Plan, residuals, told
from .steps import EachRow, check_rows, row_steps


class AveragedPlan(Plan):
    """As `Plan`, with the average of all plans so far, and of the weights in it."""

    average: Any
    weight: Float[Array, ""]


class AveragedMarket(Market):
    """As `Market`, with the average of all prices so far."""

    average: Float[Array, " m"]
    weight: Float[Array, ""]


class DualSubgradient(ServerAlgorithm[AveragedPlan]):
    """Projected subgradient ascent on the dual function with averaged plans,

        agent          x_i ∈ argmin_x∈X_i f_i(x) + ⟨λ, g_i(x)⟩,   x̄_i ← Σ_k α_k x_i,k / Σ_k α_k
        price-setter   λ ← Π(λ + α_k (Σ_i g_i(x_i) − b)),         α_k = α / (k + 1)^p

    For linear bids and other costs that are not strongly convex a single best response never clears the market, however good the
    price: it jumps. The averages do: their violation and their gap fall like O(1/Σα_k). An agent's answer is x̄_i, the price λ̄
    likewise. Slow and robust: the reference that other methods are measured against.

    Args:
        cohort: None, everybody: averages of different rounds do not add up.
        step_size: α, a number or `[m]`, a typical price over a typical quantity. Default: 1/(1 + |b_j|) of row j; where all
            costs are strongly convex 1/(ω M_jj), the safe step of dual ascent.
        power: p in (0, 1]; ½ is best for a fixed number of rounds.

    Naum Shor, *Minimization methods for non-differentiable functions*, 1985; Angelia Nedić, Asuman Ozdaglar, *Approximate primal
    solutions and rate analysis for dual subgradient methods*, SIAM Journal on Optimization 19, 2009.
    """

    cohort: Cohort | int | None = None
    step_size: EachRow | None = None
    power: Real = 0.5

    combine: ClassVar[dict[str, Combine]] = {"quantity": Rows()}
    needs: ClassVar[frozenset[str]] = frozenset({"everyone"})
    handles: ClassVar[frozenset[str]] = frozenset({"prices"})
    claims: ClassVar[Claims] = Claims(exact=True, rate="sublinear", theorem="Nedić and Ozdaglar 2009")

    def __check_init__(self):
        check_rows(self, "step_size")
        if isinstance(self.power, int | float) and not 0 < self.power <= 1:
            raise ValueError(f"DualSubgradient(power={self.power!r}): expected a number in (0, 1]")

    def resolve(self, facts: Facts) -> "DualSubgradient":
        if np.isfinite(facts.pricing.diagonal).all():  # a smooth dual, whose gradients grow: no step may be longer than is safe
            return row_steps(self, facts)
        return fill(self, step_size=1 / (1 + np.abs(facts.pricing.total)))

    def init_server(self, shared, x0) -> AveragedMarket:
        nothing = jnp.zeros_like(shared.coupling.total)
        return AveragedMarket(nothing, nothing, nothing, jnp.zeros((), nothing.dtype))

    def init_client(self, local, x0, context: ClientContext) -> AveragedPlan:
        plan = Plan.first(local, x0)
        return AveragedPlan(plan.x, plan.quantity, x0, jnp.zeros((), plan.quantity.dtype))

    def broadcast(self, server: AveragedMarket, context: ServerContext):
        return {"price": PerRow(server.price)}

    def work(self, local, client: AveragedPlan, received, context: ClientContext):
        answer = local.respond(received["price"], client.x)
        share, weight = self._average(client.weight, context.round)
        average = _towards(client.average, answer.x, share)
        change = answer.quantity - client.quantity
        state = AveragedPlan(answer.x, answer.quantity, average, weight)
        return state, {"quantity": change}, told(local, client.x, answer)

    def update(self, shared, server: AveragedMarket, aggregate, context: ServerContext):
        quantity = server.quantity + aggregate["quantity"]
        share, weight = self._average(server.weight, context.round)
        average = _towards(server.average, server.price, share)
        step = self.step_size / (context.round + 1).astype(quantity.dtype) ** self.power
        price = shared.coupling.project(server.price + step * (quantity - shared.coupling.total))
        return AveragedMarket(price, quantity, average, weight), residuals(shared, quantity)

    def estimate(self, server: AveragedMarket, client: AveragedPlan | None) -> Any:
        return server.average if client is None else client.average

    def _average(self, weight, k):
        """(the newest plan's share of the average, the weight of all)."""
        newest = 1 / (k + 1).astype(weight.dtype) ** self.power
        return newest / (weight + newest), weight + newest


def _towards(average, newest, share):
    return jax.tree.map(lambda a, x: a + share.astype(a.dtype) * (x - a), average, newest)
