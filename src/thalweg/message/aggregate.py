"""Aggregators: what a server makes of its clients' messages in place of their weighted mean, and peers of their neighbours'.

An algorithm's fields with the rule `Mean()` (of peers: `Mix()`) are handed to the aggregator together, as one vector per agent.

Axes: `c` slots of a cohort (or of a neighbourhood), `d` numbers of a message.
"""

import abc
from typing import Any, ClassVar

import equinox as eqx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .flow import Flow
from .payload import payload_bytes


class Aggregator(eqx.Module):
    """What a server makes of its clients' messages.

    Class attributes:
        individual: it looks at single messages, so it cannot stand behind a secure sum.
        unweighted: it counts every client once, whatever its weight.
        sealed: clients multiply by their weights and seal the product, so that `weights` are what each client that was drawn knows
            by itself, whether or not it arrives; not divided by their sum (`resolve` says whether that is wanted).
    """

    individual: ClassVar[bool] = True
    unweighted: ClassVar[bool] = True
    sealed: ClassVar[bool] = False

    @abc.abstractmethod
    def resolve(self, slots: int, normalise: bool) -> "Aggregator":
        """The aggregator of cohorts with so many slots, once, before round 0.

        Args:
            slots: c, the most clients that a cohort has.
            normalise: whether the mean over those that arrived is wanted. Unless the aggregator is `sealed`, weights are divided by
                their sum before `combine` sees them.

        Raises:
            ValueError: it is not made for such a cohort: too few clients, for example.
        """

    def accept(self, arrived: Bool[Array, " c"], drawn: Bool[Array, " c"]) -> Bool[Array, " c"]:
        """Whose message counts, of those that arrived: a protocol that aborts has nobody's. Asked of what is `sealed`,
        before `combine`.
        """
        return arrived

    @abc.abstractmethod
    def after(self, flow: Flow) -> Flow:
        """What is known of the aggregate, from what is known of one client's message.

        Raises:
            ValueError: the composition is unsound.
        """

    @abc.abstractmethod
    def init(self, d: int, dtype: Any) -> Any:
        """What it remembers before round 0."""

    @abc.abstractmethod
    def combine(
        self,
        state: Any,
        messages: Float[Array, "c d"],
        weights: Float[Array, " c"],
        arrived: Bool[Array, " c"],
        key: PRNGKeyArray,
    ) -> tuple[Any, Float[Array, " d"]]:
        """(what it remembers after this round, the aggregate).

        Args:
            weights: `[c]` what estimates the mean over the population as Σ_i weights_i messages_i; zero where nothing arrived.
            arrived: `[c]` whose message arrived; rows of the others are zero.
            key: of this round; from the secret stream.
        """

    def bytes(self, wire: Any) -> int:
        """Payload that one client sends when its pipeline has written `wire` (shapes)."""
        return payload_bytes(wire)


class Mixer(eqx.Module):
    """What a peer makes of its neighbours' messages in place of Σ_j w_ij m_j."""

    @abc.abstractmethod
    def check(self, neighbours: int) -> None:
        """Refuse to stand where an agent has as few neighbours.

        Raises:
            ValueError: so few are not what it is made for.
        """

    @abc.abstractmethod
    def mix(
        self,
        own: Float[Array, " d"],
        values: Float[Array, "c d"],
        weights: Float[Array, " c"],
        self_weight: Float[Array, ""],
        arrived: Bool[Array, " c"],
    ) -> Float[Array, " d"]:
        """The combined message.

        Args:
            own: `[d]` one's own message; values: `[c, d]` the neighbours', one's own where nothing arrived.
            weights: `[c]` zero where nothing arrived; self_weight: with the weight of what did not arrive.
            arrived: `[c]` whose message arrived.
        """
