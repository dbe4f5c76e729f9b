"""CHOCO-gossip: average consensus with compressed messages."""

from typing import Any, ClassVar

import equinox as eqx

from thalweg._trees import axpy
from thalweg.algorithm.base import Claims, Context, Facts, Info, PeerAlgorithm
from thalweg.algorithm.step import Real, fill
from thalweg.message.combine import Combine, Mix

from .replicas import Replicas, contraction_of


class ChocoGossipState(eqx.Module):
    """`x`: this agent's current value; `known`: replicas of it and around it."""

    x: Any
    known: Replicas


class ChocoGossip(PeerAlgorithm[ChocoGossipState]):
    """CHOCO-gossip: every agent ends with the mean of what was measured, exactly, though messages are compressed.

        i sends q_i = C(x_i − x̂_i);    x̂_j ← x̂_j + q_j  for itself and its neighbours
        x_i ← x_i + γ Σ_j w_ij (x̂_j − x̂_i)

    with x_i(0) what was measured, x̂_i(0) = 0, and C the pipeline `link=`. Σ_i x_i stays what it was, whatever C does; as the x_i
    settle, changes vanish, and with them what compression leaves out. With C = I and γ = 1 this is `Averaging`. Under `Averaging`
    with a compressed link the mean stays too, and disagreement at the size of what is left out of a value.

    Args:
        consensus_step: γ in (0, 1]. Default: δ of the link, E‖C(m) − m‖² ≤ (1 − δ)‖m‖², which is a guide: the proved bound has
            δ and the spectral gap squared in it and is far too small; compressors do better than their worst case.

    W symmetric and doubly stochastic, C a contraction, γ small enough: linear. A change that is lost is never made up for, so that
    the network must not lose any.

    Anastasia Koloskova, Sebastian Stich, Martin Jaggi, *Decentralized stochastic optimization and gossip algorithms with
    compressed communication*, ICML 2019.
    """

    consensus_step: Real | None = None

    combine: ClassVar[dict[str, Combine]] = {"x": Mix()}
    needs: ClassVar[frozenset[str]] = frozenset({"doubly_stochastic", "measurements", "fixed", "reliable"})
    claims: ClassVar[Claims] = Claims(
        exact=True, rate="linear", theorem="Koloskova, Stich and Jaggi 2019, Theorem 2", centralised_on_complete=True
    )

    def __check_init__(self):
        check_consensus_step("ChocoGossip", self.consensus_step)

    def resolve(self, facts: Facts) -> "ChocoGossip":
        if self.consensus_step is not None:
            return self
        return fill(self, consensus_step=contraction_of(facts, "ChocoGossip", "consensus_step"))

    def init(self, local, x0, context: Context) -> ChocoGossipState:
        x = local.measurement(context.key)
        return ChocoGossipState(x, Replicas.none(x))

    def send(self, state: ChocoGossipState, context: Context):
        return {"x": state.known.change(state.x)}

    def receive(self, local, state: ChocoGossipState, inbox, context: Context):
        known = state.known.after(context.sent["x"], inbox["x"])
        return ChocoGossipState(axpy(self.consensus_step, known.pull(), state.x), known), Info.none()

    def restart(self, local, state: ChocoGossipState, context: Context) -> ChocoGossipState:
        return self.init(local, None, context)

    def estimate(self, state: ChocoGossipState):
        return state.x


def check_consensus_step(name: str, step: Any) -> None:
    """A number in (0, 1], or None.

    Raises:
        ValueError: it is none.
    """
    if isinstance(step, float) and not 0 < step <= 1:
        raise ValueError(f"{name}(consensus_step={step!r}): expected a number in (0, 1], or None for the default")
