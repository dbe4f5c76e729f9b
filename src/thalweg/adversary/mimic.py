"""Mimicry: nobody lies, and one client counts many times."""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp

from .base import Forgetful, agents_field, mean_of, to_all


class Mimic(Forgetful):
    """All liars send what one honest agent sends, so that it counts many times where agents differ.

    The one is the honest row `victim` of those that send (counted from 0), or, where it is None, the one that lies farthest from
    the honest mean in this round: a stand-in for the direction that the paper learns over the first rounds.

    Sai Praneeth Karimireddy, Lie He, Martin Jaggi, *Byzantine-robust learning on heterogeneous datasets via bucketing*, ICLR 2022.
    """

    agents: tuple[int, ...] = agents_field()
    victim: int | None = eqx.field(static=True, default=None)

    def lies(self, messages, bad, honest, key):
        if self.victim is None:
            away = jnp.sum((messages - mean_of(messages, honest)[None]) ** 2, axis=1)
            chosen = jnp.argmax(jnp.where(honest, away, -1))
        else:
            chosen = jnp.argmax(jnp.cumsum(honest) > self.victim)
        return to_all(messages[chosen], messages)


def mimic(agents: Sequence[int], victim: int | None = None) -> Mimic:
    """`agents` repeat what one honest agent says, by default the one that differs most."""
    return Mimic(agents, victim)
