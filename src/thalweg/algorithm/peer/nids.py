"""NIDS."""

from typing import Any, ClassVar

import equinox as eqx
import numpy as np

from thalweg._trees import axpy, minus, plus
from thalweg.algorithm.base import Claims, Context, Facts, Info, PeerAlgorithm
from thalweg.algorithm.step import PerAgent, Real, StepSize, fill
from thalweg.algorithm.tuning import tuned_step
from thalweg.message.combine import Combine, Mix


class NIDSState(eqx.Module):
    """`x`: the iterate; `g`: ∇φ_i at `x`; `forecast`: where two gradient steps in a row would lead, which is what is sent;
    `dual`: d, the price of disagreement, with mean(d) = 0 over the agents."""

    x: Any
    g: Any
    forecast: Any
    dual: Any


class NIDS(PeerAlgorithm[NIDSState]):
    """NIDS: a network-independent step size, for each agent its own, and a regulariser through its prox.

        v_i = 2x_i − x_i⁻ − α_i (∇φ_i(x_i) − ∇φ_i(x_i⁻))
        d_i ← d_i + c (v_i − Σ_j w_ij v_j)
        x_i ← prox_{α_i r}(x_i − α_i ∇φ_i(x_i) − α_i d_i)

    with x_i⁻ the previous iterate, v_i(0) = x_i(0) − α_i ∇φ_i(x_i(0)) and d_i(0) = 0. Without r this is x ← W̃ applied to
    2x − x⁻ − Λ(∇φ(x) − ∇φ(x⁻)) with W̃ = I − cΛ(I − W), Λ = diag(α_i). mean(d) = 0 in every round, and the optimum is a
    fixed point whatever the α_i: `NIDS(tw.LocalStep(1.0))` lets every agent step by 1/L_i.

    Args:
        step_size: α, one number, `LocalStep` or `PerAgent`. Default: the best predicted rate within half the bound
            (`tuned_step`).
        dual_step: c. Default: 1/(2 max_i α_i), the largest that is safe on every network.

    W symmetric, every φ_i convex and L_i-smooth, r convex: converges for α_i < 2/L_i, whatever the network, and
    c Λ^½(I − W)Λ^½ ≼ I. Linear when every φ_i is strongly convex and there is no r; with r use `ExactDiffusion`, which then
    stays linear.

    Zhi Li, Wei Shi, Ming Yan, *A decentralized proximal-gradient method with network independent step-sizes and separated
    convergence rates*, IEEE Transactions on Signal Processing 67, 2019.
    """

    step_size: StepSize = None
    dual_step: Real | None = None

    combine: ClassVar[dict[str, Combine]] = {"v": Mix()}
    needs: ClassVar[frozenset[str]] = frozenset({"doubly_stochastic", "symmetric", "smooth"})
    handles: ClassVar[frozenset[str]] = frozenset({"regularizer", "local_steps"})
    exact_under: ClassVar[frozenset[str]] = frozenset({"symmetric", "asleep"})
    claims: ClassVar[Claims] = Claims(exact=True, rate="linear", theorem="Li, Shi and Yan 2019")

    def __check_init__(self):
        if isinstance(self.dual_step, float) and not self.dual_step > 0:
            raise ValueError(f"NIDS(dual_step={self.dual_step!r}): expected a positive number, or None for 1/(2 max α_i)")

    def resolve(self, facts: Facts) -> "NIDS":
        chosen = self if self.step_size is not None else fill(self, step_size=tuned_step(self, facts))
        step = chosen.step_size
        largest = np.max(step.values if isinstance(step, PerAgent) else step)
        return fill(chosen, dual_step=float(0.5 / largest))

    def init(self, local, x0, context: Context) -> NIDSState:
        g = local.grad(x0)
        return NIDSState(x=x0, g=g, forecast=axpy(-self.step_size, g, x0), dual=minus(x0, x0))

    def send(self, state: NIDSState, context: Context):
        return {"v": state.forecast}

    def receive(self, local, state: NIDSState, inbox, context: Context):
        dual = axpy(self.dual_step, minus(context.sent["v"], inbox["v"]), state.dual)
        z = axpy(-self.step_size, plus(state.g, dual), state.x)
        x = local.regularizer.prox(z, self.step_size)
        g = local.grad(x)
        forecast = axpy(-self.step_size, minus(g, state.g), plus(x, minus(x, state.x)))
        return NIDSState(x=x, g=g, forecast=forecast, dual=dual), Info.of_gradient(g)

    def restart(self, local, state: NIDSState, context: Context) -> NIDSState:
        return self.init(local, state.x, context)

    def estimate(self, state: NIDSState):
        return state.x

    def step_bound(self, facts: Facts) -> float | np.ndarray:
        """2/max L_i; with a step size per agent 2/L_i, `[n]`."""
        return 2 / (facts.local_smoothness if isinstance(self.step_size, PerAgent) else facts.smoothness)

    def modes(self, curvature: float, eigenvalue: float) -> np.ndarray | None:
        """(x, x⁻)⁺ from (x, x⁻), for one step size common to all."""
        if isinstance(self.step_size, PerAgent):
            return None
        kept = 1 - (0.5 if self.dual_step is None else self.dual_step * self.step_size) * (1 - eigenvalue)
        step = self.step_size * curvature
        return np.array([[kept * (2 - step), -kept * (1 - step)], [1.0, 0.0]])
