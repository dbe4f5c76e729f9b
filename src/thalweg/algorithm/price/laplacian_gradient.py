"""Laplacian-gradient resource allocation: neighbours trade, and the sum never changes."""

from typing import Any, ClassVar

import equinox as eqx
import jax
from jaxtyping import Array, Float

from thalweg._trees import minus, plus
from thalweg.algorithm.base import Claims, Context, Facts, Info
from thalweg.algorithm.step import fill
from thalweg.message.combine import Combine, Mix

from .base import PricePeerAlgorithm
from .steps import EachRow, check_rows, network_spread


class Trader(eqx.Module):
    """`x`: the plan; `price` `[m]`, what a unit less of each row would be worth to the agent."""

    x: Any
    price: Float[Array, " m"]


class LaplacianGradient(PricePeerAlgorithm[Trader]):
    """Laplacian-gradient dynamics: neighbours trade, from the one to whom a unit is worth less to the one to whom it is worth more,

        x_i ← x_i − α Σ_j w_ij (∇f_i(x_i) − ∇f_j(x_j))

    from x_i(0) = b_i. What one agent gives, its neighbour takes, so that Σ_i x_i = b in every round, symmetric loss and sleeping
    agents included: it may be stopped at any time. Everybody's own price −∇f_i(x_i) is sent; at the limit they are equal.

    More generally g_i(x) = A_i x + c_i with A_i orthogonal (x itself, its negative, another order of its entries):
    λ_i = −A_i ∇f_i(x_i) and x_i ← x_i + α A_iᵀ Σ_j w_ij (λ_i − λ_j). Rows are equalities and there is no X_i, which a trade
    could leave.

    It is gradient descent on Σ f_i in the metric of I − W: with smooth costs the objective never rises for
    α < 2/(L (1 − λ_min(W))), and with strongly convex ones it falls linearly, at equal curvatures by the factors
    |1 − α h (1 − λ)|² over curvatures h and eigenvalues λ < 1 of W.

    Args:
        step_size: α, a number or `[m]`. Default: 2/(L (1 − λ_min) + μ (1 − σ)), the best for these factors.

    Lin Xiao, Stephen Boyd, *Optimal scaling of a gradient method for distributed resource allocation*, Journal of Optimization
    Theory and Applications 129, 2006; networks that change: Hariharan Lakshmanan, Daniela Pucci de Farias, *Decentralized
    resource allocation in dynamic networks of agents*, SIAM Journal on Optimization 19, 2008; in continuous time: Ashish
    Cherukuri, Jorge Cortés, *Distributed generator coordination for initialization and anytime optimization in economic
    dispatch*, IEEE Transactions on Control of Network Systems 2, 2015.
    """

    step_size: EachRow | None = None

    combine: ClassVar[dict[str, Combine]] = {"price": Mix()}
    needs: ClassVar[frozenset[str]] = frozenset({"doubly_stochastic", "symmetric", "smooth", "exchange"})
    handles: ClassVar[frozenset[str]] = frozenset({"prices"})
    exact_under: ClassVar[frozenset[str]] = frozenset({"symmetric", "asleep"})
    claims: ClassVar[Claims] = Claims(exact=True, rate="linear", theorem="Xiao and Boyd 2006")

    def __check_init__(self):
        check_rows(self, "step_size")

    def resolve(self, facts: Facts) -> "LaplacianGradient":
        slowest = facts.strong_convexity * (1 - facts.sigma)
        return fill(self, step_size=2 / (facts.smoothness * network_spread(facts) + slowest))

    def step_bound(self, facts: Facts) -> float:
        """2/(L (1 − λ_min))."""
        return 2 / (facts.smoothness * network_spread(facts))

    def init(self, local, x0, context: Context) -> Trader:
        return self._traded(local, x0, local.share - local.quantity(x0))

    def send(self, state: Trader, context: Context):
        return {"price": state.price}

    def receive(self, local, state: Trader, inbox, context: Context):
        after = self._traded(local, state.x, self.step_size * (state.price - inbox["price"]))
        return after, Info.of_gradient(after.price)

    def restart(self, local, state: Trader, context: Context) -> Trader:
        """From the shares again: what those who left had traded is not known."""
        return self.init(local, state.x, context)

    def estimate(self, state: Trader):
        return state.x

    def price(self, state: Trader):
        return state.price

    def _traded(self, local, x, more) -> Trader:
        """With g_i(x_i) changed by `more`."""
        _, back = jax.vjp(local.quantity, x)
        x = plus(x, back(more)[0])
        _, price = jax.jvp(local.quantity, (x,), (minus(jax.tree.map(lambda leaf: 0 * leaf, x), local.grad(x)),))
        return Trader(x, price)
