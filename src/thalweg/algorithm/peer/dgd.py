"""Decentralised gradient descent."""

from typing import Any, ClassVar

import equinox as eqx
import numpy as np

from thalweg._trees import axpy
from thalweg.algorithm.base import Claims, Context, Facts, Info, PeerAlgorithm
from thalweg.algorithm.step import StepSize, fill
from thalweg.message.combine import Combine, Mix


class DGDState(eqx.Module):
    """`x`: the iterate."""

    x: Any


class DGD(PeerAlgorithm[DGDState]):
    """Decentralised (sub)gradient descent: average with the neighbours, then descend on one's own loss.

        x_i ← Σ_j w_ij x_j − α ∇φ_i(x_i)

    This is gradient descent on Σ_i φ_i(x_i) + ½ xᵀ(I − W)x/α: disagreement is penalised, not forbidden, and the limit is off
    the optimum by O(α). On quadratics φ_i = ½xᵀH_i x + b_iᵀx it solves (I − W + αH)x = −αb, and the error contracts by
    ρ(W − αH). With stochastic gradients of variance σ² and equal curvature m, the mean estimate settles at the variance
    ασ²/(m(2 − αm)n): n agents average their noise away.

    Args:
        step_size: α. Default: half the bound, which is fast and coarse; halve it to halve the error of the limit.
        stochastic: use stochastic gradients (D-SGD).

    W doubly stochastic, every φ_i convex and L-smooth: stable for α < (1 + λ_min(W))/L.

    Angelia Nedić and Asuman Ozdaglar, *Distributed subgradient methods for multi-agent optimization*, IEEE Transactions on
    Automatic Control 54, 2009; Kun Yuan, Qing Ling, Wotao Yin, *On the convergence of decentralized gradient descent*, SIAM
    Journal on Optimization 26, 2016; Xiangru Lian et al., *Can decentralized algorithms outperform centralized algorithms?*,
    NeurIPS 2017 (stochastic).
    """

    step_size: StepSize = None
    stochastic: bool = eqx.field(static=True, default=False)

    combine: ClassVar[dict[str, Combine]] = {"x": Mix()}
    needs: ClassVar[frozenset[str]] = frozenset({"doubly_stochastic", "smooth"})
    handles: ClassVar[frozenset[str]] = frozenset({"stochastic"})
    claims: ClassVar[Claims] = Claims(exact=False, rate="linear", theorem="Yuan, Ling and Yin 2016")

    def resolve(self, facts: Facts) -> "DGD":
        return fill(self, step_size=0.5 * self.step_bound(facts))

    def init(self, local, x0, context: Context) -> DGDState:
        return DGDState(x0)

    def send(self, state: DGDState, context: Context):
        return {"x": state.x}

    def receive(self, local, state: DGDState, inbox, context: Context):
        g = local.stochastic_grad(state.x, context.key) if self.stochastic else local.grad(state.x)
        return DGDState(axpy(-self.step_size, g, inbox["x"])), Info.of_gradient(g)

    def restart(self, local, state: DGDState, context: Context) -> DGDState:
        return state

    def estimate(self, state: DGDState):
        return state.x

    def step_bound(self, facts: Facts) -> float:
        """(1 + λ_min)/L; where W is not symmetric, (1 − σ)/L, with which |λ − αL| < 1 for every eigenvalue λ."""
        low = -facts.sigma if facts.lambda_min is None else facts.lambda_min
        return (1 + low) / facts.smoothness

    def modes(self, curvature: float, eigenvalue: float) -> np.ndarray:
        return np.array([[eigenvalue - self.step_size * curvature]])
