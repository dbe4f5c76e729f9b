"""Local steps whose size every client finds by itself."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from thalweg.algorithm.base import Facts
from thalweg.algorithm.step import Real

from .base import Correction, LocalRun, LocalSolver, uncorrected
from .descent import check_work, descend


class LocalPolyak(LocalSolver):
    """Gradient steps of the bounded stochastic Polyak size, from the loss of the minibatch at hand:

        y ← y − γ g(y),   γ = min((f_B(y) − ℓ)/(c ‖g(y)‖²), γ_b)

    On a convex loss with smoothness L_i that can be as low as ℓ, γ ≥ min(1/(2cL_i), γ_b): no constant need be known, and each
    client steps as far as its own loss allows.

    Args:
        largest: γ_b, the largest step size. It matters near a minimum whose loss is above ℓ.
        lower_bound: ℓ, a number below every minibatch's loss: 0 for most losses.
        scale: c; ½ for the longest steps, larger values for shorter ones.
        epochs, steps, batch_size: as for `LocalSGD`.

    Nicolas Loizou, Sharan Vaswani, Issam Laradji, Simon Lacoste-Julien, *Stochastic Polyak step-size for SGD: an adaptive
    learning rate for fast convergence*, AISTATS 2021.
    """

    largest: Real = 1.0
    lower_bound: Real = 0.0
    scale: Real = 0.5
    epochs: int | None = eqx.field(static=True, default=None)
    steps: int | None = eqx.field(static=True, default=None)
    batch_size: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        check_work("LocalPolyak", self.epochs, self.steps, self.batch_size)
        for name in ("largest", "scale"):
            value = getattr(self, name)
            if isinstance(value, int | float) and not value > 0:
                raise ValueError(f"LocalPolyak({name}={value!r}): expected a positive number")

    def open(self) -> bool:
        return False

    def resolve(self, facts: Facts) -> "LocalPolyak":
        return self

    def run(self, local, x: Any, context, correct: Correction = uncorrected, anchor: Any = None) -> LocalRun:
        def move(y, state, value, gradient, size):
            bottom = jnp.maximum(jnp.asarray(self.scale, size.dtype) * size**2, jnp.finfo(size.dtype).tiny)
            above = jnp.maximum(value - jnp.asarray(self.lower_bound, size.dtype), 0)
            rate = jnp.minimum(above / bottom, jnp.asarray(self.largest, size.dtype))
            return jax.tree.map(lambda a, g: a - rate.astype(a.dtype) * g, y, gradient), state, rate

        return descend(
            local, x, context, move, (), correct=correct, anchor=anchor,
            epochs=self.epochs, steps=self.steps, batch_size=self.batch_size,
        )  # fmt: skip
