"""The contract of adversaries.

Axes: `n` agents that send in a round (of a server: the slots of its cohort), `d` numbers of a message.
"""

import abc

import equinox as eqx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray


class Adversary(eqx.Module):
    """Some of the agents write what they like onto the wire, knowing what all others send (the usual worst case).

    Attributes:
        agents: positions of those agents in the problem.
    """

    agents: eqx.AbstractVar[tuple[int, ...]]

    @abc.abstractmethod
    def forge(
        self,
        messages: Float[Array, "n d"],
        bad: Bool[Array, " n"],
        present: Bool[Array, " n"],
        key: PRNGKeyArray,
        round: Int[Array, ""],
    ) -> Float[Array, "n d"]:
        """What is sent; only rows where `bad` holds are used.

        Args:
            messages: `[n, d]` what everybody should send, as it would be decoded.
            bad: `[n]` who lies; present: `[n]` who sends at all.
            key: of this round; the adversary's own.
        """
