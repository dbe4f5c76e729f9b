"""A spectral filter: messages lose weight by how far they stretch the cloud of all."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .base import Liars, Rule, average, check_liars, check_majority, heard, liars
from .distances import gram


class CovarianceFilter(Rule):
    """The weighted mean of least largest variance, of those that a filter of the main direction goes through (CAF):

        c ← 1;    while Σ_i c_i > n − 2f:    μ = Σ_i c_i m_i/Σ_i c_i;
                                             (λ, v) the largest eigenpair of Σ_i c_i (m_i − μ)(m_i − μ)ᵀ/Σ_i c_i;
                                             τ_i = ⟨v, m_i − μ⟩²;    c_i ← c_i (1 − τ_i/max_j τ_j);
        A(m) = the μ whose λ is least.

    Eigenvectors are found as weights of the messages, by power iteration in n dimensions to `tolerance` (relative, of λ), after one
    product of the messages with each other. `f` is a whole number, or a fraction of what arrived. κ = O(f/n), its constant is not
    stated.

    Youssef Allouah, Rachid Guerraoui, John Stephan, *Towards trustworthy federated learning with untrusted participants*, ICML
    2025; Ilias Diakonikolas, Daniel Kane, *Algorithmic high-dimensional robust statistics*, 2023, for the idea.
    """

    f: Liars
    tolerance: float = eqx.field(static=True, default=1e-6)

    def __check_init__(self):
        check_liars("covariance_filter", self.f)

    def check(self, n):
        check_majority(self, n)

    def kappa(self, n, f):
        return None

    def aggregate(self, messages, arrived):
        products, dtype = gram(messages, arrived), messages.dtype
        arrived = arrived & jnp.isfinite(jnp.diagonal(products))  # not so far that its square overflows
        products = jnp.where(arrived[:, None] & arrived[None], products, 0)
        m = heard(arrived)
        least = (m - 2 * liars(self.f, m)).astype(dtype)
        ones = jnp.where(arrived, 1, 0).astype(dtype)

        def step(carry):
            counts, best, smallest, _ = carry
            share = counts / jnp.maximum(jnp.sum(counts), jnp.finfo(dtype).tiny)
            largest, along = _stretch(products, share, self.tolerance)
            better = largest < smallest
            best, smallest = jnp.where(better, share, best), jnp.where(better, largest, smallest)
            tau = jnp.where(counts > 0, along**2, 0)
            farthest = jnp.argmax(tau)
            top = tau[farthest]
            left = counts * jnp.clip(1 - tau / jnp.where(top > 0, top, 1), 0, 1)
            left = left.at[farthest].set(0)  # whatever rounding says: every step takes one away
            return left, best, smallest, ~(top > 0)  # nothing is left to filter where all messages agree

        going = lambda carry: (jnp.sum(carry[0]) > least) & ~carry[3]
        first = ones / jnp.maximum(m, 1).astype(dtype)
        start = (ones, first, jnp.asarray(jnp.inf, dtype), m == 0)
        return average(jax.lax.while_loop(going, step, start)[1], messages)


def _stretch(products, share, tolerance):
    """(largest eigenvalue of the weighted covariance, ⟨v, m_i − μ⟩ `[c]` along its eigenvector v)."""
    dtype = products.dtype
    there = products @ share
    centred = products - there[:, None] - there[None] + share @ there
    roots = jnp.sqrt(share)
    matrix = roots[:, None] * centred * roots[None]
    size = jnp.maximum(jnp.max(jnp.diagonal(matrix)), jnp.finfo(dtype).tiny)  # squares of its entries may overflow
    matrix = matrix / size
    unit = lambda u: u / jnp.maximum(jnp.sqrt(u @ u), jnp.finfo(dtype).tiny)

    def step(carry):
        u, value, count, _ = carry
        pushed = matrix @ u
        now = u @ pushed
        return unit(pushed), now, count + 1, jnp.abs(now - value) <= tolerance * now

    start = unit(matrix[:, jnp.argmax(jnp.diagonal(matrix))])
    going = lambda carry: (carry[2] < 1000) & ~carry[3]
    u, value, _, _ = jax.lax.while_loop(
        going, step, (start, jnp.zeros((), dtype), jnp.asarray(0, jnp.int32), jnp.asarray(False))
    )
    value = value * size
    return value, centred @ (roots * u) / jnp.maximum(jnp.sqrt(value), jnp.finfo(dtype).tiny)


def covariance_filter(f: int | float) -> CovarianceFilter:
    """The mean after messages that stretch the cloud of all have lost weight (CAF); its error does not grow with d."""
    return CovarianceFilter(f)
