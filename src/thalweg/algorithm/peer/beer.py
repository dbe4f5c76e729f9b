"""BEER: gradient tracking with compressed messages."""

from typing import Any, ClassVar

import equinox as eqx
import numpy as np

from thalweg._trees import axpy, minus, plus
from thalweg.algorithm.base import Claims, Context, Facts, Info, PeerAlgorithm
from thalweg.algorithm.step import Real, fill
from thalweg.algorithm.tuning import tuned_step
from thalweg.message.combine import Combine, Mix

from .choco_gossip import check_consensus_step
from .replicas import Replicas, contraction_of


class BEERState(eqx.Module):
    """`x`: the iterate; `y`: the tracker of the average gradient; `g`: ∇φ_i at `x`; `of_x`, `of_y`: replicas of both."""

    x: Any
    y: Any
    g: Any
    of_x: Replicas
    of_y: Replicas


class BEER(PeerAlgorithm[BEERState]):
    """BEER: compressed gradient tracking, which reaches the optimum itself under any contraction, biased or not.

        x_i ← x_i + γ Σ_j w_ij (h_j − h_i) − α y_i;                         i sends C(x_i − h_i),  h_j ← h_j + what was sent
        y_i ← y_i + γ Σ_j w_ij (k_j − k_i) + ∇φ_i(x_i) − ∇φ_i(x_i, previous);    i sends C(y_i − k_i),  k_j likewise

    with h_i(0) = k_i(0) = 0, y_i(0) = ∇φ_i(x_i(0)) and C the pipeline `link=`, for each of the two exchanges of a round by itself.
    mean(y) = mean(∇φ_i(x_i)) in every round, whatever C does. With C = I, γ = 1 this is `GradientTracking(order="diging")`
    but for the first round, before which nobody has heard of a y_j.

    Args:
        step_size: α. Default: what gradient tracking with the weights I + γ(W − I) would take (`tuned_step`).
        consensus_step: γ in (0, 1]. Default: δ of the link, E‖C(m) − m‖² ≤ (1 − δ)‖m‖².
            Both are guides, found on rings of quadratics; halve them if a run diverges.
        stochastic: use stochastic gradients; then the limit is a neighbourhood that shrinks with α.

    W symmetric and doubly stochastic, C a contraction, α and γ small enough: 1/k in general, linear under the Polyak-Łojasiewicz
    condition. A change that is lost is never made up for, so that the network must not lose any.

    Haoyu Zhao, Boyue Li, Zhize Li, Peter Richtárik, Yuejie Chi, *BEER: fast O(1/T) rate for decentralized nonconvex
    optimization with communication compression*, NeurIPS 2022.
    """

    step_size: Real | None = None
    consensus_step: Real | None = None
    stochastic: bool = eqx.field(static=True, default=False)

    combine: ClassVar[dict[str, Combine]] = {"x": Mix(), "y": Mix()}
    phases: ClassVar[tuple[str, ...]] = ("x", "y")
    needs: ClassVar[frozenset[str]] = frozenset({"doubly_stochastic", "smooth", "fixed", "reliable"})
    handles: ClassVar[frozenset[str]] = frozenset({"stochastic"})
    claims: ClassVar[Claims] = Claims(exact=True, rate="linear", theorem="Zhao et al. 2022, Theorem 4.3")

    def __check_init__(self):
        check_consensus_step("BEER", self.consensus_step)

    def resolve(self, facts: Facts) -> "BEER":
        chosen = self
        if self.consensus_step is None:
            chosen = fill(self, consensus_step=contraction_of(facts, "BEER", "consensus_step"))
        return chosen if self.step_size is not None else fill(chosen, step_size=tuned_step(chosen, facts))

    def init(self, local, x0, context: Context) -> BEERState:
        g = self._gradient(local, x0, context)
        return BEERState(x=x0, y=g, g=g, of_x=Replicas.none(x0), of_y=Replicas.none(x0))

    def send(self, state: BEERState, context: Context):
        if context.phase == "x":
            return {"x": state.of_x.change(self._moved(state))}
        return {"y": state.of_y.change(state.y)}

    def receive(self, local, state: BEERState, inbox, context: Context):
        if context.phase == "x":
            x = self._moved(state)
            g = self._gradient(local, x, context)
            y = plus(axpy(self.consensus_step, state.of_y.pull(), state.y), minus(g, state.g))
            known = state.of_x.after(context.sent["x"], inbox["x"])
            return BEERState(x=x, y=y, g=g, of_x=known, of_y=state.of_y), Info.of_gradient(g)
        known = state.of_y.after(context.sent["y"], inbox["y"])
        return eqx.tree_at(lambda s: s.of_y, state, known), Info.of_gradient(state.g)

    def restart(self, local, state: BEERState, context: Context) -> BEERState:
        return self.init(local, state.x, context)

    def estimate(self, state: BEERState):
        return state.x

    def step_bound(self, facts: Facts) -> float:
        """That of gradient tracking with the weights I + γ(W − I), where C = I."""
        low = -facts.sigma if facts.lambda_min is None else facts.lambda_min
        return min(2.0, (2 + self.consensus_step * (low - 1)) ** 2 / 2) / facts.smoothness

    def modes(self, curvature: float, eigenvalue: float) -> np.ndarray:
        """(x, y)⁺ from (x, y), where C = I."""
        w = 1 + self.consensus_step * (eigenvalue - 1)
        x = np.array([w, -self.step_size])
        return np.array([x, np.array([0.0, w]) + curvature * (x - np.array([1.0, 0.0]))])

    def _gradient(self, local, x, context: Context):
        return local.stochastic_grad(x, context.key) if self.stochastic else local.grad(x)

    def _moved(self, state: BEERState):
        return axpy(-self.step_size, state.y, axpy(self.consensus_step, state.of_x.pull(), state.x))
