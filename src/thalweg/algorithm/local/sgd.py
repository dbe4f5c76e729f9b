"""Local (stochastic) gradient steps."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from thalweg.algorithm.base import Facts
from thalweg.algorithm.step import Real

from .base import Correction, LocalRun, LocalSolver, uncorrected
from .descent import check_work, descend


class LocalSGD(LocalSolver):
    """Local gradient steps y ← y − η g(y), or those of any optax optimiser.

    `epochs` passes over the own examples, reshuffled each time, in minibatches (the last one may be smaller); or `steps`
    independent minibatches, drawn with replacement. Without `batch_size` every gradient is a full one (with the noise of the
    problem, where it has some).

    Args:
        learning_rate: η, a number or a function of the round (any optax schedule). With an `optimizer`, a factor on its
            updates. Default: 1/(2 max_i L_i) from the problem's constants, and 1 with an `optimizer`.
        epochs: passes over the own examples; 1 when `steps` is not given either.
        steps: number of steps, in place of `epochs`.
        batch_size: examples in a minibatch; all when None.
        clip: largest norm of a gradient (after corrections); longer ones are shortened. None for no limit.
        optimizer: an optax optimiser, for example `optax.adam(1e-3)`; its state starts anew in every round.
    """

    learning_rate: Real | Callable | None = None
    epochs: int | None = eqx.field(static=True, default=None)
    steps: int | None = eqx.field(static=True, default=None)
    batch_size: int | None = eqx.field(static=True, default=None)
    clip: Real | None = None
    optimizer: optax.GradientTransformation | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        check_work("LocalSGD", self.epochs, self.steps, self.batch_size)
        for name in ("learning_rate", "clip"):
            value = getattr(self, name)
            if isinstance(value, int | float) and not value > 0:
                raise ValueError(f"LocalSGD({name}={value!r}): expected a positive number, or None for the default")

    def open(self) -> bool:
        return self.learning_rate is None and self.optimizer is None

    def resolve(self, facts: Facts) -> "LocalSGD":
        if self.learning_rate is not None:
            return self
        if self.optimizer is None and facts.smoothness is None:
            raise ValueError("LocalSGD: its learning_rate was left open, and the losses have no Lipschitz constant; give one")
        rate = 1.0 if self.optimizer is not None else 0.5 / facts.smoothness
        return eqx.tree_at(lambda s: s.learning_rate, self, rate, is_leaf=lambda leaf: leaf is None)

    def run(self, local, x: Any, context, correct: Correction = uncorrected, anchor: Any = None) -> LocalRun:
        rate = self.learning_rate(context.round) if callable(self.learning_rate) else self.learning_rate
        rate = jnp.asarray(rate, jnp.result_type(*jax.tree.leaves(x)))

        def move(y, state, value, gradient, size):
            if self.clip is not None:
                shrink = jnp.minimum(1, jnp.asarray(self.clip, size.dtype) / jnp.maximum(size, jnp.finfo(size.dtype).tiny))
                gradient = jax.tree.map(lambda leaf: shrink.astype(leaf.dtype) * leaf, gradient)
            if self.optimizer is None:
                return jax.tree.map(lambda a, g: a - rate.astype(a.dtype) * g, y, gradient), state, rate
            updates, state = self.optimizer.update(gradient, state, y)
            return jax.tree.map(lambda a, u: a + (rate * u).astype(a.dtype), y, updates), state, rate

        state = () if self.optimizer is None else self.optimizer.init(x)
        return descend(
            local, x, context, move, state, correct=correct, anchor=anchor,
            epochs=self.epochs, steps=self.steps, batch_size=self.batch_size,
        )  # fmt: skip
