"""Dynamic average consensus: following a mean that moves."""

from typing import Any, ClassVar

import equinox as eqx
import numpy as np

from thalweg._trees import minus, plus
from thalweg.algorithm.base import Claims, Context, Facts, Info, PeerAlgorithm
from thalweg.message.combine import Combine, Mix


class DynamicAverageState(eqx.Module):
    """`x`: the estimate of the mean; `measured`: m_i when this agent last looked."""

    x: Any
    measured: Any


class DynamicAverage(PeerAlgorithm[DynamicAverageState]):
    """Dynamic average consensus: every agent follows the mean of what is measured, while it moves.

        x_i(0) = m_i(0),    x_i ← Σ_j w_ij x_j + m_i(k) − m_i(k, when it last looked)

    mean(x) = mean(m(k)) after every round k. Where the measurements stop, the error vanishes as fast as plain averaging,
    by σ per round. On a ramp, m_i(k) = m_i + s_i k, it settles at (I − W + J)⁻¹(s − s̄) with J = 11ᵀ/n: exact where all move
    alike, and at most ‖s − s̄‖/(1 − σ).

    Use `tw.Measurements(values, signal=...)` for measurements that move.

    Demetri Spanos, Reza Olfati-Saber, Richard Murray, *Dynamic consensus on mobile networks*, IFAC World Congress, 2005;
    Minghui Zhu and Sonia Martínez, *Discrete-time dynamic average consensus*, Automatica 46, 2010.
    """

    combine: ClassVar[dict[str, Combine]] = {"x": Mix()}
    needs: ClassVar[frozenset[str]] = frozenset({"doubly_stochastic", "measurements"})
    exact_under: ClassVar[frozenset[str]] = frozenset({"symmetric", "asleep"})
    claims: ClassVar[Claims] = Claims(exact=True, rate="linear", theorem="Zhu and Martínez 2010", centralised_on_complete=True)

    def resolve(self, facts: Facts) -> "DynamicAverage":
        return self

    def init(self, local, x0, context: Context) -> DynamicAverageState:
        measured = local.measurement(context.key)
        return DynamicAverageState(measured, measured)

    def send(self, state: DynamicAverageState, context: Context):
        return {"x": state.x}

    def receive(self, local, state: DynamicAverageState, inbox, context: Context):
        measured = local.measurement(context.key)
        return DynamicAverageState(plus(inbox["x"], minus(measured, state.measured)), measured), Info.none()

    def restart(self, local, state: DynamicAverageState, context: Context) -> DynamicAverageState:
        return self.init(local, None, context)

    def estimate(self, state: DynamicAverageState):
        return state.x

    def modes(self, curvature: float, eigenvalue: float) -> np.ndarray:
        return np.array([[eigenvalue]])
