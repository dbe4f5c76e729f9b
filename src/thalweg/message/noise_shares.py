"""Whole-numbered noise whose sum over clients hides each of them: distributed differential privacy.

Clément Canonne, Gautam Kamath, Thomas Steinke, *The discrete Gaussian for differential privacy*, NeurIPS 2020. In shares:
Peter Kairouz, Ziyu Liu, Thomas Steinke, *The distributed discrete Gaussian mechanism for federated learning with secure
aggregation*, ICML 2021.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

# Least variance of one client's share: then the sum of shares is a discrete Gaussian up to e^(−π²σ²) < 10⁻¹⁷ for every client.
LEAST_VARIANCE = 4.0


def check_shares(deviation: float, survivors: int) -> None:
    """That so many shares, which add up to a deviation of so many steps, are large enough by themselves.

    Raises:
        ValueError: they are not, and their sum would be no discrete Gaussian.
    """
    share = deviation / math.sqrt(survivors)
    if share**2 < LEAST_VARIANCE:
        raise ValueError(
            f"secure_sum with noise: got shares of deviation {share:.3g} steps for each of {survivors} clients, expected at least "
            f"{math.sqrt(LEAST_VARIANCE):g}: else their sum is no discrete Gaussian; use a finer step, bits=32, or more noise"
        )


def discrete_gaussian(key: PRNGKeyArray, shape: tuple[int, ...], variance) -> Int[Array, "*shape"]:
    """Whole numbers with P(x) ∝ exp(−x²/(2 variance)).

    Discrete Laplace numbers of scale t = ⌊σ⌋ + 1 are accepted with probability exp(−(|x| − σ²/t)²/(2σ²)), all entries at once until
    none is left. For simulations: probabilities are those of floating-point numbers. `secure.discrete_gaussian` is exact.
    """
    variance = jnp.asarray(variance)
    variance = variance.astype(jnp.promote_types(variance.dtype, jnp.float32))
    scale = jnp.floor(jnp.sqrt(variance)) + 1
    tiny = jnp.finfo(variance.dtype).tiny

    def attempt(carry):
        key, found, open_ = carry
        key, size, side, coin = jax.random.split(key, 4)
        size = jnp.floor(-scale * jnp.log(jax.random.uniform(size, shape, variance.dtype, minval=tiny)))
        negative = jax.random.bernoulli(side, shape=shape)
        chance = jnp.exp(-((size - variance / scale) ** 2) / (2 * variance))
        accepted = (jax.random.uniform(coin, shape, variance.dtype) < chance) & ~(negative & (size == 0))
        value = jnp.where(negative, -size, size).astype(jnp.int32)
        return key, jnp.where(open_ & accepted, value, found), open_ & ~accepted

    start = key, jnp.zeros(shape, jnp.int32), jnp.ones(shape, bool)
    return jax.lax.while_loop(lambda carry: jnp.any(carry[2]), attempt, start)[1]
