"""A cohort of useful and fast clients."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .base import Cohort, Draw, check_size, remembered, weighted

# Clients whose utility is at least this share of the last one that would be chosen are in the draw.
CUTOFF = 0.95


class Memory(eqx.Module):
    """Last reported losses `[n]`, infinite where unknown; rounds in which they were reported `[n]`; rounds so far."""

    loss: Float[Array, " n"]
    seen: Int[Array, " n"]
    rounds: Int[Array, ""]


class Oort(Cohort):
    """A share `exploration` of the places for clients that never reported, fast ones first; the others by utility,

        (w_i l_i/max_j w_j l_j + √(log(k)/(10 k_i))) · (T/t_i)^alpha   (the last factor where t_i > T),

    l_i the loss (zero for a negative one) reported when the client last took part, in round k_i, now being round k; t_i its
    expected duration and T = `preferred_seconds`. Among those near the cut-off it is drawn in proportion to utility. While too
    few clients are known, the others fill the places. Biased towards large losses and fast devices: time to accuracy is the
    aim, not the optimum.

    In place of the paper's Σ over examples of squared losses, which clients would have to report, stands weight × mean loss; T
    is given, not adapted, and clients are not retired.

    Fan Lai, Xiangfeng Zhu, Harsha Madhyastha, Mosharaf Chowdhury, *Oort: efficient federated learning via guided participant
    selection*, OSDI 2021, algorithm 1.
    """

    size: int = eqx.field(static=True)
    exploration: float = eqx.field(static=True)
    alpha: float = eqx.field(static=True)
    preferred_seconds: float = eqx.field(static=True)
    normalise: bool = eqx.field(static=True, default=True)

    unbiased: ClassVar[bool] = False
    reports: ClassVar[tuple[str, ...]] = ("loss",)

    def __check_init__(self):
        check_size("oort", self.size)
        if not 0 <= self.exploration <= 1:
            raise ValueError(f"cohort oort: got exploration {self.exploration!r}, expected a share of the cohort in [0, 1]")
        if not self.alpha >= 0:
            raise ValueError(f"cohort oort: got alpha {self.alpha!r}, expected a number ≥ 0, the penalty of slow devices")
        if not self.preferred_seconds > 0:
            raise ValueError(f"cohort oort: got preferred_seconds {self.preferred_seconds!r}, expected a positive number")

    def slots(self, n: int) -> int:
        check_size("oort", self.size, n)
        return self.size

    def init(self, registry):
        return Memory(jnp.full_like(registry.weights, jnp.inf), jnp.zeros(registry.n, jnp.int32), jnp.asarray(0, jnp.int32))

    def utility(self, state: Any, registry) -> Float[Array, " n"]:
        """`[n]` of the known clients, zero of the others."""
        dtype, known = registry.weights.dtype, jnp.isfinite(state.loss)
        gain = jnp.where(known, registry.weights * jnp.maximum(state.loss, 0), 0)
        gain = gain / jnp.maximum(jnp.max(gain), jnp.finfo(dtype).tiny)
        now, seen = (state.rounds + 1).astype(dtype), jnp.maximum(state.seen, 1).astype(dtype)
        doubt = jnp.sqrt(0.1 * jnp.log(now) / seen)
        haste = jnp.minimum(1, self.preferred_seconds / registry.seconds) ** self.alpha
        return jnp.where(known, (gain + doubt) * haste, 0)

    def draw(self, state, registry, key):
        new_key, old_key = jax.random.split(key)
        known, place = jnp.isfinite(state.loss), jnp.arange(self.size)
        news = jnp.sum(~known)
        explored = jnp.minimum(round(self.exploration * self.size), news)
        explored = jnp.maximum(explored, self.size - (registry.n - news))
        tiny = jnp.finfo(registry.weights.dtype).tiny
        speed = jnp.where(known, 0, 1 / jnp.maximum(registry.seconds, jnp.sqrt(tiny)))
        new, _ = weighted(new_key, speed, self.size)
        utility = jnp.where(known, jnp.maximum(self.utility(state, registry), tiny), 0)
        best = jax.lax.top_k(utility, self.size)[0]
        last = best[jnp.maximum(self.size - explored - 1, 0)]
        old, _ = weighted(old_key, jnp.where(utility >= CUTOFF * last, utility, 0), self.size)
        members = jnp.sort(jnp.where(place < explored, new, old[jnp.maximum(place - explored, 0)]))
        return Draw(members, jnp.ones(self.size, bool), jnp.ones(self.size, registry.weights.dtype))

    def learn(self, state, registry, draw, arrived, reported):
        rounds = state.rounds + 1
        now = jnp.broadcast_to(rounds, arrived.shape)
        arrived = arrived & jnp.isfinite(reported["loss"])
        return Memory(
            remembered(state.loss, draw, arrived, reported["loss"]), remembered(state.seen, draw, arrived, now), rounds
        )


def oort(size: int, exploration: float, alpha: float, preferred_seconds: float) -> Oort:
    """Clients by utility × speed, a share `exploration` of the places for those that never took part."""
    return Oort(size, exploration, alpha, preferred_seconds)
