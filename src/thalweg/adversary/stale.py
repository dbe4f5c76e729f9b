"""Yesterday's truth."""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp

from .base import Adversary, agents_field


class Stale(Adversary):
    """Everybody who lies sends what it should have sent when it last was asked `age` times ago; until then the first one.

    The replay of a message of the wire, sequence number and all, is another matter: what receives messages from a network must
    refuse it.
    """

    agents: tuple[int, ...] = agents_field()
    age: int = eqx.field(static=True, default=10)

    def __check_init__(self):
        if self.age < 1:
            raise ValueError(f"stale(age={self.age!r}): expected a whole number ≥ 1 of messages")

    def init(self, agents, d, dtype):
        """(the last `age` messages of each, how many it has sent)."""
        return jnp.zeros((agents, self.age, d), dtype), jnp.zeros(agents, jnp.int32)

    def forge(self, memory, messages, bad, present, places, key, round):
        kept, counts = memory
        count = counts[places]
        turn = count % self.age
        sent = jnp.where(
            (count < self.age)[:, None], jnp.where((count == 0)[:, None], messages, kept[places, 0]), kept[places, turn]
        )
        row = jnp.where(bad, places, len(counts))
        kept = kept.at[row, turn].set(messages, mode="drop")
        return (kept, counts.at[row].add(1, mode="drop")), sent


def stale(agents: Sequence[int], age: int = 10) -> Stale:
    """`agents` send what they should have sent `age` messages ago."""
    return Stale(agents, age)
