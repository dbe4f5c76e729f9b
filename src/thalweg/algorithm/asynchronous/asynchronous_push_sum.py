"""Push-sum without rounds, by the exchange of running sums."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from thalweg.algorithm.base import Claims, Context, Facts

from .base import AsynchronousAlgorithm


class Holding(eqx.Module):
    """`mass`: of Σ m_i, like one measurement; `weight`: of n. Perhaps with a leading axis of slots."""

    mass: Any
    weight: Array


class RunningSums(eqx.Module):
    """`held`: (s_i, p_i), what the agent has; `given`: σ_i, all that it ever gave to each of those who hear it; `taken`: ρ_ij, the
    newest σ_j it heard, with a leading axis of slots; `news`: whether it took anything since it last gave."""

    held: Holding
    given: Holding
    taken: Holding
    news: Bool[Array, ""]


class AsynchronousPushSum(AsynchronousAlgorithm[RunningSums]):
    """Average consensus without rounds, on directed networks too: every agent ends with the mean of what was measured.

        s_i(0) = m_i,  p_i(0) = 1,  σ_i = ρ_ij = 0
        when i wakes:        σ_i ← σ_i + s_i/(1 + d_i),   s_i ← s_i − d_i s_i/(1 + d_i),    and sends σ_i
        when σ_j comes:      s_i ← s_i + σ_j − ρ_ij,   ρ_ij ← σ_j
        estimate:            x_i = s_i/p_i

    and p_i as s_i; d_i is how many hear i. σ_i is all that i ever gave, and the receiver takes the difference to what it has seen:
    what was lost comes with the next message, so that mass is delayed and never destroyed. Σ_i (s_i + what is under way) is
    conserved whoever wakes when, and all s_i/p_i tend to the same ratio, if every message gets through now and then.

    Who has taken nothing since it last gave sends its sums again, and gives nothing: an agent that wakes often would else give
    itself away. In floating point what is given is what σ_i really grew by. So rounding destroys no mass, but as σ_i grows with
    every wake, the x_i agree up to about K·ε after K of them.

    Randomised gossip, where two neighbours replace their values by the mean of both, is no such method: both must change at once,
    or the sum is not conserved, and an exchange that one end has done and the other has not cannot be told from a lost message.

    Christoforos Hadjicostis, Nitin Vaidya, Alejandro Domínguez-García, *Robust distributed average consensus via exchange of
    running sums*, IEEE Transactions on Automatic Control 61, 2016.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"measurements"})
    exact_under: ClassVar[frozenset[str]] = frozenset({"independent", "asleep", "delay"})
    claims: ClassVar[Claims] = Claims(
        exact=True, rate="linear", theorem="Hadjicostis, Vaidya and Domínguez-García 2016, Theorem 2"
    )

    def resolve(self, facts: Facts) -> "AsynchronousPushSum":
        return self

    def init(self, local, x0, context: Context) -> RunningSums:
        mass = local.measurement(context.key)
        held = Holding(mass, jnp.ones((), jnp.result_type(*jax.tree.leaves(mass))))
        blank = lambda *lead: jax.tree.map(lambda leaf: jnp.zeros((*lead, *leaf.shape), leaf.dtype), held)
        return RunningSums(held, blank(), blank(*context.mask.shape), jnp.asarray(True))

    def wake(self, local, state: RunningSums, context: Context):
        def grown(given, held):
            share = held / (1 + context.out_degree.astype(held.dtype))
            return given + jnp.where(state.news, share, 0)

        def kept(held, given, before):
            return held - context.out_degree.astype(held.dtype) * (given - before)

        given = jax.tree.map(grown, state.given, state.held)
        held = jax.tree.map(kept, state.held, given, state.given)
        return RunningSums(held, given, state.taken, jnp.asarray(False)), {"mass": given.mass, "weight": given.weight}

    def on_message(self, local, state: RunningSums, message, slot, context: Context) -> RunningSums:
        sums = Holding(message["mass"], message["weight"])
        before = jax.tree.map(lambda leaf: leaf[slot], state.taken)
        held = jax.tree.map(lambda held, new, old: held + (new - old), state.held, sums, before)
        taken = jax.tree.map(lambda leaf, new: leaf.at[slot].set(new), state.taken, sums)
        return RunningSums(held, state.given, taken, state.news | (sums.weight != before.weight))

    def estimate(self, state: RunningSums):
        return jax.tree.map(lambda leaf: leaf / state.held.weight.astype(leaf.dtype), state.held.mass)
