"""A cohort that favours clients with large losses, and makes up for it."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .base import Cohort, Draw, check_size, merged, remembered


class Importance(Cohort):
    """`size` draws with replacement, client i with probability

        p_i = (1 − mix)·w_i l_i/Σ_j w_j l_j + mix·w_i,

    l_i the loss that it last reported (zero for a negative one; the mean of the known ones until it has). A client drawn twice
    works once and counts twice: its factor is (times drawn)/(size·p_i), so that estimates are unbiased whatever the losses,
    stale as they are. `mix` bounds the factors by 1/(mix·w_i). Clients with large losses tend to send large changes, and
    variance is least where p_i is proportional to w_i‖Δ_i‖; losses only stand in for these.

    Angelos Katharopoulos, François Fleuret, *Not all samples are created equal: deep learning with importance sampling*, ICML
    2018; of clients: Wenlin Chen, Samuel Horváth, Peter Richtárik, *Optimal client sampling for federated learning*, TMLR 2022.
    """

    size: int = eqx.field(static=True)
    mix: float = eqx.field(static=True, default=0.1)
    normalise: bool = eqx.field(static=True, default=False)

    reports: ClassVar[tuple[str, ...]] = ("loss",)

    def __check_init__(self):
        check_size("importance", self.size)
        if not 0 < self.mix <= 1:
            raise ValueError(f"cohort importance: got mix {self.mix!r}, expected a number in (0, 1], the share drawn by weight")

    def slots(self, n: int) -> int:
        return self.size

    def init(self, registry):
        return jnp.full_like(registry.weights, jnp.nan)

    def probabilities(self, state, registry):
        """`[n]` p_i."""
        w, known = registry.weights, jnp.isfinite(state)
        losses = jnp.where(known, jnp.maximum(state, 0), 0)
        share = jnp.sum(jnp.where(known, w, 0))
        mean = jnp.where(share > 0, jnp.sum(w * losses) / jnp.where(share > 0, share, 1), 1)
        part = w * jnp.where(known, losses, mean)
        total = jnp.sum(part)
        part = jnp.where(total > 0, part / jnp.where(total > 0, total, 1), w)
        return (1 - self.mix) * part + self.mix * w

    def draw(self, state, registry, key):
        p = self.probabilities(state, registry)
        steps = jnp.cumsum(p)
        uniform = jax.random.uniform(key, (self.size,), p.dtype) * steps[-1]
        drawn = jnp.clip(jnp.searchsorted(steps, uniform, side="right"), 0, registry.n - 1).astype(jnp.int32)
        members, first, times = merged(drawn)
        return Draw(members, first, times.astype(p.dtype) / (self.size * jnp.maximum(p[members], jnp.finfo(p.dtype).tiny)))

    def learn(self, state, registry, draw, arrived, reported):
        return remembered(state, draw, arrived, reported["loss"])


def importance(size: int, mix: float = 0.1) -> Importance:
    """`size` draws with replacement, in proportion to weight × last loss, a share `mix` by weight alone; unbiased."""
    return Importance(size, mix)
