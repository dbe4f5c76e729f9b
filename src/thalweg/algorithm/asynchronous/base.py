"""The contract of methods without rounds: what an agent does when its own clock rings, and what when a message comes.

The sibling of `PeerAlgorithm`. Here nobody waits for anybody: agents wake when they like, messages come when they come, or never.
"""

import abc
from typing import Any, ClassVar, Generic

import equinox as eqx
import numpy as np
from jaxtyping import Array, Int

from thalweg.algorithm.base import Claims, Context, Facts, Message, State


class AsynchronousAlgorithm(eqx.Module, Generic[State]):
    """Neighbours, no centre, no rounds.

    A message is a dictionary; what `wake` returns is all that leaves an agent. Messages of one sender are heard in the order in
    which they were sent: one that was overtaken by a later one is dropped, and a deployed site that has no time for all passes over
    those that are not the newest, as if they were lost.

    Hyper-parameters as in `PeerAlgorithm`. Of the `Context`, `round` counts the agent's own wakes, `weights` are zeros, and `awake`
    is true; a key is new in every wake, and the same in all messages heard between two.

    Class attributes:
        per_neighbour: fields of the message that differ between neighbours: they have a leading axis of slots `[max_degree, ...]`,
            and each neighbour hears its own entry. All others hear the same. They need an undirected network.
        needs: facts that must hold: "undirected", "smooth", "strongly_convex" or "measurements".
        handles: what it can use: "constants" (L and μ, where they exist), "regularizer" (through its prox).
        exact_under: failures under which the claim still holds, of "independent" (a message is lost), "asleep", "delay".
    """

    per_neighbour: ClassVar[frozenset[str]] = frozenset()
    needs: ClassVar[frozenset[str]] = frozenset()
    handles: ClassVar[frozenset[str]] = frozenset()
    claims: ClassVar[Claims]
    exact_under: ClassVar[frozenset[str]] = frozenset()

    @abc.abstractmethod
    def resolve(self, facts: Facts) -> "AsynchronousAlgorithm":
        """Fill what was left None (penalties, step sizes), once, before anybody wakes."""

    @abc.abstractmethod
    def init(self, local, x0, context: Context) -> State:
        """State of one agent before it first wakes."""

    @abc.abstractmethod
    def wake(self, local, state: State, context: Context) -> tuple[State, Message]:
        """The agent's clock rings: it works on its own problem, and has a message for those who hear it."""

    @abc.abstractmethod
    def on_message(self, local, state: State, message: Message, slot: Int[Array, ""], context: Context) -> State:
        """A message of the neighbour in `slot` has come; of fields that differ between neighbours, the own entry."""

    @abc.abstractmethod
    def estimate(self, state: State) -> Any:
        """The agent's answer now."""

    def step_bound(self, facts: Facts) -> float | np.ndarray | None:
        """Largest step size under which convergence is proved, where a bound is known."""
        return None
