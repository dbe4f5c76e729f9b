"""Diffusion."""

from typing import Any, ClassVar, Literal

import equinox as eqx
import numpy as np

from thalweg._trees import axpy
from thalweg.algorithm.base import Claims, Context, Facts, Info, PeerAlgorithm
from thalweg.algorithm.step import StepSize, fill
from thalweg.message.combine import Combine, Mix


class DiffusionState(eqx.Module):
    """`x`: the iterate; `message`: what is sent next, x_i itself or x_i − α∇φ_i(x_i)."""

    x: Any
    message: Any


class Diffusion(PeerAlgorithm[DiffusionState]):
    """Diffusion: gradient step and averaging, one after the other, so that the network never limits the step size.

        order "atc":  x_i ← Σ_j w_ij (x_j − α ∇φ_j(x_j))              (adapt, then combine)
        order "cta":  v_i = Σ_j w_ij x_j,  x_i ← v_i − α ∇φ_i(v_i)    (combine, then adapt)

    Both are a gradient step G and an averaging W in turn, WG or GW, so they contract wherever G does: by
    max(|1 − αμ|, |1 − αL|) at least, as ‖W‖ ≤ 1. The limit is off the optimum by O(α); on quadratics ("atc") it solves
    (I − W + αWH)x = −αWb and the rate is ρ(W(I − αH)). On a complete graph with W = 11ᵀ/n, "atc" is central gradient
    descent; "cta" is not, its agents end a gradient step away from the mean.

    Args:
        step_size: α. Default: half the bound, which is fast and coarse; halve it to halve the error of the limit.
        order: "atc" (the more accurate of the two) or "cta".
        stochastic: use stochastic gradients.

    W doubly stochastic, changing if it likes, every φ_i convex and L-smooth: stable for α < 2/L.

    Jianshu Chen and Ali Sayed, *Diffusion adaptation strategies for distributed optimization and learning over networks*,
    IEEE Transactions on Signal Processing 60, 2012; Ali Sayed, *Adaptation, learning, and optimization over networks*,
    Foundations and Trends in Machine Learning 7, 2014.
    """

    step_size: StepSize = None
    order: Literal["atc", "cta"] = eqx.field(static=True, default="atc")
    stochastic: bool = eqx.field(static=True, default=False)

    combine: ClassVar[dict[str, Combine]] = {"x": Mix()}
    needs: ClassVar[frozenset[str]] = frozenset({"doubly_stochastic", "smooth"})
    handles: ClassVar[frozenset[str]] = frozenset({"stochastic"})
    claims: ClassVar[Claims] = Claims(exact=False, rate="linear", theorem="Chen and Sayed 2012", centralised_on_complete=True)

    def __check_init__(self):
        if self.order not in ("atc", "cta"):
            raise ValueError(f"Diffusion(order={self.order!r}): expected 'atc' or 'cta'")

    def resolve(self, facts: Facts) -> "Diffusion":
        return fill(self, step_size=0.5 * self.step_bound(facts))

    def init(self, local, x0, context: Context) -> DiffusionState:
        message = self._adapted(local, x0, context)[0] if self.order == "atc" else x0
        return DiffusionState(x0, message)

    def send(self, state: DiffusionState, context: Context):
        return {"x": state.message}

    def receive(self, local, state: DiffusionState, inbox, context: Context):
        adapted, g = self._adapted(local, inbox["x"], context)
        x = inbox["x"] if self.order == "atc" else adapted
        return DiffusionState(x, adapted), Info.of_gradient(g)

    def restart(self, local, state: DiffusionState, context: Context) -> DiffusionState:
        return self.init(local, state.x, context)

    def estimate(self, state: DiffusionState):
        return state.x

    def step_bound(self, facts: Facts) -> float:
        """2/L: then I − α∇φ_i contracts where φ_i is strongly convex, and never expands."""
        return 2 / facts.smoothness

    def modes(self, curvature: float, eigenvalue: float) -> np.ndarray:
        return np.array([[eigenvalue * (1 - self.step_size * curvature)]])

    def _adapted(self, local, x, context: Context):
        """(x − α∇φ_i(x), ∇φ_i(x))."""
        g = local.stochastic_grad(x, context.key) if self.stochastic else local.grad(x)
        return axpy(-self.step_size, g, x), g
