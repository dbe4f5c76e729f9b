"""K-GT: gradient tracking with local steps."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import numpy as np

from thalweg._trees import axpy, minus, plus, times
from thalweg.algorithm.base import Claims, Context, Facts, Info, PeerAlgorithm
from thalweg.algorithm.step import Real, fill
from thalweg.algorithm.tuning import tuned_step
from thalweg.message.combine import Combine, Mix


class KGTState(eqx.Module):
    """`x`: the iterate; `correction`: c_i, what the average gradient exceeds the own one by; `z`: the mean direction of
    the local steps taken from `x`."""

    x: Any
    correction: Any
    z: Any


class KGT(PeerAlgorithm[KGTState]):
    """K-GT: K corrected local steps between two exchanges.

        x_i,0 = x_i,    x_i,k+1 = x_i,k − η_c (∇φ_i(x_i,k) + c_i),   k = 0 … K−1
        z_i = (x_i − x_i,K)/(K η_c)
        c_i ← c_i − z_i + Σ_j w_ij z_j
        x_i ← Σ_j w_ij (x_j − K η_c η_s z_j)

    with c_i(0) = 0. Σ c_i = 0 in every round, and at the fixed point c_i = −∇φ_i(x*): the local steps stand still at the
    optimum itself, where plain local steps drift apart. K = 1, η_s = 1 is `GradientTracking(order="atc")`.

    Args:
        step_size: η_c, of the local steps. Default: the best predicted rate within half the stable range (`tuned_step`).
        communication_step: η_s, how much of the local movement is kept.
        local_steps: K.
        stochastic: use stochastic gradients, a fresh one in every local step.

    Yue Liu, Tao Lin, Anastasia Koloskova, Sebastian Stich, *Decentralized gradient tracking with local steps*, Optimization
    Methods and Software, 2024. The theorem there is for smooth, possibly non-convex losses; on strongly convex ones the
    rate is linear as far as `modes` reaches (equal curvatures).
    """

    step_size: Real | None = None
    communication_step: Real = 1.0
    local_steps: int = eqx.field(static=True, default=5)
    stochastic: bool = eqx.field(static=True, default=False)

    combine: ClassVar[dict[str, Combine]] = {"x": Mix(), "z": Mix()}
    needs: ClassVar[frozenset[str]] = frozenset({"doubly_stochastic", "smooth"})
    handles: ClassVar[frozenset[str]] = frozenset({"stochastic"})
    exact_under: ClassVar[frozenset[str]] = frozenset({"symmetric", "asleep"})
    claims: ClassVar[Claims] = Claims(exact=True, rate="sublinear", theorem="Liu, Lin, Koloskova and Stich 2024")

    def __check_init__(self):
        if self.local_steps < 1:
            raise ValueError(f"KGT(local_steps={self.local_steps!r}): expected a whole number ≥ 1")
        if isinstance(self.communication_step, int | float) and not 0 < self.communication_step <= 1:
            raise ValueError(f"KGT(communication_step={self.communication_step!r}): expected 0 < communication_step ≤ 1")

    def resolve(self, facts: Facts) -> "KGT":
        return self if self.step_size is not None else fill(self, step_size=tuned_step(self, facts))

    def init(self, local, x0, context: Context) -> KGTState:
        correction = times(0, x0)
        return KGTState(x0, correction, self._direction(local, x0, correction, context))

    def send(self, state: KGTState, context: Context):
        moved = axpy(-self.local_steps * self.step_size * self.communication_step, state.z, state.x)
        return {"x": moved, "z": state.z}

    def receive(self, local, state: KGTState, inbox, context: Context):
        x, correction = inbox["x"], plus(state.correction, minus(inbox["z"], state.z))
        z = self._direction(local, x, correction, context)
        return KGTState(x, correction, z), Info.of_gradient(minus(z, correction))

    def restart(self, local, state: KGTState, context: Context) -> KGTState:
        return self.init(local, state.x, context)

    def estimate(self, state: KGTState):
        return state.x

    def step_bound(self, facts: Facts) -> float:
        """First η_c, on a grid of 1/500 of 2/L, at which some mode with curvature max L_i is unstable."""
        low = -facts.sigma if facts.lambda_min is None else facts.lambda_min
        spectrum = {*np.linspace(low, facts.sigma, 9), 1.0}
        grid = np.linspace(0, 2 / facts.smoothness, 501)[1:]

        def stable(step: float) -> bool:
            matrices = (_modes(step, self, facts.smoothness, w) for w in spectrum)
            return all(np.abs(np.linalg.eigvals(matrix)).max() < 1 for matrix in matrices)

        return float(next((step for step in grid if not stable(step)), grid[-1]))

    def modes(self, curvature: float, eigenvalue: float) -> np.ndarray:
        """Of (x, c); of the mean of x alone at eigenvalue 1, where c averages to zero."""
        return _modes(self.step_size, self, curvature, eigenvalue)

    def _direction(self, local, x, correction, context: Context):
        """z_i, the mean of the directions of K local steps from x."""

        def local_step(k, carry):
            x, total = carry
            key = jax.random.fold_in(context.key, k)
            g = local.stochastic_grad(x, key) if self.stochastic else local.grad(x)
            g = plus(g, correction)
            return axpy(-self.step_size, g, x), plus(total, g)

        _, total = jax.lax.fori_loop(0, self.local_steps, local_step, (x, times(0, x)))
        return times(1 / self.local_steps, total)


def _modes(step: float, algorithm: KGT, a: float, w: float) -> np.ndarray:
    steps, gain = algorithm.local_steps, algorithm.local_steps * step * algorithm.communication_step
    s = (1 - (1 - step * a) ** steps) / (steps * step * a)  # z = s (a x + c)
    if np.isclose(w, 1.0):
        return np.array([[1 - gain * s * a]])
    return np.array([[w * (1 - gain * s * a), -w * gain * s], [-(1 - w) * s * a, 1 - (1 - w) * s]])
