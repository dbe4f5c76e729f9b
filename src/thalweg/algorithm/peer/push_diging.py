"""Push-DIGing: gradient tracking over push-sum."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from thalweg._trees import axpy, minus, plus
from thalweg.algorithm.base import Claims, Context, Facts, Info, PeerAlgorithm
from thalweg.algorithm.step import Real, fill
from thalweg.message.combine import Combine, Push

from .push_pull import guided_step, tracking_modes


class PushDIGingState(eqx.Module):
    """`x` = u/v: the iterate; `u`, `v`: push-sum numerator and weight; `y`: share of the sum of all gradients; `g`: ∇φ_i at
    `x`."""

    x: Any
    u: Any
    v: Float[Array, ""]
    y: Any
    g: Any


class PushDIGing(PeerAlgorithm[PushDIGingState]):
    """Push-DIGing: gradient tracking where nobody needs to know who listens beyond a count.

        u_i ← Σ_j b_ij (u_j − α y_j),    v_i ← Σ_j b_ij v_j,    x_i = u_i/v_i
        y_i ← Σ_j b_ij y_j + ∇φ_i(x_i) − ∇φ_i(x_i, previous)

    with B column-stochastic (senders choose), u_i(0) = x_i(0), v_i(0) = 1, y_i(0) = ∇φ_i(x_i(0)). What is lost or late is
    caught up by running sums per edge. u, v and y travel together, so the mass in flight is that of one more, virtual agent
    who delays: Σ u, Σ v = n and Σ y = Σ ∇φ_i hold with the mass in flight counted, and the ratio needs no correction.
    Hence exact under loss in either direction, sleeping agents and delays, as on any time-varying strongly connected digraph.
    But gradients are divided by v, which falls to a hundredth or less where an agent of low in-degree misses a few messages in
    a row (loss, sleep): steps must then be smaller than for `PushPull`, which has no such ratio, and where much fails at once
    on a sparse digraph none that is practical may be small enough.

    Args:
        step_size: α. Default: as `PushPull`, a guide and not a bound: the proved bound shrinks exponentially with n. Halve it
            if a run diverges (heavy loss, very unequal degrees).
        stochastic: use stochastic gradients; then the limit is a neighbourhood that shrinks with α.

    The running sums grow linearly with the rounds: in float32 and with failures, expect 1e-7·rounds of rounding in x.

    Angelia Nedić, Alex Olshevsky, Wei Shi, *Achieving geometric convergence for distributed optimization over time-varying
    graphs*, SIAM Journal on Optimization 27, 2017; running sums: Christoforos Hadjicostis, Nitin Vaidya, Alejandro
    Domínguez-García, *Robust distributed average consensus via exchange of running sums*, IEEE Transactions on Automatic
    Control 61, 2016.
    """

    step_size: Real | None = None
    stochastic: bool = eqx.field(static=True, default=False)

    combine: ClassVar[dict[str, Combine]] = {"u": Push(), "v": Push(), "y": Push()}
    needs: ClassVar[frozenset[str]] = frozenset({"smooth"})
    handles: ClassVar[frozenset[str]] = frozenset({"stochastic"})
    exact_under: ClassVar[frozenset[str]] = frozenset({"symmetric", "independent", "asleep", "delay"})
    claims: ClassVar[Claims] = Claims(exact=True, rate="linear", theorem="Nedić, Olshevsky and Shi 2017, on Push-DIGing")

    def resolve(self, facts: Facts) -> "PushDIGing":
        return self if self.step_size is not None else fill(self, step_size=guided_step(facts))

    def init(self, local, x0, context: Context) -> PushDIGingState:
        g = self._gradient(local, x0, context)
        one = jnp.ones((), jnp.result_type(*jax.tree.leaves(x0)))
        return PushDIGingState(x=x0, u=x0, v=one, y=g, g=g)

    def send(self, state: PushDIGingState, context: Context):
        return {"u": axpy(-self.step_size, state.y, state.u), "v": state.v, "y": state.y}

    def receive(self, local, state: PushDIGingState, inbox, context: Context):
        u, v = inbox["u"], inbox["v"]
        x = jax.tree.map(lambda leaf: leaf / v.astype(leaf.dtype), u)
        g = self._gradient(local, x, context)
        y = plus(inbox["y"], minus(g, state.g))
        return PushDIGingState(x=x, u=u, v=v, y=y, g=g), Info.of_gradient(g)

    def restart(self, local, state: PushDIGingState, context: Context) -> PushDIGingState:
        return self.init(local, state.x, context)

    def estimate(self, state: PushDIGingState):
        return state.x

    def modes(self, curvature: float, eigenvalue: float) -> np.ndarray:
        """Where B is symmetric, with this `eigenvalue`; v is then 1. At 1, of the mean of x."""
        return tracking_modes(self.step_size, curvature, eigenvalue)

    def _gradient(self, local, x, context: Context):
        return local.stochastic_grad(x, context.key) if self.stochastic else local.grad(x)
