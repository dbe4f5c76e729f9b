"""Extragradient on the dual: look ahead, then step from where one stood."""

from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from thalweg.algorithm.base import Claims, Facts
from thalweg.algorithm.server.base import ClientContext, ServerAlgorithm, ServerContext
from thalweg.cohort import Cohort
from thalweg.message.combine import Combine, PerRow, Rows

from .plan import Market, Plan, residuals, told
from .steps import EachRow, check_rows, row_steps


class AheadMarket(Market):
    """As `Market`, with the price `ahead` that agents are asked about in the second phase."""

    ahead: Float[Array, " m"]


class ExtragradientDual(ServerAlgorithm[Plan]):
    """Extragradient ascent on the dual function, two exchanges a round,

        look           λ̂ ← Π(λ + α (Σ_i g_i(x_i(λ)) − b))
        step           λ ← Π(λ + α (Σ_i g_i(x_i(λ̂)) − b))

    where x_i(λ) is agent i's best response. On quadratic costs the error of a mode of M with eigenvalue m contracts by
    1 − αm + (αm)², against 1 − αm of `DualAscent` at the same step: it is the safer rule (an approximate proximal step, which needs
    no more than a monotone, Lipschitz response), not the faster one, and costs two messages. An agent's plan is its answer to λ̂.

    Args:
        cohort: None, everybody: both answers must be of the same agents.
        step_size: α, a number or `[m]`, one per row. Default: ½/(ω M_jj) of row j (ω as in `DualAscent`), the best factor, ¾, for
            the steepest mode.

    Stable for 0 < α < 1/λmax(M), M = Σ A_i H_i⁻¹ A_iᵀ; strongly convex costs.

    Galina Korpelevich, *The extragradient method for finding saddle points and other problems*, Ekonomika i Matematicheskie
    Metody 12, 1976; Francisco Facchinei, Jong-Shi Pang, *Finite-dimensional variational inequalities and complementarity
    problems*, 2003, §12.1.
    """

    cohort: Cohort | int | None = None
    step_size: EachRow | None = None

    combine: ClassVar[dict[str, Combine]] = {"quantity": Rows()}
    phases: ClassVar[tuple[str, ...]] = ("look", "step")
    needs: ClassVar[frozenset[str]] = frozenset({"strongly_convex", "everyone"})
    handles: ClassVar[frozenset[str]] = frozenset({"prices"})
    claims: ClassVar[Claims] = Claims(exact=True, rate="linear", theorem="Korpelevich 1976")

    def __check_init__(self):
        check_rows(self, "step_size")

    def resolve(self, facts: Facts) -> "ExtragradientDual":
        return row_steps(self, facts, 0.5)

    def step_bound(self, facts: Facts):
        """1/λmax(M)."""
        return 1 / facts.pricing.largest

    def init_server(self, shared, x0) -> AheadMarket:
        nothing = jnp.zeros_like(shared.coupling.total)
        return AheadMarket(nothing, nothing, nothing)

    def init_client(self, local, x0, context: ClientContext) -> Plan:
        return Plan.first(local, x0)

    def broadcast(self, server: AheadMarket, context: ServerContext):
        return {"price": PerRow(server.price if context.phase == "look" else server.ahead)}

    def work(self, local, client: Plan, received, context: ClientContext):
        answer = local.respond(received["price"], client.x)
        change = answer.quantity - client.quantity
        return Plan(answer.x, answer.quantity), {"quantity": change}, told(local, client.x, answer)

    def update(self, shared, server: AheadMarket, aggregate, context: ServerContext):
        quantity = server.quantity + aggregate["quantity"]
        moved = shared.coupling.project(server.price + self.step_size * (quantity - shared.coupling.total))
        price = server.price if context.phase == "look" else moved
        return AheadMarket(price, quantity, moved), residuals(shared, quantity)

    def estimate(self, server: AheadMarket, client: Plan | None) -> Any:
        return server.price if client is None else client.x
