"""Exact diffusion."""

from typing import Any, ClassVar

import equinox as eqx
import numpy as np

from thalweg._trees import axpy, minus, plus
from thalweg.algorithm.base import Claims, Context, Facts, Info, PeerAlgorithm
from thalweg.algorithm.step import StepSize, fill
from thalweg.algorithm.tuning import tuned_step
from thalweg.message.combine import Combine, Mix


class ExactDiffusionState(eqx.Module):
    """`x`: the iterate; `adapted`: ψ = x − α∇φ_i(x); `corrected`: what is sent next."""

    x: Any
    adapted: Any
    corrected: Any


class ExactDiffusion(PeerAlgorithm[ExactDiffusionState]):
    """Exact diffusion (D² with stochastic gradients): adapt, correct the bias of the last round, combine.

        ψ_i⁺ = x_i − α ∇φ_i(x_i)                          (adapt)
        u_i = z_i + ψ_i⁺ − ψ_i                            (correct)
        z_i ← ½(u_i + Σ_j w_ij u_j),  x_i ← prox_{αr}(z_i)    (combine)

    with z_i(0) = ψ_i(0) = x_i(0). mean(z − ψ) = 0 in every round, which is why the limit is the optimum itself. One vector
    is sent per round, and the step size does not depend on the network. The prox keeps the rate linear, because all agents
    share the same r. With stochastic gradients the limit is a neighbourhood, which does not grow with the agents'
    heterogeneity.

    Args:
        step_size: α. Default: the best predicted rate within half the bound (`tuned_step`).
        stochastic: use stochastic gradients (D²).

    W symmetric, every φ_i convex and L-smooth: converges for α < 2/L, whatever the network.

    Kun Yuan, Bicheng Ying, Xiaochuan Zhao, Ali Sayed, *Exact diffusion for distributed optimization and learning, part I*,
    IEEE Transactions on Signal Processing 67, 2019; Hanlin Tang et al., *D²: decentralized training over decentralized data*,
    ICML 2018; with r: Sulaiman Alghunaim, Kun Yuan, Ali Sayed, *A linearly convergent proximal gradient algorithm for
    decentralized optimization*, NeurIPS 2019.
    """

    step_size: StepSize = None
    stochastic: bool = eqx.field(static=True, default=False)

    combine: ClassVar[dict[str, Combine]] = {"u": Mix()}
    needs: ClassVar[frozenset[str]] = frozenset({"doubly_stochastic", "symmetric", "smooth"})
    handles: ClassVar[frozenset[str]] = frozenset({"stochastic", "regularizer"})
    exact_under: ClassVar[frozenset[str]] = frozenset({"symmetric", "asleep"})
    claims: ClassVar[Claims] = Claims(exact=True, rate="linear", theorem="Alghunaim, Yuan and Sayed 2019")

    def resolve(self, facts: Facts) -> "ExactDiffusion":
        return self if self.step_size is not None else fill(self, step_size=tuned_step(self, facts))

    def init(self, local, x0, context: Context) -> ExactDiffusionState:
        adapted, _ = self._adapt(local, x0, context)
        return ExactDiffusionState(x=x0, adapted=adapted, corrected=adapted)

    def send(self, state: ExactDiffusionState, context: Context):
        return {"u": state.corrected}

    def receive(self, local, state: ExactDiffusionState, inbox, context: Context):
        z = axpy(0.5, minus(inbox["u"], context.sent["u"]), state.corrected)
        x = local.regularizer.prox(z, self.step_size)
        adapted, g = self._adapt(local, x, context)
        corrected = plus(z, minus(adapted, state.adapted))
        return ExactDiffusionState(x=x, adapted=adapted, corrected=corrected), Info.of_gradient(g)

    def restart(self, local, state: ExactDiffusionState, context: Context) -> ExactDiffusionState:
        return self.init(local, state.x, context)

    def estimate(self, state: ExactDiffusionState):
        return state.x

    def step_bound(self, facts: Facts) -> float:
        """2/L."""
        return 2 / facts.smoothness

    def modes(self, curvature: float, eigenvalue: float) -> np.ndarray:
        """(x, x⁻)⁺ from (x, x⁻)."""
        kept, step = 0.5 * (1 + eigenvalue), self.step_size * curvature
        return np.array([[kept * (2 - step), -kept * (1 - step)], [1.0, 0.0]])

    def _adapt(self, local, x, context: Context):
        """(x − α∇φ_i(x), ∇φ_i(x))."""
        g = local.stochastic_grad(x, context.key) if self.stochastic else local.grad(x)
        return axpy(-self.step_size, g, x), g
