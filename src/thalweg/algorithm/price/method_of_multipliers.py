"""Method of multipliers: the augmented Lagrangian, minimised by all agents at once before the price moves."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from thalweg.algorithm.base import Claims, Facts
from thalweg.algorithm.server.base import ClientContext, ServerAlgorithm, ServerContext
from thalweg.algorithm.step import Real, Whole
from thalweg.cohort import Cohort
from thalweg.message.combine import Combine, PerRow, Rows

from .plan import Market, Plan, residuals, told
from .steps import EachRow, check_rows, row_penalties


class Multipliers(Market):
    """As `Market`, with the residual `left` = Σ_i q_i + s − b `[m]`, s the best slack of inequalities."""

    left: Float[Array, " m"]


class MethodOfMultipliers(ServerAlgorithm[Plan]):
    """Method of multipliers with diagonal quadratic approximation: `inner` rounds of

        agent          x̂_i ← argmin_x∈X_i f_i(x) + ⟨λ, g_i(x)⟩ + ½ρ‖g_i(x) − g_i(x_i) + Σ_l g_l(x_l) + s − b‖²
                       x_i ← x_i + τ (x̂_i − x_i)

    then one of λ ← Π(λ + ρ (Σ_i g_i(x_i) − b)). The quadratic couples all agents; each of them takes the others' plans as they
    were and goes a part τ of the way, which is safe for τ ≤ 1/N, N the largest number of agents on a row. The outer method
    converges for every ρ > 0 and needs no strong convexity; the inner one takes about N rounds. For few agents with hard
    coupling; for many, `ExchangeADMM` divides the quadratic term among them instead.

    Args:
        cohort: None, everybody.
        penalty: ρ, a number or `[m]`. Default: 1/M_jj of row j; 1 where a cost is not strongly convex.
        inner: rounds between two changes of the price.
        damping: τ in (0, 1]. Default: 1/N.

    Magnus Hestenes, *Multiplier and gradient methods*, Journal of Optimization Theory and Applications 4, 1969; Andrzej
    Ruszczyński, *On convergence of an augmented Lagrangian decomposition method for sparse convex optimization*, Mathematics of
    Operations Research 20, 1995.
    """

    cohort: Cohort | int | None = None
    penalty: EachRow | None = None
    inner: Whole = 10
    damping: Real | None = None

    combine: ClassVar[dict[str, Combine]] = {"quantity": Rows()}
    needs: ClassVar[frozenset[str]] = frozenset({"everyone"})
    handles: ClassVar[frozenset[str]] = frozenset({"prices"})
    claims: ClassVar[Claims] = Claims(exact=True, rate="linear", theorem="Ruszczyński 1995")

    def __check_init__(self):
        check_rows(self, "penalty")
        if isinstance(self.inner, int) and self.inner < 1:
            raise ValueError(f"MethodOfMultipliers(inner={self.inner}): expected at least 1")
        if isinstance(self.damping, int | float) and not 0 < self.damping <= 1:
            raise ValueError(f"MethodOfMultipliers(damping={self.damping!r}): expected a number in (0, 1]")

    def resolve(self, facts: Facts) -> "MethodOfMultipliers":
        largest = float(facts.pricing.touching.max())
        chosen = row_penalties(self, facts, share=True)
        return eqx.tree_at(
            lambda a: a.damping, chosen, 1 / largest if self.damping is None else self.damping, is_leaf=lambda v: v is None
        )

    def init_server(self, shared, x0) -> Multipliers:
        nothing = jnp.zeros_like(shared.coupling.total)
        return Multipliers(nothing, nothing, self._left(shared.coupling, nothing, nothing))

    def init_client(self, local, x0, context: ClientContext) -> Plan:
        return Plan.first(local, x0)

    def broadcast(self, server: Multipliers, context: ServerContext):
        penalty = jnp.broadcast_to(self.penalty, server.price.shape).astype(server.price.dtype)
        return {"price": PerRow(server.price), "left": PerRow(server.left), "penalty": PerRow(penalty)}

    def work(self, local, client: Plan, received, context: ClientContext):
        target = client.quantity - received["left"]
        answer = local.respond(received["price"], client.x, penalty=received["penalty"], target=target)
        x = jax.tree.map(lambda old, new: old + jnp.asarray(self.damping, old.dtype) * (new - old), client.x, answer.x)
        quantity = local.quantity(x)
        return Plan(x, quantity), {"quantity": quantity - client.quantity}, told(local, client.x, answer)

    def update(self, shared, server: Multipliers, aggregate, context: ServerContext):
        rows = shared.coupling
        quantity = server.quantity + aggregate["quantity"]
        moved = rows.project(server.price + self.penalty * (quantity - rows.total))
        price = jnp.where((context.round + 1) % self.inner == 0, moved, server.price)
        return Multipliers(price, quantity, self._left(rows, quantity, price)), residuals(shared, quantity)

    def estimate(self, server: Multipliers, client: Plan | None) -> Any:
        return server.price if client is None else client.x

    def _left(self, rows, quantity, price):
        slack = rows.slack(rows.total - quantity - price / self.penalty)
        return quantity + slack - rows.total
