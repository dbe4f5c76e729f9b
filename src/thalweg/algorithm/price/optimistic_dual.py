"""Optimistic dual ascent: the next excess is taken to change as the last one did."""

from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from thalweg.algorithm.base import Claims, Facts
from thalweg.algorithm.server.base import ClientContext, ServerAlgorithm, ServerContext
from thalweg.cohort import Cohort
from thalweg.message.combine import Combine, PerRow, Rows

from .plan import Market, Plan, residuals, told
from .steps import EachRow, check_rows, row_steps


class HopefulMarket(Market):
    """As `Market`, with the excess Σ g − b `before` this round's."""

    before: Float[Array, " m"]


class OptimisticDual(ServerAlgorithm[Plan]):
    """Optimistic gradient ascent on the dual function,

        agent          x_i ← argmin_x∈X_i f_i(x) + ⟨λ, g_i(x)⟩
        price-setter   λ ← Π(λ + α (2 e_k − e_(k−1))),   e_k = Σ_i g_i(x_i) − b in round k

    which is what `ExtragradientDual` does, with one message instead of two: the excess of the round before stands for the look
    ahead. On quadratic costs a mode of M with eigenvalue m contracts by the roots of z² − (1 − 2αm) z − αm. Where the world drifts
    it is cautious against excesses that swing to and fro; behind a steady drift it lags as far as `DualAscent` with the same α.

    Args:
        cohort: who answers in a round: a `tw.cohort` rule, a number of agents, or None for everybody.
        step_size: α, a number or `[m]`, one per row. Default: ⅓/(ω M_jj) of row j (ω as in `DualAscent`), half the bound.

    Stable for 0 < α < 2/(3 λmax(M)), M = Σ A_i H_i⁻¹ A_iᵀ; strongly convex costs.

    Leonid Popov, *A modification of the Arrow–Hurwicz method for search of saddle points*, Mathematical Notes 28, 1980; Alexander
    Rakhlin, Karthik Sridharan, *Online learning with predictable sequences*, COLT 2013; Aryan Mokhtari, Asuman Ozdaglar, Sarath
    Pattathil, *A unified analysis of extra-gradient and optimistic gradient methods for saddle point problems*, AISTATS 2020.
    """

    cohort: Cohort | int | None = None
    step_size: EachRow | None = None

    combine: ClassVar[dict[str, Combine]] = {"quantity": Rows()}
    needs: ClassVar[frozenset[str]] = frozenset({"strongly_convex"})
    handles: ClassVar[frozenset[str]] = frozenset({"prices"})
    claims: ClassVar[Claims] = Claims(exact=True, rate="linear", theorem="Mokhtari, Ozdaglar and Pattathil 2020")

    def __check_init__(self):
        check_rows(self, "step_size")

    def resolve(self, facts: Facts) -> "OptimisticDual":
        return row_steps(self, facts, 1 / 3)

    def step_bound(self, facts: Facts):
        """2/(3 λmax(M))."""
        return 2 / (3 * facts.pricing.largest)

    def init_server(self, shared, x0) -> HopefulMarket:
        nothing = jnp.zeros_like(shared.coupling.total)
        return HopefulMarket(nothing, nothing, nothing)

    def init_client(self, local, x0, context: ClientContext) -> Plan:
        return Plan.first(local, x0)

    def broadcast(self, server: HopefulMarket, context: ServerContext):
        return {"price": PerRow(server.price)}

    def work(self, local, client: Plan, received, context: ClientContext):
        answer = local.respond(received["price"], client.x)
        change = answer.quantity - client.quantity
        return Plan(answer.x, answer.quantity), {"quantity": change}, told(local, client.x, answer)

    def update(self, shared, server: HopefulMarket, aggregate, context: ServerContext):
        quantity = server.quantity + aggregate["quantity"]
        excess = quantity - shared.coupling.total
        before = jnp.where(context.round == 0, excess, server.before)
        price = shared.coupling.project(server.price + self.step_size * (2 * excess - before))
        return HopefulMarket(price, quantity, excess), residuals(shared, quantity)

    def estimate(self, server: HopefulMarket, client: Plan | None) -> Any:
        return server.price if client is None else client.x
