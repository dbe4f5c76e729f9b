"""Consensus on the largest or the smallest of what was measured."""

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from thalweg.algorithm.base import Claims, Context, Facts, Info, PeerAlgorithm
from thalweg.message.combine import Combine, Neighbours, Stack


class ExtremumState(eqx.Module):
    """`x`: the extremum of everything heard so far, entry by entry."""

    x: Any


class _Extremum(PeerAlgorithm[ExtremumState]):
    """What `MaxConsensus` and `MinConsensus` share: x_i ← ext_{j ∈ N_i ∪ {i}} x_j, which forgets nothing it has heard."""

    combine: ClassVar[dict[str, Combine]] = {"x": Neighbours()}
    needs: ClassVar[frozenset[str]] = frozenset({"measurements"})
    exact_under: ClassVar[frozenset[str]] = frozenset({"symmetric", "independent", "asleep", "delay"})
    claims: ClassVar[Claims] = Claims(
        exact=True, rate="finite", theorem="Monajemi Nejad, Attia and Raisch 2009", centralised_on_complete=True
    )

    @abc.abstractmethod
    def extreme(self, stack):
        """The extremum over the leading axis, entry by entry."""

    def resolve(self, facts: Facts) -> "_Extremum":
        return self

    def init(self, local, x0, context: Context) -> ExtremumState:
        return ExtremumState(local.measurement(context.key))

    def send(self, state: ExtremumState, context: Context):
        return {"x": state.x}

    def receive(self, local, state: ExtremumState, inbox, context: Context):
        heard: Stack = inbox["x"]

        def update(own, slots):
            silent = ~heard.mask.reshape(-1, *(1,) * own.ndim)
            return self.extreme(jnp.concatenate([own[None], jnp.where(silent, own[None], slots)]))

        return ExtremumState(jax.tree.map(update, state.x, heard.values)), Info.none()

    def restart(self, local, state: ExtremumState, context: Context) -> ExtremumState:
        return self.init(local, None, context)

    def estimate(self, state: ExtremumState):
        return state.x


class MaxConsensus(_Extremum):
    """Every agent ends with the largest measurement, entry by entry.

        x_i(0) = m_i,    x_i ← max(x_i, max_{j ∈ N_i} x_j)

    Exact after as many rounds as the network's diameter, on directed networks too. Failures only postpone it: hearing a value
    twice, late or out of order changes nothing. This is how agents find constants such as max L_i before round 0.

    Behrang Monajemi Nejad, Sid Ahmed Attia, Jörg Raisch, *Max-consensus in a max-plus algebraic setting: the case of fixed
    communication topologies*, International Symposium on Information, Communication and Automation Technologies, 2009; Jorge
    Cortés, *Distributed algorithms for reaching consensus on general functions*, Automatica 44, 2008.
    """

    def extreme(self, stack):
        return jnp.max(stack, axis=0)


class MinConsensus(_Extremum):
    """Every agent ends with the smallest measurement, entry by entry.

        x_i(0) = m_i,    x_i ← min(x_i, min_{j ∈ N_i} x_j)

    Exact after as many rounds as the network's diameter; see `MaxConsensus`.

    Jorge Cortés, *Distributed algorithms for reaching consensus on general functions*, Automatica 44, 2008.
    """

    def extreme(self, stack):
        return jnp.min(stack, axis=0)
