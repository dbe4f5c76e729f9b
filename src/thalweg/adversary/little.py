"""A little is enough: lies that hide in the spread of the truth."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax.scipy.stats import norm

from .base import Forgetful, Real, agents_field, mean_of, to_all


class LittleIsEnough(Forgetful):
    """All liars send the honest mean less z honest standard deviations, coordinate by coordinate (ALIE):

        μ − z σ,    z = Φ⁻¹((n − f − s)/(n − f)),    s = ⌊n/2⌋ + 1 − f,

    of n agents that send, f of which lie: s honest ones lie beyond, so that the liars look like a majority's part. `z` is that of
    theory where it is None.

    Gilad Baruch, Moran Baruch, Yoav Goldberg, *A little is enough: circumventing defenses for distributed learning*, NeurIPS 2019.
    """

    agents: tuple[int, ...] = agents_field()
    z: Real | None = None

    def lies(self, messages, bad, honest, key):
        mean = mean_of(messages, honest)
        spread = jnp.sqrt(mean_of((messages - mean[None]) ** 2, honest))
        f, rest = jnp.sum(bad), jnp.maximum(jnp.sum(honest), 1)
        beyond = (f + rest) // 2 + 1 - f
        share = jnp.clip((rest - beyond) / rest, 0.5 / rest, 1 - 0.5 / rest)
        z = norm.ppf(share) if self.z is None else self.z
        return to_all(mean - jnp.asarray(z).astype(mean.dtype) * spread, messages)


def little_is_enough(agents: Sequence[int], z: float | None = None) -> LittleIsEnough:
    """`agents` send the honest mean less `z` standard deviations, by default as many as go unnoticed (ALIE)."""
    return LittleIsEnough(agents, z)
