"""The geometric median, to a stated tolerance."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .base import Real, Rule, average, heard, majority_ratio
from .distances import gram


class GeometricMedian(Rule):
    """The point whose distances to the messages have the least sum, by Weiszfeld's iteration:

        A(m) = argmin_y Σ_i ‖y − m_i‖,    y ← Σ_i v_i m_i / Σ_i v_i,    v_i = 1/max(‖y − m_i‖, ν).

    It ends when ‖1/n Σ_i v_i (m_i − y)‖, the length of the mean of the unit vectors from y to the messages, is at most `tolerance`,
    or after so many `iterations`; ν is ε^½ of the median distance. Iterates are kept as weights of the messages: after one product
    of the messages with each other an iteration costs n² operations, whatever d is. κ = 4 (1 + f/(n − 2f))².

    Krishna Pillutla, Sham Kakade, Zaid Harchaoui, *Robust aggregation for federated learning*, IEEE Transactions on Signal
    Processing 2022; the iteration: Endre Weiszfeld, *Sur le point pour lequel la somme des distances de n points donnés est
    minimum*, Tohoku Mathematical Journal 1937.
    """

    tolerance: Real = 1e-5
    iterations: int = eqx.field(static=True, default=1000)

    def __check_init__(self):
        if isinstance(self.tolerance, float) and not 0 < self.tolerance < 1:
            raise ValueError(f"geometric_median(tolerance={self.tolerance!r}): expected a number in (0, 1)")

    def check(self, n):
        pass

    def kappa(self, n, f):
        return 4 * (1 + majority_ratio(n, f)) ** 2

    def aggregate(self, messages, arrived):
        return average(self._weights(gram(messages, arrived), arrived), messages)

    def _weights(self, products, arrived):
        """`[c]` the messages' parts of the median, summing to one."""
        dtype = products.dtype
        arrived = arrived & jnp.isfinite(jnp.diagonal(products))  # not so far that its square overflows
        m = heard(arrived)
        few = jnp.maximum(m, 1).astype(dtype)
        products = jnp.where(arrived[:, None] & arrived[None], products, 0)

        def look(parts):
            """(distances to the point of these parts, ν)."""
            there = products @ parts
            square = jnp.diagonal(products) - 2 * there + parts @ there
            away = jnp.sqrt(jnp.maximum(square, 0))
            middle = jnp.sort(jnp.where(arrived, away, jnp.inf))[jnp.maximum(m - 1, 0) // 2]
            return away, jnp.maximum(jnp.sqrt(jnp.finfo(dtype).eps) * middle, jnp.sqrt(jnp.finfo(dtype).tiny))

        def step(carry):
            parts, count, _ = carry
            away, floor = look(parts)
            pull = jnp.where(arrived, 1 / jnp.maximum(away, floor), 0)
            total = jnp.sum(pull)
            shift = pull / total - parts
            # ‖Σ_i v_i (m_i − y)‖/n, the mean of unit vectors: shift·m is the step, total/n the inverse of its length per force.
            force = jnp.sqrt(jnp.maximum(shift @ (products @ shift), 0)) * total / few
            return pull / total, count + 1, force <= self.tolerance

        start = jnp.where(arrived, 1, 0).astype(dtype) / few
        going = lambda carry: (carry[1] < self.iterations) & ~carry[2]
        return jax.lax.while_loop(going, step, (start, jnp.asarray(0, jnp.int32), m == 0))[0]


def geometric_median(tolerance: float = 1e-5) -> GeometricMedian:
    """The point with the least sum of distances to all messages; withstands any minority."""
    return GeometricMedian(tolerance)
