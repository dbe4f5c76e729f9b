"""Average consensus by linear iterations."""

from typing import Any, ClassVar

import equinox as eqx
import numpy as np

from thalweg.algorithm.base import Claims, Context, Facts, Info, PeerAlgorithm
from thalweg.message.combine import Combine, Mix


class AveragingState(eqx.Module):
    """`x`: this agent's current value."""

    x: Any


class Averaging(PeerAlgorithm[AveragingState]):
    """Average consensus: every agent ends with the mean of what was measured.

        x_i(0) = m_i,    x_i ← Σ_j w_ij x_j

    Contracts the consensus error by σ (second largest eigenvalue modulus of W) per round. On a pairwise gossip schedule
    (`tw.network.pairwise_gossip`) this is randomised gossip, E[W] = I − L_g/(2|E|). The mean is conserved while W_k is
    doubly stochastic: under symmetric loss and sleeping agents, not under independent loss.

    Lin Xiao and Stephen Boyd, *Fast linear iterations for distributed averaging*, Systems & Control Letters 53, 2004;
    Stephen Boyd et al., *Randomized gossip algorithms*, IEEE Transactions on Information Theory 52, 2006.
    """

    combine: ClassVar[dict[str, Combine]] = {"x": Mix()}
    needs: ClassVar[frozenset[str]] = frozenset({"doubly_stochastic", "measurements"})
    exact_under: ClassVar[frozenset[str]] = frozenset({"symmetric", "asleep"})
    claims: ClassVar[Claims] = Claims(
        exact=True, rate="linear", theorem="Xiao and Boyd 2004, Theorem 1", centralised_on_complete=True
    )

    def resolve(self, facts: Facts) -> "Averaging":
        return self

    def init(self, local, x0, context: Context) -> AveragingState:
        return AveragingState(local.measurement(context.key))

    def send(self, state: AveragingState, context: Context):
        return {"x": state.x}

    def receive(self, local, state: AveragingState, inbox, context: Context):
        return AveragingState(inbox["x"]), Info.none()

    def restart(self, local, state: AveragingState, context: Context) -> AveragingState:
        return AveragingState(local.measurement(context.key))

    def estimate(self, state: AveragingState):
        return state.x

    def modes(self, curvature: float, eigenvalue: float) -> np.ndarray:
        return np.array([[eigenvalue]])
