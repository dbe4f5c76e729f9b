"""Exchange ADMM: agents plan against a price, and near what is left for them."""

from typing import Any, ClassVar, Literal

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from thalweg.algorithm.base import Claims, Facts
from thalweg.algorithm.server.base import ClientContext, ServerAlgorithm, ServerContext
from thalweg.algorithm.step import Real, Whole
from thalweg.cohort import Cohort
from thalweg.message.combine import Combine, PerRow, Rows, Sum

from .plan import Plan, accuracy, told
from .steps import EachRow, check_rows, row_penalties


class Answered(Plan):
    """As `Plan`, with the multiplier λ̂ = λ + ρ(g(x) − target) that the answer showed, and its own quantity g(x)."""

    multiplier: Float[Array, " r"]
    own: Float[Array, " r"]


class Exchange(eqx.Module):
    """The price-setter: `price`, `quantity` Σ q_i, `slack` s of inequalities, `left` r̄, all `[m]`; `factor` of the penalty."""

    price: Float[Array, " m"]
    quantity: Float[Array, " m"]
    slack: Float[Array, " m"]
    left: Float[Array, " m"]
    factor: Float[Array, ""]


class ExchangeADMM(ServerAlgorithm[Answered]):
    """ADMM in exchange form (sharing with h the indicator of the rows), with N_j the number of agents that touch row j,

        agent          x_i ← argmin_x∈X_i f_i(x) + ⟨λ, g_i(x)⟩ + ½ρ‖g_i(x) − (q_i − r̄)‖²
                       q_i ← γ g_i(x_i) + (1 − γ)(q_i − r̄)
        price-setter   r̄ ← (Σ_i q_i + s − b)/N,   λ ← λ + ρ r̄

    A row that is an inequality has one agent more, the slack s of the right sign, whose best response the price-setter computes
    itself; the price then has the right sign at the limit. Costs need be convex only: linear bids do not jump, since the
    quadratic term holds them. With f_i of equal curvature a along the rows it contracts by max(a, ρ)/(a + ρ).

    Sharing, Σ f_i(x_i) + h(Σ g_i(x_i)): make h the cost of one more agent, with the quantity −z.

    Args:
        cohort: who answers in a round, None: everybody. Who does not keeps its last plan; convergence is proved for everybody.
            With answers lost at random it converges in all tests, though there is no proof. With few agents in each round, and
            some much flatter than the others, it may not, nor with γ > 1: give such a cohort γ ≤ 1 and a small penalty.
        penalty: ρ, a number or `[m]`. Default: n_j/M_jj, the harmonic mean of the costs' curvature along row j (rows need no
            other scaling then); 1 where a cost is not strongly convex.
        relaxation: γ in (0, 2); 1 is plain ADMM, 1.5 to 1.8 is faster nearly always, above 1 only where everybody answers.
        adaptive: "balance": ρ ← 2ρ or ρ/2 where primal and dual residual differ by more than `balance`; "spectral": ρ from the
            curvature that the last answers showed (Barzilai and Borwein), and as "balance" where they showed none; None: as it is.
        balance: see there.
        every: rounds between two changes of ρ.
        adaptive_rounds: after so many rounds ρ stays as it is, without which convergence is not proved.
        tolerance: of best responses without closed form: tolerance/(k + 1)² in round k, coarse at first and summable, so that the
            limit is exact; None: the solver's own in every round.

    In the history: primal residual √(Σ_j N_j r̄_j²), dual residual √Σ_i ‖ρ(z_i − z_i')‖² with z_i = q_i − r̄, and the factor of ρ.

    Stephen Boyd, Neal Parikh, Eric Chu, Borja Peleato, Jonathan Eckstein, *Distributed optimization and statistical learning via
    the alternating direction method of multipliers*, 2011, §7.3; Zheng Xu, Mário Figueiredo, Tom Goldstein, *Adaptive ADMM with
    spectral penalty parameter selection*, AISTATS 2017.
    """

    cohort: Cohort | int | None = None
    penalty: EachRow | None = None
    relaxation: Real = 1.0
    adaptive: Literal["balance", "spectral"] | None = eqx.field(static=True, default="balance")
    balance: Real = 2.0
    every: Whole = 3
    adaptive_rounds: Whole = 200
    tolerance: Real | None = None

    combine: ClassVar[dict[str, Combine]] = {"quantity": Rows(), "square": Rows(), "curvature": Sum()}
    handles: ClassVar[frozenset[str]] = frozenset({"prices"})
    exact_under: ClassVar[frozenset[str]] = frozenset({"dropout"})
    claims: ClassVar[Claims] = Claims(exact=True, rate="linear", theorem="Boyd et al. 2011, §3.2 and §7.3")

    def __check_init__(self):
        check_rows(self, "penalty")
        if isinstance(self.relaxation, int | float) and not 0 < self.relaxation < 2:
            raise ValueError(f"ExchangeADMM(relaxation={self.relaxation!r}): expected a number in (0, 2); 1 is plain ADMM")
        if self.adaptive not in ("balance", "spectral", None):
            raise ValueError(f"ExchangeADMM(adaptive={self.adaptive!r}): expected 'balance', 'spectral' or None")

    def resolve(self, facts: Facts) -> "ExchangeADMM":
        return row_penalties(self, facts)

    def init_server(self, shared, x0) -> Exchange:
        nothing = jnp.zeros_like(shared.coupling.total)
        return Exchange(nothing, nothing, nothing, nothing, jnp.ones((), nothing.dtype))

    def init_client(self, local, x0, context: ClientContext) -> Answered:
        nothing = jnp.zeros_like(local.share)
        return Answered(x0, nothing, nothing, nothing)

    def broadcast(self, server: Exchange, context: ServerContext):
        penalty = jnp.broadcast_to(server.factor * self.penalty, server.price.shape).astype(server.price.dtype)
        message = {"price": PerRow(server.price), "left": PerRow(server.left), "penalty": PerRow(penalty)}
        return message | {"scale": PerRow(penalty / server.factor)} if self.adaptive == "spectral" else message

    def work(self, local, client: Answered, received, context: ClientContext):
        target = client.quantity - received["left"]
        penalty = received["penalty"]
        found = accuracy(self.tolerance, context)
        answer = local.respond(received["price"], client.x, penalty=penalty, target=target, tolerance=found)
        quantity = self.relaxation * answer.quantity + (1 - self.relaxation) * target
        change = quantity - client.quantity
        multiplier = received["price"] + penalty * (answer.quantity - target)
        message = {"quantity": change, "square": change**2}
        if self.adaptive == "spectral":
            message["curvature"] = _shown(multiplier - client.multiplier, answer.quantity - client.own, received["scale"])
        return Answered(answer.x, quantity, multiplier, answer.quantity), message, told(local, client.x, answer)

    def update(self, shared, server: Exchange, aggregate, context: ServerContext):
        rows = shared.coupling
        penalty = server.factor * self.penalty
        members = rows.touching + rows.inequality
        quantity = server.quantity + aggregate["quantity"]
        # The slack answers like an agent: argmin λs + ½ρ(s − (s' − r̄))² over the sign that the sense allows.
        slack = rows.slack(server.slack - server.left - server.price / penalty)
        left = (quantity + slack - rows.total) / members
        price = server.price + penalty * left
        # Σ_i ‖z_i − z_i'‖² = Σ‖Δq_i‖² − 2⟨Δr̄, ΣΔq_i⟩ + N‖Δr̄‖², row by row, slack included.
        moved, turned = left - server.left, slack - server.slack
        square = aggregate["square"] + turned**2 - 2 * moved * (aggregate["quantity"] + turned) + members * moved**2
        primal = jnp.sqrt(jnp.sum(penalty * members * left**2))
        dual = jnp.sqrt(jnp.sum(penalty * jnp.maximum(square, 0)))
        factor = self._adapted(server.factor, primal, dual, aggregate.get("curvature"), context)
        state = Exchange(price, quantity, slack, left, factor)
        return state, {"primal_residual": primal, "dual_residual": dual, "penalty_factor": factor}

    def estimate(self, server: Exchange, client: Answered | None) -> Any:
        return server.price if client is None else client.x

    def warm_server(self, shared, server: Exchange, price, quantity) -> Exchange:
        rows = shared.coupling
        slack = rows.slack(rows.total - quantity)
        left = (quantity + slack - rows.total) / (rows.touching + rows.inequality)
        return Exchange(price, quantity, slack, left, server.factor)

    def warm_client(self, local, client: Answered, x, price) -> Answered:
        quantity = local.quantity(x)
        return Answered(x, quantity, price, quantity)

    def _adapted(self, factor, primal, dual, curvature, context):
        if self.adaptive is None:
            return factor
        now = ((context.round + 1) % self.every == 0) & (context.round < self.adaptive_rounds)
        up, down = now & (primal > self.balance * dual), now & (dual > self.balance * primal)
        balanced = factor * jnp.where(up, 2, jnp.where(down, 0.5, 1)).astype(factor.dtype)
        if self.adaptive == "balance":
            return balanced
        steepest, both, flattest = curvature
        tiny = jnp.finfo(factor.dtype).tiny
        long, short = steepest / jnp.maximum(both, tiny), both / jnp.maximum(flattest, tiny)
        found = jnp.where(2 * short > long, short, long - short / 2)
        sure = both > 0.2 * jnp.sqrt(steepest * flattest)
        return jnp.where(now & sure & (found > 0) & jnp.isfinite(found), found, balanced)


def _shown(multiplier, quantity, scale):
    """Of a change of an answer: ‖Δλ̂‖² in the metric 1/scale, −⟨Δλ̂, Δg⟩, ‖Δg‖² in the metric of scale."""
    touched = scale > 0  # an agent with fewer rows than others hears 0 for those that it has not
    steep = jnp.where(touched, multiplier**2 / jnp.where(touched, scale, 1), 0)
    return jnp.stack([jnp.sum(steep), -jnp.sum(multiplier * quantity), jnp.sum(scale * quantity**2)])
