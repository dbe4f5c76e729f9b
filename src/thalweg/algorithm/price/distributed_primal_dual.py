"""Distributed primal-dual: a gradient step and a projection for the plan, consensus on the price, exact with constant steps."""

import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from thalweg._trees import axpy
from thalweg.algorithm.base import Claims, Context, Facts, Info
from thalweg.algorithm.step import PerAgent, Real
from thalweg.message.combine import Combine, Mix

from .base import PricePeerAlgorithm
from .steps import EachRow, check_rows, network_spread, row_penalties

# How the condition on the steps is divided between the couplings by prices and by the network.
NETWORK_PART = 0.5
# Of the costs' curvature along a row, the default price step.
PRICE_PART = 1 / 6


class PrimalDual(eqx.Module):
    """`x`: the plan; `quantity` g_i(x_i), `price` λ_i, `flow` v_i, what neighbours take over from agent i, all `[m]`."""

    x: Any
    quantity: Float[Array, " m"]
    price: Float[Array, " m"]
    flow: Float[Array, " m"]


class DistributedPrimalDual(PricePeerAlgorithm[PrimalDual]):
    """Distributed primal-dual splitting: one gradient of f_i and one projection per round, no best response,

        v_i ← v_i − (κ/σ) (λ_i − Σ_j w_ij λ_j)
        x_i ← proj_Xi(x_i − τ_i (∇f_i(x_i) + ∇g_i(x_i)ᵀλ_i))
        λ_i ← Π(λ_i + σ (2g_i(x_i) − g_i(x_i, previous) + 2v_i − v_i, previous − b_i))

    with Π onto the prices that a row's sense allows and v_i(0) = 0, so that Σ_i v_i = 0 in every round. It is the method of Condat
    and Vũ on min Σ f_i(x_i) over g_i(x_i) + v_i = b_i (or ≤, ≥), where v = (I − W)^½ z: a row that holds at every agent after
    neighbours have exchanged v holds for the sum, and λ is what v is worth. At a fixed point all λ_i are equal. g_i is affine;
    costs need be convex only.

    With L_i of ∇f_i and A_i = ∇g_i it converges for κ (1 − λ_min(W)) ≤ θ and τ_i (L_i/2 + σ‖A_i‖²/(1 − θ)) ≤ 1, some θ in (0, 1).

    Args:
        step_size: τ, a number, one per agent (`tw.PerAgent`). Default: the bound for θ = ½, with the agent's own L_i.
        price_step: σ, a number or `[m]`. Default: a sixth of n/M_jj, the harmonic mean of the costs' curvature along row j, or
            of 1 where a cost is not strongly convex.
        mixing: κ. Default: the bound for θ = ½, for a network that does not change; with pairwise gossip take a tenth of it.

    Laurent Condat, *A primal-dual splitting method for convex optimization involving Lipschitzian, proximable and linear
    composite terms*, Journal of Optimization Theory and Applications 158, 2013; Bằng Công Vũ, *A splitting algorithm for dual
    monotone inclusions involving cocoercive operators*, Advances in Computational Mathematics 38, 2013; among agents: Sulaiman
    Alghunaim, Qi Lyu, Ming Yan, Ali Sayed, *Dual consensus proximal algorithm for multi-agent sharing problems*, IEEE
    Transactions on Signal Processing 69, 2021.
    """

    step_size: Real | PerAgent | None = None
    price_step: EachRow | None = None
    mixing: Real | None = None

    combine: ClassVar[dict[str, Combine]] = {"price": Mix()}
    needs: ClassVar[frozenset[str]] = frozenset({"doubly_stochastic", "symmetric", "projection", "affine"})
    handles: ClassVar[frozenset[str]] = frozenset({"prices", "local_steps"})
    exact_under: ClassVar[frozenset[str]] = frozenset({"symmetric", "asleep"})
    claims: ClassVar[Claims] = Claims(exact=True, rate="linear", theorem="Condat 2013; Vũ 2013 (convergence)")

    def __check_init__(self):
        check_rows(self, "price_step")
        if isinstance(self.mixing, int | float) and not 0 < self.mixing <= 1:
            raise ValueError(f"DistributedPrimalDual(mixing={self.mixing!r}): expected a number in (0, 1], or None")

    def resolve(self, facts: Facts) -> "DistributedPrimalDual":
        mixing = NETWORK_PART / network_spread(facts) if self.mixing is None else self.mixing
        chosen = dataclasses.replace(row_penalties(self, facts, name="price_step", part=PRICE_PART), mixing=mixing)
        if self.step_size is not None:
            return chosen
        return dataclasses.replace(chosen, step_size=PerAgent(chosen.step_bound(facts)))

    def step_bound(self, facts: Facts) -> np.ndarray:
        """`[n]`, with the largest κ that `mixing` allows."""
        bend = facts.local_smoothness / 2 + np.sum(self.price_step * facts.pricing.row_gain) / (1 - NETWORK_PART)
        return 1 / np.where(bend > 0, bend, 1)

    def init(self, local, x0, context: Context) -> PrimalDual:
        return self._begin(local, local.feasible.prox(x0, 1.0) if local.feasible.indicator else x0, 0 * local.share)

    def send(self, state: PrimalDual, context: Context):
        return {"price": state.price}

    def receive(self, local, state: PrimalDual, inbox, context: Context):
        flow = state.flow - self.mixing / self.price_step * (state.price - inbox["price"])
        gradient = jax.grad(local.lagrangian)(state.x, state.price)
        x = local.feasible.prox(axpy(-self.step_size, gradient, state.x), self.step_size)
        quantity = local.quantity(x)
        ahead = 2 * quantity - state.quantity + (2 * flow - state.flow) - local.share
        price = local.public.project(state.price + self.price_step * ahead)
        return PrimalDual(x, quantity, price, flow), Info.of_gradient(gradient)

    def restart(self, local, state: PrimalDual, context: Context) -> PrimalDual:
        return self._begin(local, state.x, state.price)

    def estimate(self, state: PrimalDual):
        return state.x

    def price(self, state: PrimalDual):
        return state.price

    def _begin(self, local, x, price) -> PrimalDual:
        return PrimalDual(x, local.quantity(x), price, 0 * price)
