"""Clipping: no message is longer than a bound."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp

from .stage import Stage


class Clip(Stage):
    """m ← m·min(1, C/‖m‖), over all floating leaves together; C is `bound`, the norm l2 (`order=2`) or l1 (`order=1`).

    A message that is not finite becomes zero: it has no direction, and what bounds a message must bound all of them.
    """

    bound: float = eqx.field(static=True)
    order: Literal[1, 2] = eqx.field(static=True, default=2)

    def __check_init__(self):
        if not (isinstance(self.bound, int | float) and 0 < self.bound < float("inf")):
            raise ValueError(f"clip: got {self.bound!r}, expected a positive number, the longest norm a message may have")
        if self.order not in (1, 2):
            raise ValueError(f"clip(order={self.order!r}): expected 2 (Euclidean, for Gaussian noise) or 1 (for Laplace noise)")

    def after(self, flow):
        # ‖·‖₂ ≤ ‖·‖₁, so that a bound of the second holds for the first.
        shortest = lambda known: self.bound if known is None else min(known, self.bound)
        changed = flow.but(norm=shortest(flow.norm), unbiased=False, linear=False)
        return changed.but(norm_1=shortest(flow.norm_1)) if self.order == 1 else changed

    def init(self, spec):
        return ()

    def encode(self, state, message, key):
        leaves = [leaf for leaf in jax.tree.leaves(message) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        if self.order == 2:
            length = jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in leaves))
        else:
            length = sum(jnp.sum(jnp.abs(leaf)) for leaf in leaves)
        factor = jnp.where(jnp.isfinite(length), jnp.minimum(1, self.bound / jnp.where(length > 0, length, 1)), 0)

        def shorter(leaf):
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                return leaf
            return jnp.where(factor > 0, factor.astype(leaf.dtype) * leaf, 0)

        sent = jax.tree.map(shorter, message)
        return state, sent, sent

    def decode(self, wire, spec):
        return wire


def clip(bound: float, order: Literal[1, 2] = 2) -> Clip:
    """Messages longer than `bound` are shortened to it."""
    return Clip(bound, order)
