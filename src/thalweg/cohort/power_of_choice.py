"""A cohort of the clients that do worst, among a few drawn by weight."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp

from .base import Cohort, Draw, check_size, remembered, weighted


class PowerOfChoice(Cohort):
    """`candidates` different clients are drawn by weight; the `size` of them with the largest losses take part, and count alike.

    The losses are those that clients reported when they last took part, over their local steps of then: they are *stale*, the
    more so the rarer a client takes part (the variant rpow-d of the paper, which costs no extra messages). A client that never
    reported is taken before all others. Biased towards clients with large losses: faster at first, and another limit. With as
    many candidates as `size` it is a plain draw by weight.

    Yae Jee Cho, Jianyu Wang, Gauri Joshi, *Towards understanding biased client selection in federated learning*, AISTATS 2022.
    """

    size: int = eqx.field(static=True)
    candidates: int = eqx.field(static=True)
    normalise: bool = eqx.field(static=True, default=True)

    unbiased: ClassVar[bool] = False
    reports: ClassVar[tuple[str, ...]] = ("loss",)

    def __check_init__(self):
        check_size("power_of_choice", self.size)
        check_size("power_of_choice candidates", self.candidates)
        if self.candidates < self.size:
            raise ValueError(
                f"cohort power_of_choice: got {self.candidates} candidates for {self.size} places, expected at least as many; "
                "twice as many is usual"
            )

    def slots(self, n: int) -> int:
        check_size("power_of_choice candidates", self.candidates, n)
        return self.size

    def init(self, registry):
        return jnp.full_like(registry.weights, jnp.inf)

    def draw(self, state, registry, key):
        found, there = weighted(key, registry.weights, self.candidates)
        # Candidates come in random order and the sort is stable, so that ties, and so the unknown, are broken at random.
        order = jnp.argsort(jnp.where(there, -state[found], jnp.inf), stable=True)[: self.size]
        members, valid = found[order], there[order]
        order = jnp.argsort(members)
        members, valid = members[order], valid[order]
        # Chosen in proportion to their weight already, they count alike: factor·w_i = 1.
        return Draw(members, valid, 1 / jnp.maximum(registry.weights[members], jnp.finfo(state.dtype).tiny))

    def learn(self, state, registry, draw, arrived, reported):
        return remembered(state, draw, arrived, reported["loss"])


def power_of_choice(size: int, candidates: int) -> PowerOfChoice:
    """Of `candidates` clients drawn by weight the `size` with the largest losses, as they last reported them."""
    return PowerOfChoice(size, candidates)
