"""LEAD: a primal-dual method with compressed messages."""

from typing import Any, ClassVar

import equinox as eqx
import numpy as np

from thalweg._trees import axpy, minus, plus
from thalweg.algorithm.base import Claims, Context, Facts, Info, PeerAlgorithm
from thalweg.algorithm.step import Real, fill
from thalweg.algorithm.tuning import tuned_step
from thalweg.message.combine import Combine, Mix

from .replicas import Replicas


class LEADState(eqx.Module):
    """`x`: the iterate; `g`: ∇φ_i at `x`; `dual`: d, the price of disagreement, with mean(d) = 0 over the agents; `known`:
    replicas of y and around it."""

    x: Any
    g: Any
    dual: Any
    known: Replicas


class LEAD(PeerAlgorithm[LEADState]):
    """LEAD: linear convergence to the optimum itself, with unbiased compression as coarse as one likes.

        y_i = x_i − α ∇φ_i(x_i) − α d_i
        i sends q_i = C(y_i − h_i);    ŷ_j = h_j + q_j,    h_j ← h_j + a q_j
        d_i ← d_i + c/(2α) Σ_j w_ij (ŷ_i − ŷ_j),    x_i ← x_i − α ∇φ_i(x_i) − α d_i

    with h_i(0) = d_i(0) = 0 and C the pipeline `link=`. What compression leaves out vanishes with y − h, and mean(d) = 0 in every
    round, so that mean(x) takes the steps of the mean gradient. With C = I, a = 1 this is `NIDS` without a regulariser.

    Args:
        step_size: α. Default: the best predicted rate within half the bound (`tuned_step`).
        dual_step: c. Default: 1/(1 + ω)² of the link, E‖C(m) − m‖² ≤ ω‖m‖²; a guide, found on rings of quadratics.
        replica_step: a in (0, 1]. Default: 1/(2(1 + ω)).

    W symmetric and doubly stochastic, every φ_i strongly convex and L-smooth, C unbiased: linear for α ≤ 2/(μ + L), a and c small
    enough for ω. With a biased contraction (top-k) nothing is proved: use `BEER`. A change that is lost is never made up for, so
    that the network must not lose any.

    Xiaorui Liu, Yao Li, Rongrong Wang, Jiliang Tang, Ming Yan, *Linear convergent decentralized optimization with
    compression*, ICLR 2021.
    """

    step_size: Real | None = None
    dual_step: Real | None = None
    replica_step: Real | None = None

    combine: ClassVar[dict[str, Combine]] = {"y": Mix()}
    needs: ClassVar[frozenset[str]] = frozenset({"doubly_stochastic", "symmetric", "smooth", "fixed", "reliable"})
    claims: ClassVar[Claims] = Claims(exact=True, rate="linear", theorem="Liu, Li, Wang, Tang and Yan 2021, Theorem 1")

    def __check_init__(self):
        for name in ("dual_step", "replica_step"):
            value = getattr(self, name)
            if isinstance(value, float) and not (value > 0 and (name == "dual_step" or value <= 1)):
                interval = "a positive number" if name == "dual_step" else "a number in (0, 1]"
                raise ValueError(f"LEAD({name}={value!r}): expected {interval}, or None for the default")

    def resolve(self, facts: Facts) -> "LEAD":
        chosen = self
        if self.dual_step is None or self.replica_step is None:
            if facts.variance is None:
                raise ValueError(
                    "LEAD: dual_step or replica_step was left open, which are chosen for an unbiased link, got one that is not "
                    "known to be; use quantise(…), random_k(…) or another unbiased stage, tw.BEER() with a biased one, or give both"
                )
            most = 1 / (1 + facts.variance)
            chosen = fill(self, dual_step=most**2, replica_step=most / 2)
        return chosen if self.step_size is not None else fill(chosen, step_size=tuned_step(chosen, facts))

    def init(self, local, x0, context: Context) -> LEADState:
        return LEADState(x=x0, g=local.grad(x0), dual=minus(x0, x0), known=Replicas.none(x0))

    def send(self, state: LEADState, context: Context):
        return {"y": state.known.change(self._moved(state, state.dual))}

    def receive(self, local, state: LEADState, inbox, context: Context):
        heard = state.known.after(context.sent["y"], inbox["y"])
        dual = axpy(-self.dual_step / (2 * self.step_size), heard.pull(), state.dual)
        known = Replicas(*(axpy(self.replica_step, minus(new, old), old) for new, old in _pairs(heard, state.known)))
        x = self._moved(state, dual)
        g = local.grad(x)
        return LEADState(x=x, g=g, dual=dual, known=known), Info.of_gradient(g)

    def restart(self, local, state: LEADState, context: Context) -> LEADState:
        return self.init(local, state.x, context)

    def estimate(self, state: LEADState):
        return state.x

    def step_bound(self, facts: Facts) -> float:
        """2/(μ + L)."""
        return 2 / (facts.strong_convexity + facts.smoothness)

    def modes(self, curvature: float, eigenvalue: float) -> np.ndarray:
        """(x, αd)⁺ from (x, αd), where C = I."""
        kept, gain = 1 - self.step_size * curvature, 0.5 * self.dual_step * (1 - eigenvalue)
        dual = np.array([gain * kept, 1 - gain])
        return np.array([np.array([kept, 0.0]) - dual, dual])

    def _moved(self, state: LEADState, dual):
        return axpy(-self.step_size, plus(state.g, dual), state.x)


def _pairs(new: Replicas, old: Replicas):
    return (new.own, old.own), (new.around, old.around)
