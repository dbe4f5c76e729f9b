"""Prediction–correction: the price goes on as it went, then is corrected by what it brought."""

from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from thalweg.algorithm.base import Claims, Facts
from thalweg.algorithm.server.base import ClientContext, ServerAlgorithm, ServerContext
from thalweg.algorithm.step import Real
from thalweg.cohort import Cohort
from thalweg.message.combine import Combine, PerRow, Rows

from .plan import Market, Plan, residuals, told
from .steps import EachRow, check_rows, row_steps


class PredictedMarket(Market):
    """As `Market`: `price` is the prediction for the coming round, `corrected` the price of the round before, corrected."""

    corrected: Float[Array, " m"]


class PredictionCorrection(ServerAlgorithm[Plan]):
    """Dual ascent that predicts, for optimal prices that move: λ*(kT), sampled with the period T,

        agent          x_i ← argmin_x∈X_i f_i(x) + ⟨λ, g_i(x)⟩
        price-setter   λ̂_k ← Π(λ + α (Σ_i g_i(x_i) − b_k))               correction, by the round's own data
                       λ ← Π(λ̂_k + β (λ̂_k − λ̂_(k−1)))                  prediction of the next round's price

    Extrapolated to first order in time, the price misses what λ* does in a period by its curvature alone, O(T²), where running
    `DualAscent` lags by O(T); a ramp is followed without any lag. It needs no model of what moves and no more messages. With β = 1
    a mode s of αM contracts by the roots of z² − 2(1 − s) z + (1 − s), of modulus √(1 − s) for s < 1: slower to settle than dual
    ascent, and more sensitive to noise.

    It is the price that is predicted. A plan is the best response of the round that made it, and behind the world by a period.

    Args:
        cohort: who answers in a round: a `tw.cohort` rule, a number of agents, or None for everybody.
        step_size: α, a number or `[m]`, one per row. Default: 1/(ω M_jj) of row j, as in `DualAscent`.
        extrapolation: β in [0, 1]; 0 is dual ascent.

    Stable for 0 < α < (1 + 1/(1 + 2β))/λmax(M), which is 4/(3 λmax(M)) at β = 1, M = Σ A_i H_i⁻¹ A_iᵀ; strongly convex costs.

    Andrea Simonetto, Emiliano Dall'Anese, *Prediction-correction algorithms for time-varying constrained optimization*, IEEE
    Transactions on Signal Processing 65, 2017; Andrea Simonetto, Emiliano Dall'Anese, Santiago Paternain, Geert Leus, Georgios
    Giannakis, *Time-varying convex optimization: time-structured algorithms and applications*, Proceedings of the IEEE 108, 2020;
    extrapolation in place of derivatives: Nicola Bastianello, Ruggero Carli, Andrea Simonetto, *Extrapolation-based
    prediction-correction methods for time-varying convex optimization*, Signal Processing 210, 2023.
    """

    cohort: Cohort | int | None = None
    step_size: EachRow | None = None
    extrapolation: Real = 1.0

    combine: ClassVar[dict[str, Combine]] = {"quantity": Rows()}
    needs: ClassVar[frozenset[str]] = frozenset({"strongly_convex"})
    handles: ClassVar[frozenset[str]] = frozenset({"prices"})
    claims: ClassVar[Claims] = Claims(exact=True, rate="linear", theorem="Simonetto et al. 2020")

    def __check_init__(self):
        check_rows(self, "step_size")
        if isinstance(self.extrapolation, int | float) and not 0 <= self.extrapolation <= 1:
            raise ValueError(f"PredictionCorrection(extrapolation={self.extrapolation!r}): expected a number in [0, 1]")

    def resolve(self, facts: Facts) -> "PredictionCorrection":
        return row_steps(self, facts)

    def step_bound(self, facts: Facts):
        """(1 + 1/(1 + 2β))/λmax(M)."""
        return (1 + 1 / (1 + 2 * self.extrapolation)) / facts.pricing.largest

    def init_server(self, shared, x0) -> PredictedMarket:
        nothing = jnp.zeros_like(shared.coupling.total)
        return PredictedMarket(nothing, nothing, nothing)

    def init_client(self, local, x0, context: ClientContext) -> Plan:
        return Plan.first(local, x0)

    def broadcast(self, server: PredictedMarket, context: ServerContext):
        return {"price": PerRow(server.price)}

    def work(self, local, client: Plan, received, context: ClientContext):
        answer = local.respond(received["price"], client.x)
        change = answer.quantity - client.quantity
        return Plan(answer.x, answer.quantity), {"quantity": change}, told(local, client.x, answer)

    def update(self, shared, server: PredictedMarket, aggregate, context: ServerContext):
        rows = shared.coupling
        quantity = server.quantity + aggregate["quantity"]
        corrected = rows.project(server.price + self.step_size * (quantity - rows.total))
        before = jnp.where(context.round == 0, corrected, server.corrected)
        price = rows.project(corrected + self.extrapolation * (corrected - before))
        return PredictedMarket(price, quantity, corrected), residuals(shared, quantity)

    def estimate(self, server: PredictedMarket, client: Plan | None) -> Any:
        return server.price if client is None else client.x
