"""Dual ascent: the price rises where too much is asked for, and falls where too little."""

from typing import Any, ClassVar

from thalweg.algorithm.base import Claims, Facts
from thalweg.algorithm.server.base import ClientContext, ServerAlgorithm, ServerContext
from thalweg.algorithm.step import Real
from thalweg.cohort import Cohort
from thalweg.message.combine import Combine, PerRow, Rows

from .plan import Market, Plan, accuracy, residuals, told
from .steps import EachRow, check_rows, row_steps


class DualAscent(ServerAlgorithm[Plan]):
    """Dual ascent (tâtonnement): gradient ascent on the dual function, whose gradient is Σ_i g_i(x_i) − b,

        agent          x_i ← argmin_x∈X_i f_i(x) + ⟨λ, g_i(x)⟩
        price-setter   λ ← Π(λ + α (Σ_i g_i(x_i) − b))

    with Π onto the prices that a row's sense allows. With M = Σ A_i H_i⁻¹ A_iᵀ it converges for 0 < α < 2/λmax(M), by the factor
    (κ − 1)/(κ + 1) at best, κ that of M. An agent sends the change of its quantity against the last one that was accepted: who
    does not answer keeps its plan.

    Needs strongly convex costs: else best responses jump, and no plan of a price is feasible. (`ExchangeADMM`, `DualSubgradient`.)

    Args:
        cohort: who answers in a round: a `tw.cohort` rule, a number of agents, or None for everybody.
        step_size: α, a number or `[m]`, one per row. Default: 1/(ω M_jj) of row j, with ω = λmax(D^−½ M D^−½), D = diag(M): the
            bound's half, whatever the rows' units; times p/(2 − p) where a part p of the agents answers in a round.

    Under partial participation a price goes on moving by answers to an older one. Let a single agent respond, and answer with
    probability p: between two answers the error is multiplied by 1 − θT, T geometric with mean 1/p and θ = αM, whose mean square
    is below 1 exactly for θ < 2p/(2 − p). The default is half of that; with a given step nothing is made smaller.
        tolerance: of best responses without closed form: tolerance/(k + 1)² in round k, coarse at first and summable, so that the
            limit is exact; None: the solver's own in every round.

    Leon Walras, *Éléments d'économie politique pure*, 1874; Kenneth Arrow, Leonid Hurwicz, Hirofumi Uzawa, *Studies in linear
    and non-linear programming*, 1958.
    """

    cohort: Cohort | int | None = None
    step_size: EachRow | None = None
    tolerance: Real | None = None

    combine: ClassVar[dict[str, Combine]] = {"quantity": Rows()}
    needs: ClassVar[frozenset[str]] = frozenset({"strongly_convex"})
    handles: ClassVar[frozenset[str]] = frozenset({"prices"})
    exact_under: ClassVar[frozenset[str]] = frozenset({"partial", "dropout"})
    claims: ClassVar[Claims] = Claims(exact=True, rate="linear", theorem="gradient ascent on a smooth concave function")

    def __check_init__(self):
        check_rows(self, "step_size")

    def resolve(self, facts: Facts) -> "DualAscent":
        return row_steps(self, facts, facts.participation / (2 - facts.participation))

    def step_bound(self, facts: Facts):
        """2/λmax(M)."""
        return 2 / facts.pricing.largest

    def init_server(self, shared, x0) -> Market:
        return Market.first(shared)

    def init_client(self, local, x0, context: ClientContext) -> Plan:
        return Plan.first(local, x0)

    def broadcast(self, server: Market, context: ServerContext):
        return {"price": PerRow(server.price)}

    def work(self, local, client: Plan, received, context: ClientContext):
        answer = local.respond(received["price"], client.x, tolerance=accuracy(self.tolerance, context))
        change = answer.quantity - client.quantity
        return Plan(answer.x, answer.quantity), {"quantity": change}, told(local, client.x, answer)

    def update(self, shared, server: Market, aggregate, context: ServerContext):
        quantity = server.quantity + aggregate["quantity"]
        price = shared.coupling.project(server.price + self.step_size * (quantity - shared.coupling.total))
        return Market(price, quantity), residuals(shared, quantity)

    def estimate(self, server: Market, client: Plan | None) -> Any:
        return server.price if client is None else client.x

    def warm_server(self, shared, server: Market, price, quantity) -> Market:
        return Market(price, quantity)

    def warm_client(self, local, client: Plan, x, price) -> Plan:
        return Plan(x, local.quantity(x))
