"""CHOCO-SGD: decentralised gradient descent with compressed messages."""

from typing import Any, ClassVar

import equinox as eqx

from thalweg._trees import axpy
from thalweg.algorithm.base import Claims, Context, Facts, Info, PeerAlgorithm
from thalweg.algorithm.step import Real, fill
from thalweg.message.combine import Combine, Mix

from .choco_gossip import check_consensus_step
from .replicas import Replicas, contraction_of


class ChocoSGDState(eqx.Module):
    """`x`: the iterate; `half`: x after a gradient step; `known`: replicas of `half` and around it."""

    x: Any
    half: Any
    known: Replicas


class ChocoSGD(PeerAlgorithm[ChocoSGDState]):
    """CHOCO-SGD: a gradient step, then a step of `ChocoGossip` towards the neighbours.

        v_i = x_i − α ∇φ_i(x_i)
        i sends q_i = C(v_i − x̂_i);    x̂_j ← x̂_j + q_j  for itself and its neighbours
        x_i ← v_i + γ Σ_j w_ij (x̂_j − x̂_i)

    with x̂_i(0) = 0 and C the pipeline `link=`. With C = I and γ = 1 this is `Diffusion`. As there, the limit is off the optimum by
    O(α), the more so the smaller γ is: mean(x) takes the steps of the mean gradient, whatever C does, but agents stay
    apart. `BEER` and `LEAD` have no such floor.

    Args:
        step_size: α. Default: 1/L, which is fast and coarse; halve it to halve the error of the limit.
        consensus_step: γ in (0, 1]. Default: δ of the link, E‖C(m) − m‖² ≤ (1 − δ)‖m‖², a guide.
        stochastic: use stochastic gradients.

    W symmetric and doubly stochastic, C a contraction, α and γ small enough. A change that is lost is never made up for, so that
    the network must not lose any.

    Anastasia Koloskova, Sebastian Stich, Martin Jaggi, *Decentralized stochastic optimization and gossip algorithms with
    compressed communication*, ICML 2019; Anastasia Koloskova, Tao Lin, Sebastian Stich, Martin Jaggi, *Decentralized deep
    learning with arbitrary communication compression*, ICLR 2020.
    """

    step_size: Real | None = None
    consensus_step: Real | None = None
    stochastic: bool = eqx.field(static=True, default=False)

    combine: ClassVar[dict[str, Combine]] = {"x": Mix()}
    needs: ClassVar[frozenset[str]] = frozenset({"doubly_stochastic", "smooth", "fixed", "reliable"})
    handles: ClassVar[frozenset[str]] = frozenset({"stochastic"})
    claims: ClassVar[Claims] = Claims(
        exact=False, rate="linear", theorem="Koloskova, Stich and Jaggi 2019, Theorem 4", centralised_on_complete=True
    )

    def __check_init__(self):
        check_consensus_step("ChocoSGD", self.consensus_step)

    def resolve(self, facts: Facts) -> "ChocoSGD":
        chosen = fill(self, step_size=1 / facts.smoothness)
        if chosen.consensus_step is not None:
            return chosen
        return fill(chosen, consensus_step=contraction_of(facts, "ChocoSGD", "consensus_step"))

    def init(self, local, x0, context: Context) -> ChocoSGDState:
        return self._adapted(local, x0, Replicas.none(x0), context)[0]

    def send(self, state: ChocoSGDState, context: Context):
        return {"x": state.known.change(state.half)}

    def receive(self, local, state: ChocoSGDState, inbox, context: Context):
        known = state.known.after(context.sent["x"], inbox["x"])
        x = axpy(self.consensus_step, known.pull(), state.half)
        state, g = self._adapted(local, x, known, context)
        return state, Info.of_gradient(g)

    def restart(self, local, state: ChocoSGDState, context: Context) -> ChocoSGDState:
        return self.init(local, state.x, context)

    def estimate(self, state: ChocoSGDState):
        return state.x

    def _adapted(self, local, x, known: Replicas, context: Context):
        """(the state after a gradient step from x, ∇φ_i(x))."""
        g = local.stochastic_grad(x, context.key) if self.stochastic else local.grad(x)
        return ChocoSGDState(x, axpy(-self.step_size, g, x), known), g
