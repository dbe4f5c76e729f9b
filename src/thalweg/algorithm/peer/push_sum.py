"""Push-sum."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from thalweg.algorithm.base import Claims, Context, Facts, Info, PeerAlgorithm
from thalweg.message.combine import Combine, Push


class PushSumState(eqx.Module):
    """`mass`: this agent's share of Σ m_i; `weight []`: its share of n."""

    mass: Any
    weight: jax.Array


class PushSum(PeerAlgorithm[PushSumState]):
    """Average consensus on a directed network: every agent ends with the mean of what was measured.

        s_i(0) = m_i, p_i(0) = 1,    s_i ← Σ_j b_ij s_j,   p_i ← Σ_j b_ij p_j,   x_i = s_i/p_i

    B is column-stochastic: a sender splits what it holds and needs to know only how many hear it. Σ s and Σ p are conserved,
    and both settle along the same Perron vector, which the ratio divides out. The error contracts by |λ_2(B)| per round, on a
    complete graph to nothing in the first.

    The engine sends running sums, so that a message that is lost, late, or finds its receiver asleep delays mass and never
    destroys it: the limit stays the exact mean under every kind of failure.

    David Kempe, Alin Dobra, Johannes Gehrke, *Gossip-based computation of aggregate information*, FOCS 2003; Christoforos
    Hadjicostis, Nitin Vaidya, Alejandro Domínguez-García, *Robust distributed average consensus via exchange of running sums*,
    IEEE Transactions on Automatic Control 61, 2016.
    """

    combine: ClassVar[dict[str, Combine]] = {"mass": Push(), "weight": Push()}
    needs: ClassVar[frozenset[str]] = frozenset({"measurements"})
    exact_under: ClassVar[frozenset[str]] = frozenset({"symmetric", "independent", "asleep", "delay"})
    claims: ClassVar[Claims] = Claims(
        exact=True,
        rate="linear",
        theorem="Kempe, Dobra and Gehrke 2003; with failures Hadjicostis et al. 2016",
        centralised_on_complete=True,
    )

    def resolve(self, facts: Facts) -> "PushSum":
        return self

    def init(self, local, x0, context: Context) -> PushSumState:
        mass = local.measurement(context.key)
        return PushSumState(mass, jnp.ones((), jnp.result_type(*jax.tree.leaves(mass))))

    def send(self, state: PushSumState, context: Context):
        return {"mass": state.mass, "weight": state.weight}

    def receive(self, local, state: PushSumState, inbox, context: Context):
        return PushSumState(inbox["mass"], inbox["weight"]), Info.none()

    def restart(self, local, state: PushSumState, context: Context) -> PushSumState:
        return self.init(local, None, context)

    def estimate(self, state: PushSumState):
        return jax.tree.map(lambda leaf: leaf / state.weight.astype(leaf.dtype), state.mass)
