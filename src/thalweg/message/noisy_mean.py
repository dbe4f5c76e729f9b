"""A mean with noise, by a server that may see single messages: central differential privacy of clients.

Axes: `c` slots of the cohort, `d` numbers of a message, `b` bands.
"""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .aggregate import Aggregator
from .flow import Mechanism


class Memory(NamedTuple):
    """The clipping norm of the round, and the noise of the last b − 1 rounds, newest first."""

    clip: Float[Array, ""]
    noise: Float[Array, "bands d"]


class NoisyMean(Aggregator):
    """Σ_i w_i m_i·min(1, C/‖m_i‖) + ν_k, where w_i are public and do not depend on who came.

    ν_k = z·C·w·(C⁻¹ζ)_k with ζ standard normal and w the largest weight. Without `bands` the noise of every round is by itself.
    With `bands` b it is correlated over rounds by the inverse of the lower triangular Toeplitz matrix of the coefficients
    c_j = (2j choose j)/4ʲ, j < b, the truncated square root of the matrix of prefix sums, so that later noise takes back part of
    the earlier and their sum, which is what a model accumulates, has less of it.

    With a `quantile` γ the norm follows the γ-quantile of the messages' norms: C ← C·exp(−η(p̃ − γ)), p̃ the noisy part of them that
    is shorter than C. Its noise costs nothing extra: that of the mean is raised to z_Δ = (z⁻² − (2s)⁻²)^(−1/2), s = `count_noise`.

    Messages that are not finite count as zero: every client can change the mean by w·C at most, whatever it sends.

    Arguments:
        noise_multiplier: z, noise in units of what one client can change.
        clip: C, the longest norm that counts; the first one with a `quantile`.
        quantile, clip_rate: γ and η. count_noise: s, the noise of the count, in clients.
        bands: b, None or 1 for independent noise. A client may then take part once in b rounds (`tw.cohort.cyclic`).

    Brendan McMahan, Daniel Ramage, Kunal Talwar, Li Zhang, *Learning differentially private recurrent language models*, ICLR 2018.
    Galen Andrew, Om Thakkar, Brendan McMahan, Swaroop Ramaswamy, *Differentially private learning with adaptive clipping*, NeurIPS
    2021. Christopher Choquette-Choo and others, *(Amplified) banded matrix factorization: a unified approach to private training*,
    NeurIPS 2023; Hendrik Fichtenberger, Monika Henzinger, Jalaj Upadhyay, *Constant matters: fine-grained error bound on
    differentially private continual observation*, ICML 2023.
    """

    individual = True
    unweighted = False

    noise_multiplier: float = eqx.field(static=True)
    clip: float = eqx.field(static=True)
    quantile: float | None = eqx.field(static=True, default=None)
    clip_rate: float = eqx.field(static=True, default=0.2)
    count_noise: float | None = eqx.field(static=True, default=None)
    bands: int = eqx.field(static=True, default=1)
    # The largest weight that a client can have in the mean; known when the run is set up.
    largest: float | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        for name in ("noise_multiplier", "clip", "clip_rate"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and 0 < value < math.inf):
                raise ValueError(f"noisy_mean({name}={value!r}): expected a positive number")
        if self.quantile is not None and not 0 < self.quantile < 1:
            raise ValueError(f"noisy_mean(quantile={self.quantile!r}): expected a number between 0 and 1, such as 0.5")
        if not isinstance(self.bands, int) or self.bands < 1:
            raise ValueError(f"noisy_mean(bands={self.bands!r}): expected a whole number ≥ 1")
        if self.quantile is not None and self.bands > 1:
            raise ValueError("noisy_mean: got quantile and bands; noise of several rounds is correlated under one norm only")
        if (self.quantile is None) != (self.count_noise is None):
            raise ValueError("noisy_mean: quantile and count_noise belong together; a twentieth of the cohort is a usual noise")
        if self.count_noise is not None and not self.count_noise > self.noise_multiplier / 2:
            raise ValueError(
                f"noisy_mean(count_noise={self.count_noise!r}): expected more than half of noise_multiplier, "
                f"{self.noise_multiplier}, or the count alone would cost all of the privacy"
            )

    @property
    def coefficients(self) -> np.ndarray:
        """c `[b]`, first column of the matrix whose inverse correlates the noise."""
        return np.array([math.comb(2 * j, j) / 4**j for j in range(self.bands)])

    def after(self, flow):
        if flow.replicated:
            raise ValueError(
                "noisy_mean: clients send changes of what they sent before (EF21), so that clipping one message does not bound "
                "what a client changes; use error_feedback, or no memory"
            )
        found = Mechanism("gaussian", self.noise_multiplier, self.clip)
        return flow.but(norm=None, norm_1=None, linear=False, noise=(*flow.noise, found))

    def resolve(self, slots, normalise):
        return self

    def init(self, d, dtype):
        return Memory(jnp.asarray(self.clip, dtype), jnp.zeros((self.bands - 1, d), dtype))

    def combine(self, state, messages, weights, arrived, key):
        if self.largest is None:
            raise RuntimeError("noisy_mean: `largest` is filled in by `solve`")
        norms = jnp.linalg.norm(messages, axis=1)
        usable = arrived & jnp.isfinite(norms)
        factor = jnp.where(usable, weights * jnp.minimum(1, state.clip / jnp.where(norms > 0, norms, 1)), 0)
        mean = jnp.sum(jnp.where(usable[:, None], factor[:, None] * messages, 0), axis=0)
        for_mean, for_count = jax.random.split(key)
        multiplier = self.noise_multiplier
        if self.count_noise is not None:
            multiplier = (self.noise_multiplier**-2 - (2 * self.count_noise) ** -2) ** -0.5
        fresh = jax.random.normal(for_mean, mean.shape, mean.dtype)
        past = jnp.asarray(self.coefficients[1:], mean.dtype)
        noise = fresh - jnp.sum(past[:, None] * state.noise, axis=0)
        mean = mean + jnp.asarray(multiplier * self.largest, mean.dtype) * state.clip * noise
        kept = jnp.concatenate([noise[None], state.noise])[: self.bands - 1]
        return Memory(self._next_clip(state.clip, norms, usable, weights, for_count), kept), mean

    def _next_clip(self, clip, norms, usable, weights, key):
        if self.quantile is None:
            return clip
        # ±½ a client: half the sensitivity of a count of zeros and ones.
        votes = jnp.where(usable, weights * (jnp.where(norms <= clip, 0.5, -0.5)), 0)
        noise = self.count_noise * self.largest * jax.random.normal(key, (), votes.dtype)
        part = 0.5 + jnp.sum(votes) + noise.astype(votes.dtype)
        return clip * jnp.exp(-self.clip_rate * (part - self.quantile)).astype(clip.dtype)


def noisy_mean(
    noise_multiplier: float,
    clip: float,
    *,
    quantile: float | None = None,
    clip_rate: float = 0.2,
    count_noise: float | None = None,
    bands: int | None = None,
) -> NoisyMean:
    """The mean of clipped messages with Gaussian noise; arguments as of `NoisyMean`."""
    exact = lambda value: float(value) if isinstance(value, int | float | np.floating) else value
    numbers = map(exact, (noise_multiplier, clip, quantile, clip_rate, count_noise))
    return NoisyMean(*numbers, 1 if bands is None else bands)
