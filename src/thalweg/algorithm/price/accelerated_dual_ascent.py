"""Dual ascent with momentum and restarts."""

from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from thalweg.algorithm.base import Claims, Facts
from thalweg.algorithm.server.base import ClientContext, ServerAlgorithm, ServerContext
from thalweg.cohort import Cohort
from thalweg.message.combine import Combine, PerRow, Rows

from .plan import Market, Plan, residuals, told
from .steps import EachRow, check_rows, row_steps


class MomentumMarket(Market):
    """As `Market`; `price` is λ, `ahead` the price that is broadcast, `t` Nesterov's sequence."""

    ahead: Float[Array, " m"]
    t: Float[Array, ""]


class AcceleratedDualAscent(ServerAlgorithm[Plan]):
    """Nesterov's accelerated gradient method on the dual function, restarted when its momentum points downhill,

        agent          x_i ← argmin_x∈X_i f_i(x) + ⟨y, g_i(x)⟩
        price-setter   λ⁺ ← Π(y + α (Σ_i g_i(x_i) − b)),   t⁺ ← (1 + √(1 + 4t²))/2,   y ← λ⁺ + (t − 1)/t⁺ (λ⁺ − λ)

    The dual value falls short by O(1/k²) on any concave smooth dual; with restarts, linearly by about 1 − 1/√κ where it is
    strongly concave, without knowing κ. Everybody must answer in every round.

    Args:
        cohort: None, everybody.
        step_size: α, a number or `[m]`, one per row. Default: 1/(ω M_jj) as in `DualAscent`.

    Yurii Nesterov, *A method for solving the convex programming problem with convergence rate O(1/k²)*, 1983; Amir Beck, Marc
    Teboulle, *A fast dual proximal gradient algorithm for convex minimization and applications*, Operations Research Letters
    42, 2014; Brendan O'Donoghue, Emmanuel Candès, *Adaptive restart for accelerated gradient schemes*, Foundations of
    Computational Mathematics 15, 2015.
    """

    cohort: Cohort | int | None = None
    step_size: EachRow | None = None

    combine: ClassVar[dict[str, Combine]] = {"quantity": Rows()}
    needs: ClassVar[frozenset[str]] = frozenset({"strongly_convex", "everyone"})
    handles: ClassVar[frozenset[str]] = frozenset({"prices"})
    claims: ClassVar[Claims] = Claims(exact=True, rate="linear", theorem="Beck and Teboulle 2014")

    def __check_init__(self):
        check_rows(self, "step_size")

    def resolve(self, facts: Facts) -> "AcceleratedDualAscent":
        return row_steps(self, facts)

    def step_bound(self, facts: Facts):
        """1/λmax(M), up to rounding."""
        return 1.0001 / facts.pricing.largest

    def init_server(self, shared, x0) -> MomentumMarket:
        nothing = jnp.zeros_like(shared.coupling.total)
        return MomentumMarket(nothing, nothing, nothing, jnp.ones((), nothing.dtype))

    def init_client(self, local, x0, context: ClientContext) -> Plan:
        return Plan.first(local, x0)

    def broadcast(self, server: MomentumMarket, context: ServerContext):
        return {"price": PerRow(server.ahead)}

    def work(self, local, client: Plan, received, context: ClientContext):
        answer = local.respond(received["price"], client.x)
        change = answer.quantity - client.quantity
        return Plan(answer.x, answer.quantity), {"quantity": change}, told(local, client.x, answer)

    def update(self, shared, server: MomentumMarket, aggregate, context: ServerContext):
        quantity = server.quantity + aggregate["quantity"]
        price = shared.coupling.project(server.ahead + self.step_size * (quantity - shared.coupling.total))
        # In the metric of the step sizes, the ascent direction of this round is (λ⁺ − y)/α.
        uphill = jnp.sum((price - server.ahead) * (price - server.price) / self.step_size) >= 0
        t = jnp.where(uphill, server.t, 1)
        following = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
        ahead = price + jnp.where(uphill, (t - 1) / following, 0) * (price - server.price)
        return MomentumMarket(price, quantity, ahead, following), residuals(shared, quantity)

    def estimate(self, server: MomentumMarket, client: Plan | None) -> Any:
        return server.ahead if client is None else client.x

    def warm_server(self, shared, server: MomentumMarket, price, quantity) -> MomentumMarket:
        return MomentumMarket(price, quantity, price, server.t)

    def warm_client(self, local, client: Plan, x, price) -> Plan:
        return Plan(x, local.quantity(x))
