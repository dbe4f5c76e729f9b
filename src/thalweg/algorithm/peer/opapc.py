"""OPAPC: optimal in gradients and in messages."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg._trees import axpy, minus, plus, times
from thalweg.algorithm.base import Claims, Context, Facts, Info, PeerAlgorithm
from thalweg.algorithm.step import Real, fill
from thalweg.message.combine import Combine, Mix


class OPAPCState(eqx.Module):
    """`x`: the iterate; `fast`: x_f, the extrapolated one; `dual`: y; `slope`: ∇φ_i(x_g) − μ x_g; `half`: the step with
    the old dual; `gossip`, `before`: the last two vectors of the Chebyshev recursion that starts at `half`."""

    x: Any
    fast: Any
    dual: Any
    slope: Any
    half: Any
    gossip: Any
    before: Any


class OPAPC(PeerAlgorithm[OPAPCState]):
    """Optimal proximal alternating predictor-corrector: O(√κ log 1/ε) gradients and O(√(κχ) log 1/ε) messages.

        x_g = τ x + (1 − τ) x_f
        x_½ = (x − η (∇φ(x_g) − μ x_g + y)) / (1 + ημ)
        y ← y + θ P(I − W) x_½                                                  T exchanges with the neighbours
        x ← (x − η (∇φ(x_g) − μ x_g + y)) / (1 + ημ),     x_f ← x_g + 2τ/(2 − τ) (x − x, previous)

    with y(0) = 0, κ = max L_i/min μ_i, and P(I − W) = I − C_T((c − I + W)/h)/C_T(c/h), C_T the Chebyshev polynomial, where
    the eigenvalues of I − W other than 0 lie in [c − h, c + h] and χ = (c + h)/(c − h). Those of P lie in [1 − δ, 1 + δ],
    δ = 1/C_T(c/h). One round is one gradient and T exchanges of one vector; no method that uses gradients and neighbours
    needs fewer of either, but for constants. It wants every message, though: under loss the accelerated recursion can diverge.

    Args:
        step_size: η. Default: 1/(4τ max L_i).
        momentum: τ in (0, 1]. Default: min{1, ½√((1 + δ)/(1 − δ)/κ)}.
        dual_step: θ. Default: 1/(η(1 + δ)).
        strong_convexity: μ. Default: min μ_i.
        smallest, largest: bounds c − h and c + h on the non-zero eigenvalues of I − W. Default: 1 − σ and 1 − λ_min.
        gossip_steps: T. Default: ⌊√χ⌋, with which δ < 0.6 whatever the network.

    Dmitry Kovalev, Adil Salim, Peter Richtárik, *Optimal and practical algorithms for smooth and strongly convex decentralized
    optimization*, Advances in Neural Information Processing Systems 33, 2020.
    """

    step_size: Real | None = None
    momentum: Real | None = None
    dual_step: Real | None = None
    strong_convexity: Real | None = None
    smallest: Real | None = None
    largest: Real | None = None
    gossip_steps: int | None = eqx.field(static=True, default=None)

    combine: ClassVar[dict[str, Combine]] = {"x": Mix()}
    needs: ClassVar[frozenset[str]] = frozenset({"doubly_stochastic", "symmetric", "fixed", "smooth", "strongly_convex"})
    claims: ClassVar[Claims] = Claims(exact=True, rate="linear", theorem="Kovalev, Salim and Richtárik 2020 (OPAPC)")

    def __check_init__(self):
        if self.gossip_steps is not None and self.gossip_steps < 1:
            raise ValueError(f"OPAPC(gossip_steps={self.gossip_steps!r}): expected a whole number ≥ 1, or None for the default")

    @property
    def phases(self) -> tuple[str, ...]:
        """One per exchange of the Chebyshev gossip."""
        return tuple(f"gossip {t}" for t in range(self.gossip_steps or 1))

    def resolve(self, facts: Facts) -> "OPAPC":
        low, high = 1 - facts.sigma, 1 - facts.lambda_min
        if facts.n == 1:  # nobody to disagree with: I − W = 0
            low = high = 1.0
        algorithm = fill(self, smallest=low, largest=high, strong_convexity=facts.strong_convexity)
        chi = algorithm.largest / algorithm.smallest
        # A hair above, so that χ = T² up to rounding gives T.
        algorithm = fill(algorithm, gossip_steps=max(1, int(np.sqrt(chi) + 1e-9)))
        delta = _damping(algorithm, _radius(algorithm))
        kappa = facts.smoothness / algorithm.strong_convexity
        algorithm = fill(algorithm, momentum=min(1.0, 0.5 * float(np.sqrt((1 + delta) / (1 - delta) / kappa))))
        algorithm = fill(algorithm, step_size=0.25 / (algorithm.momentum * facts.smoothness))
        return fill(algorithm, dual_step=1 / (algorithm.step_size * (1 + delta)))

    def init(self, local, x0, context: Context) -> OPAPCState:
        return self._predicted(local, x0, x0, times(0, x0))

    def send(self, state: OPAPCState, context: Context):
        return {"x": state.gossip}

    def receive(self, local, state: OPAPCState, inbox, context: Context):
        t = self.phases.index(context.phase)
        weight, scale = _weights(_radius(self), t + 1)[-1], _scale(self)

        def recursion(now, mixed, before):
            damped = now - jnp.asarray(scale, now.dtype) * (now - mixed)
            return before + jnp.asarray(weight, now.dtype) * (damped - before)

        gossip = jax.tree.map(recursion, state.gossip, inbox["x"], state.before)
        if t + 1 < len(self.phases):
            state = eqx.tree_at(lambda s: (s.gossip, s.before), state, (gossip, state.gossip))
            return state, Info.none()
        dual = axpy(self.dual_step, minus(state.half, gossip), state.dual)
        x = self._stepped(state.x, state.slope, dual)
        anchor = self._anchor(state.x, state.fast)
        fast = axpy(2 * self.momentum / (2 - self.momentum), minus(x, state.x), anchor)
        state = self._predicted(local, x, fast, dual)
        return state, Info.of_gradient(axpy(self.strong_convexity, self._anchor(x, fast), state.slope))

    def restart(self, local, state: OPAPCState, context: Context) -> OPAPCState:
        return self.init(local, state.x, context)

    def estimate(self, state: OPAPCState):
        return state.x

    def modes(self, curvature: float, eigenvalue: float) -> np.ndarray:
        """Of (x, x_f, y); of (x, x_f) at eigenvalue 1, where the mean of y stays zero."""
        eta, tau, mu = float(self.step_size), float(self.momentum), float(self.strong_convexity)
        shrink, stretch = 1 / (1 + eta * mu), 2 * tau / (2 - tau)
        x, dual = np.eye(3)[0], np.eye(3)[2]
        anchor = np.array([tau, 1 - tau, 0.0])
        descended = x - eta * (curvature - mu) * anchor
        gossip = 1 - _damping(self, 1 - (1 - eigenvalue) * _scale(self))
        moved = dual + float(self.dual_step) * gossip * shrink * (descended - eta * dual)
        after = shrink * (descended - eta * moved)
        matrix = np.array([after, anchor + stretch * (after - x), moved])
        return matrix[:2, :2] if np.isclose(eigenvalue, 1.0) else matrix

    def _anchor(self, x, fast):
        """x_g."""
        return axpy(self.momentum, minus(x, fast), fast)

    def _stepped(self, x, slope, dual):
        """(x − η (slope + dual)) / (1 + ημ)."""
        return times(1 / (1 + self.step_size * self.strong_convexity), axpy(-self.step_size, plus(slope, dual), x))

    def _predicted(self, local, x, fast, dual) -> OPAPCState:
        """The state between two rounds, with the next gradient and x_½ computed."""
        anchor = self._anchor(x, fast)
        slope = axpy(-self.strong_convexity, anchor, local.grad(anchor))
        half = self._stepped(x, slope, dual)
        return OPAPCState(x=x, fast=fast, dual=dual, slope=slope, half=half, gossip=half, before=half)


def _scale(algorithm: OPAPC):
    """1/c: I − (I − W)/c has its eigenvalues other than 1 in [−h/c, h/c]."""
    return 2 / (algorithm.smallest + algorithm.largest)


def _radius(algorithm: OPAPC):
    """h/c."""
    return (algorithm.largest - algorithm.smallest) / (algorithm.largest + algorithm.smallest)


def _weights(radius: Any, steps: int) -> list[Any]:
    """ω_1 … ω_T of p_t+1 = p_t−1 + ω_t+1 (M p_t − p_t−1), which makes p_t = C_t(M/radius)/C_t(1/radius) p_0."""
    weights = [1.0, 1 / (1 - radius**2 / 2)]
    while len(weights) < steps:
        weights.append(1 / (1 - radius**2 * weights[-1] / 4))
    return weights[:steps]


def _damping(algorithm: OPAPC, eigenvalue: float) -> float:
    """What T exchanges multiply an eigenvector of I − (I − W)/c by."""
    before, now = 0.0, 1.0
    for weight in _weights(_radius(algorithm), algorithm.gossip_steps):
        before, now = now, before + weight * (eigenvalue * now - before)
    return float(now)
