"""Average consensus with one step of memory."""

import math
from typing import Any, ClassVar

import equinox as eqx
import numpy as np

from thalweg._trees import axpy, minus
from thalweg.algorithm.base import Claims, Context, Facts, Info, PeerAlgorithm
from thalweg.algorithm.step import Real, fill
from thalweg.message.combine import Combine, Mix


class AcceleratedAveragingState(eqx.Module):
    """`x`: this agent's current value; `before`: the one before."""

    x: Any
    before: Any


class AcceleratedAveraging(PeerAlgorithm[AcceleratedAveragingState]):
    """Average consensus in two steps: the last movement is continued.

        x_i(0) = x_i(−1) = m_i,    x_i ← (1 + ω) Σ_j w_ij x_j − ω x_i(previous)

    With ω = ((1 − √(1 − σ²))/σ)² the error contracts by √ω = σ/(1 + √(1 − σ²)) per round, asymptotically: where averaging needs
    1/(1 − σ) rounds, this needs about 1/√(2(1 − σ)). `ChebyshevAveraging` has the same rate and is better in every round;
    this one has a single constant, and conserves mean(x + ω(x − x⁻)/(1 − ω)) even while some agents sleep.

    Args:
        momentum: ω in [0, 1). Default: from σ, the second largest eigenvalue modulus of W.

    S. Muthukrishnan, Bhaskar Ghosh, Martin Schultz, *First- and second-order diffusive methods for rapid, coarse, distributed
    load balancing*, Theory of Computing Systems 31, 1998; Ming Cao, Daniel Spielman, Edmund Yeh, *Accelerated gossip
    algorithms for distributed computation*, Allerton Conference, 2006.
    """

    momentum: Real | None = None

    combine: ClassVar[dict[str, Combine]] = {"x": Mix()}
    needs: ClassVar[frozenset[str]] = frozenset({"doubly_stochastic", "symmetric", "fixed", "measurements"})
    exact_under: ClassVar[frozenset[str]] = frozenset({"symmetric", "asleep"})
    claims: ClassVar[Claims] = Claims(exact=True, rate="linear", theorem="Muthukrishnan, Ghosh and Schultz 1998")

    def __check_init__(self):
        if isinstance(self.momentum, float | int) and not 0 <= self.momentum < 1:
            raise ValueError(f"AcceleratedAveraging(momentum={self.momentum!r}): expected 0 ≤ momentum < 1, or None")

    def resolve(self, facts: Facts) -> "AcceleratedAveraging":
        return fill(self, momentum=accelerated_rate(facts.sigma) ** 2)

    def init(self, local, x0, context: Context) -> AcceleratedAveragingState:
        measured = local.measurement(context.key)
        return AcceleratedAveragingState(measured, measured)

    def send(self, state: AcceleratedAveragingState, context: Context):
        return {"x": state.x}

    def receive(self, local, state: AcceleratedAveragingState, inbox, context: Context):
        x = axpy(self.momentum, minus(inbox["x"], state.before), inbox["x"])
        return AcceleratedAveragingState(x, state.x), Info.none()

    def restart(self, local, state: AcceleratedAveragingState, context: Context) -> AcceleratedAveragingState:
        return self.init(local, None, context)

    def estimate(self, state: AcceleratedAveragingState):
        return state.x

    def modes(self, curvature: float, eigenvalue: float) -> np.ndarray:
        """(x, x⁻)⁺ from (x, x⁻)."""
        return two_step_mode(self.momentum, eigenvalue)


def accelerated_rate(sigma: float) -> float:
    """σ/(1 + √(1 − σ²)), the best rate of a recursion with one step of memory on the spectrum [−σ, σ]."""
    return sigma / (1 + math.sqrt(max(0.0, 1 - sigma**2)))


def two_step_mode(momentum: Real, eigenvalue: float) -> np.ndarray:
    """x⁺ = (1 + ω)λx − ωx⁻ as a matrix on (x, x⁻)."""
    return np.array([[(1 + momentum) * eigenvalue, -momentum], [1.0, 0.0]])
