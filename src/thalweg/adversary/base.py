"""The contract of adversaries.

Axes: `n` agents that send in a round (of a server: the slots of its cohort), `d` numbers of a message, `k` agents that may lie.
"""

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

Real = float | Float[Array, ""]


class Adversary(eqx.Module):
    """Some of the agents write what they like onto the wire, knowing what all others send (the usual worst case).

    They keep to the algorithm otherwise, so that their own records stay in order. What a run reports (the answer of peers,
    objective, consensus error, losses, worst clients) is of the honest agents; the liars' losses are NaN.

    Attributes:
        agents: positions of those agents in the problem.
    """

    agents: eqx.AbstractVar[tuple[int, ...]]

    @abc.abstractmethod
    def init(self, agents: int, d: int, dtype: Any) -> Any:
        """What it remembers before round 0: leaves `[agents, ...]`, a row for each that may lie."""

    @abc.abstractmethod
    def forge(
        self,
        memory: Any,
        messages: Float[Array, "n d"],
        bad: Bool[Array, " n"],
        present: Bool[Array, " n"],
        places: Int[Array, " n"],
        key: PRNGKeyArray,
        round: Int[Array, ""],
    ) -> tuple[Any, Float[Array, "n d"]]:
        """(what it remembers, what is sent); only rows where `bad` holds are used.

        Args:
            memory: as `init` made it.
            messages: `[n, d]` what everybody should send, as it would be decoded.
            bad: `[n]` who lies, of those that are `present` and send at all.
            places: `[n]` whose row of the memory is the sender's, where `bad` holds.
            key: of this round; the adversary's own.
        """


class Forgetful(Adversary):
    """An adversary that needs nothing of earlier rounds."""

    def init(self, agents: int, d: int, dtype: Any):
        return ()

    def forge(self, memory, messages, bad, present, places, key, round):
        return memory, self.lies(messages, bad, present & ~bad, key)

    @abc.abstractmethod
    def lies(
        self, messages: Float[Array, "n d"], bad: Bool[Array, " n"], honest: Bool[Array, " n"], key: PRNGKeyArray
    ) -> Float[Array, "n d"]:
        """What is sent where `bad` holds; `honest` are those that send the truth."""


def mean_of(messages: Float[Array, "n d"], honest: Bool[Array, " n"]) -> Float[Array, " d"]:
    """The mean over the honest."""
    count = jnp.maximum(jnp.sum(honest), 1).astype(messages.dtype)
    return jnp.sum(jnp.where(honest[:, None], messages, 0), axis=0) / count


def to_all(row: Float[Array, " d"], messages: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """The same from everybody."""
    return jnp.broadcast_to(row, messages.shape)


def agents_field() -> Any:
    """The field `agents` of a class."""
    return eqx.field(static=True, converter=lambda agents: tuple(int(i) for i in agents))
