"""Tracking-ADMM: ADMM without a price-setter, since neighbours track what is left over."""

from typing import Any, ClassVar

import equinox as eqx
from jaxtyping import Array, Float

from thalweg.algorithm.base import Claims, Context, Facts, Info
from thalweg.message.combine import Combine, Mix

from .base import PricePeerAlgorithm
from .steps import EachRow, check_rows, row_penalties


class TrackedPlan(eqx.Module):
    """`x`: the plan; `quantity` g_i(x_i), `price` λ_i, `left` d_i and `slack` s_i of inequalities, all `[m]`."""

    x: Any
    quantity: Float[Array, " m"]
    price: Float[Array, " m"]
    left: Float[Array, " m"]
    slack: Float[Array, " m"]


class TrackingADMM(PricePeerAlgorithm[TrackedPlan]):
    """Tracking-ADMM: each agent mixes what its neighbours think of the price and of the excess per agent, and plans near that,

        ℓ_i = Σ_j w_ij λ_j,   δ_i = Σ_j w_ij d_j
        x_i ← argmin_x∈X_i f_i(x) + ⟨ℓ_i, g_i(x)⟩ + ½ρ‖g_i(x) − g_i(x_i) + δ_i‖²
        d_i ← δ_i + g_i(x_i) − g_i(x_i, previous)
        λ_i ← ℓ_i + ρ d_i

    with λ_i(0) = 0 and d_i(0) = g_i(x_i(0)) − b_i, so that mean(d) = (Σ g_i(x_i) − b)/n in every round. Costs need be convex only
    (X_i compact, or costs that grow): linear bids do not jump, since the quadratic term holds them. Every ρ > 0 will do. With
    w_ij = 1/n it is `ExchangeADMM`.

    A row that is an inequality has a second member at every agent, the slack s_i of the right sign, with the weights w_ij/2
    between any two members of i and j: the method on a network of 2n. Its best response is in closed form, and what both
    members know is kept as their mean.

    Args:
        penalty: ρ, a number or `[m]`. Default: (1 − σ) n/M_jj, n/M_jj the harmonic mean of the costs' curvature along row j (rows
            need no other scaling then), or 1 where a cost is not strongly convex. Prices that spread slowly must move slowly,
            hence 1 − σ.

    The proof is for a network that does not change. Under symmetric loss and with sleeping agents the mean of d stays what it
    is, and the fixed points are the same; it converges there in all tests.

    Alessandro Falsone, Ivano Notarnicola, Giuseppe Notarstefano, Maria Prandini, *Tracking-ADMM for distributed
    constraint-coupled optimization*, Automatica 117, 2020.
    """

    penalty: EachRow | None = None

    combine: ClassVar[dict[str, Combine]] = {"price": Mix(), "left": Mix()}
    needs: ClassVar[frozenset[str]] = frozenset({"doubly_stochastic", "symmetric"})
    handles: ClassVar[frozenset[str]] = frozenset({"prices"})
    exact_under: ClassVar[frozenset[str]] = frozenset({"symmetric", "asleep"})
    claims: ClassVar[Claims] = Claims(
        exact=True, rate="linear", theorem="Falsone, Notarnicola, Notarstefano and Prandini 2020 (convergence)"
    )

    def __check_init__(self):
        check_rows(self, "penalty")

    def resolve(self, facts: Facts) -> "TrackingADMM":
        return row_penalties(self, facts, part=1 - facts.sigma)

    def init(self, local, x0, context: Context) -> TrackedPlan:
        return self._begin(local, x0, 0 * local.share)

    def send(self, state: TrackedPlan, context: Context):
        return {"price": state.price, "left": state.left}

    def receive(self, local, state: TrackedPlan, inbox, context: Context):
        price, left, rows = inbox["price"], inbox["left"], local.public
        penalty = self.penalty + 0 * price
        answer = local.respond(price, state.x, penalty=penalty, target=state.quantity - left)
        slack = rows.slack(state.slack - left - price / penalty)
        left = left + self._shared(rows, answer.quantity - state.quantity + (slack - state.slack))
        return TrackedPlan(answer.x, answer.quantity, price + penalty * left, left, slack), Info.none()

    def restart(self, local, state: TrackedPlan, context: Context) -> TrackedPlan:
        return self._begin(local, state.x, state.price)

    def estimate(self, state: TrackedPlan):
        return state.x

    def price(self, state: TrackedPlan):
        return state.price

    def _begin(self, local, x, price) -> TrackedPlan:
        quantity = local.quantity(x)
        return TrackedPlan(x, quantity, price, self._shared(local.public, quantity - local.share), 0 * price)

    def _shared(self, rows, excess):
        """Per member of a row: an inequality has two at every agent."""
        return excess / (1 + rows.inequality.astype(excess.dtype))
