"""Average consensus by Chebyshev polynomials of the mixing matrix."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg._trees import axpy, minus
from thalweg.algorithm.base import Claims, Context, Facts, Info, PeerAlgorithm
from thalweg.algorithm.step import Real, fill
from thalweg.message.combine import Combine, Mix

from .accelerated_averaging import accelerated_rate, two_step_mode


class ChebyshevAveragingState(eqx.Module):
    """`x`: this agent's current value; `before`: the one before; `factor []`: ω of the coming round."""

    x: Any
    before: Any
    factor: jax.Array


class ChebyshevAveraging(PeerAlgorithm[ChebyshevAveragingState]):
    """Average consensus, optimal in every round: x(k) = T_k(W/σ)/T_k(1/σ) m, with Chebyshev's polynomials T_k.

        x_i(0) = m_i,    x_i ← ω_k Σ_j w_ij x_j + (1 − ω_k) x_i(previous)
        ω_0 = 1,  ω_1 = 1/(1 − σ²/2),  ω_{k+1} = 1/(1 − σ²ω_k/4)

    After k rounds the disagreement is at most 1/T_k(1/σ) of what it was, and no other polynomial of W of degree k, that is no
    other linear method of k rounds, does better on a spectrum [−σ, σ]. Asymptotically σ/(1 + √(1 − σ²)) per round.
    Agents that sleep lose step with the others' ω_k, which biases the limit: use `AcceleratedAveraging` there.

    Args:
        sigma: second largest eigenvalue modulus of W, or a bound on it. Default: the network's own.

    Gene Golub and Richard Varga, *Chebyshev semi-iterative methods, successive overrelaxation iterative methods, and second
    order Richardson iterative methods*, Numerische Mathematik 3, 1961; Eduardo Montijano, Juan Montijano, Carlos Sagüés,
    *Chebyshev polynomials in distributed consensus applications*, IEEE Transactions on Signal Processing 61, 2013.
    """

    sigma: Real | None = None

    combine: ClassVar[dict[str, Combine]] = {"x": Mix()}
    needs: ClassVar[frozenset[str]] = frozenset({"doubly_stochastic", "symmetric", "fixed", "measurements"})
    exact_under: ClassVar[frozenset[str]] = frozenset({"symmetric"})
    claims: ClassVar[Claims] = Claims(exact=True, rate="linear", theorem="Golub and Varga 1961", centralised_on_complete=True)

    def __check_init__(self):
        if isinstance(self.sigma, float | int) and not 0 <= self.sigma < 1:
            raise ValueError(f"ChebyshevAveraging(sigma={self.sigma!r}): expected 0 ≤ sigma < 1, or None for the network's own")

    def resolve(self, facts: Facts) -> "ChebyshevAveraging":
        return fill(self, sigma=facts.sigma)

    def init(self, local, x0, context: Context) -> ChebyshevAveragingState:
        measured = local.measurement(context.key)
        return ChebyshevAveragingState(measured, measured, jnp.ones_like(self.sigma))

    def send(self, state: ChebyshevAveragingState, context: Context):
        return {"x": state.x}

    def receive(self, local, state: ChebyshevAveragingState, inbox, context: Context):
        x = axpy(state.factor, minus(inbox["x"], state.before), state.before)
        # ω is 1 in the first round only, unless σ = 0, when it stays 1 under either formula.
        share = jnp.where(state.factor == 1, 0.5, 0.25 * state.factor).astype(state.factor.dtype)
        return ChebyshevAveragingState(x, state.x, 1 / (1 - self.sigma**2 * share)), Info.none()

    def restart(self, local, state: ChebyshevAveragingState, context: Context) -> ChebyshevAveragingState:
        return self.init(local, None, context)

    def estimate(self, state: ChebyshevAveragingState):
        return state.x

    def modes(self, curvature: float, eigenvalue: float) -> np.ndarray:
        """(x, x⁻)⁺ from (x, x⁻) once ω_k has settled, at 1 + the square of the rate."""
        return two_step_mode(accelerated_rate(float(self.sigma)) ** 2, eigenvalue)
