"""Gradient tracking on the dual: neighbours follow the excess of all, which they track beside the price."""

import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float

from thalweg.algorithm.base import Claims, Context, Facts, Info
from thalweg.algorithm.peer.gradient_tracking import GradientTracking
from thalweg.algorithm.tuning import tuned_step
from thalweg.message.combine import Combine, Mix

from .base import PricePeerAlgorithm
from .steps import EachRow, check_rows, check_strongly_convex, dual_facts


class DualTracking(eqx.Module):
    """`x`: the plan; `price` λ_i, `stepped` λ̂_i, `tracker` y_i and `excess` g_i(x_i) − b_i, all `[m]`."""

    x: Any
    price: Float[Array, " m"]
    stepped: Float[Array, " m"]
    tracker: Float[Array, " m"]
    excess: Float[Array, " m"]


class DualGradientTracking(PricePeerAlgorithm[DualTracking]):
    """Dual gradient tracking: each agent answers its own copy of the price, which follows the *average* excess,

        λ̂_i = Π(λ_i + α y_i)
        λ_i ← Σ_j w_ij λ̂_j
        x_i ← argmin_x∈X_i f_i(x) + ⟨λ_i, g_i(x)⟩
        y_i ← Σ_j w_ij y_j + g_i(x_i) − g_i(x_i, previous)

    with Π onto the prices that a row's sense allows, λ_i(0) = 0 and y_i(0) = g_i(x_i(0)) − b_i, so that
    mean(y) = (Σ g_i(x_i) − b)/n in every round: at the limit λ = Π(λ + αȳ), which is complementarity. It is `ProximalTracking`
    on −Σ_i d_i, d_i the dual function of agent i.

    Needs strongly convex costs, else best responses jump. Without X_i, with smooth costs and independent rows, the dual is
    strongly concave and the rate linear; sublinear where constraints make best responses stand still.

    Args:
        step_size: α, a number or `[m]`, one per row. Default: the best predicted rate within half the stable range
            (`tuned_step`), in the metric of max_i (A_i H_i⁻¹ A_iᵀ)_jj, row by row, so that the rows' units do not matter.

    Jiaqi Zhang, Keyou You, Kai Cai, *Distributed dual gradient tracking for resource allocation in unbalanced networks*, IEEE
    Transactions on Signal Processing 68, 2020; the projected tracking: Ying Sun, Amir Daneshmand, Gesualdo Scutari,
    *Distributed optimization based on gradient tracking revisited: enhancing convergence rate via surrogation*, SIAM Journal on
    Optimization 32, 2022.
    """

    step_size: EachRow | None = None

    combine: ClassVar[dict[str, Combine]] = {"price": Mix(), "tracker": Mix()}
    needs: ClassVar[frozenset[str]] = frozenset({"doubly_stochastic", "strongly_convex"})
    handles: ClassVar[frozenset[str]] = frozenset({"prices"})
    exact_under: ClassVar[frozenset[str]] = frozenset({"symmetric", "asleep"})
    claims: ClassVar[Claims] = Claims(exact=True, rate="linear", theorem="Zhang, You and Cai 2020")

    def __check_init__(self):
        check_rows(self, "step_size")

    def resolve(self, facts: Facts) -> "DualGradientTracking":
        if self.step_size is not None:
            return self
        check_strongly_convex(self, facts)
        scaled, units = dual_facts(facts)
        return dataclasses.replace(self, step_size=tuned_step(GradientTracking(), scaled) / units)

    def step_bound(self, facts: Facts) -> np.ndarray | None:
        """`[m]`, that of gradient tracking with equal curvatures, in the metric of the default."""
        if not np.isfinite(facts.pricing.steepest):
            return None
        scaled, units = dual_facts(facts)
        return GradientTracking().step_bound(scaled) / units

    def init(self, local, x0, context: Context) -> DualTracking:
        return self._begin(local, x0, 0 * local.share)

    def send(self, state: DualTracking, context: Context):
        return {"price": state.stepped, "tracker": state.tracker}

    def receive(self, local, state: DualTracking, inbox, context: Context):
        price = inbox["price"]
        answer = local.respond(price, state.x)
        excess = answer.quantity - local.share
        tracker = inbox["tracker"] + (excess - state.excess)
        return DualTracking(answer.x, price, self._stepped(local, price, tracker), tracker, excess), Info.none()

    def restart(self, local, state: DualTracking, context: Context) -> DualTracking:
        return self._begin(local, state.x, state.price)

    def estimate(self, state: DualTracking):
        return state.x

    def price(self, state: DualTracking):
        return state.price

    def _begin(self, local, x, price) -> DualTracking:
        answer = local.respond(price, x)
        excess = answer.quantity - local.share
        return DualTracking(answer.x, price, self._stepped(local, price, excess), excess, excess)

    def _stepped(self, local, price, tracker):
        return local.public.project(price + self.step_size * tracker)
