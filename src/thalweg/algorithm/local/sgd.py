"""Local (stochastic) gradient steps."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from thalweg.algorithm.base import Facts
from thalweg.algorithm.step import Real
from thalweg.algorithm.trees import norm

from .base import Correction, LocalRun, LocalSolver, repeat, uncorrected


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
    optimizer: Any = eqx.field(static=True, default=None)

    def __check_init__(self):
        if self.epochs is not None and self.steps is not None:
            raise ValueError(f"LocalSGD: got epochs={self.epochs} and steps={self.steps}, expected one of them")
        for name in ("epochs", "steps", "batch_size"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ValueError(f"LocalSGD({name}={value!r}): expected a whole number ≥ 1, or None")
        for name in ("learning_rate", "clip"):
            value = getattr(self, name)
            if isinstance(value, int | float) and not value > 0:
                raise ValueError(f"LocalSGD({name}={value!r}): expected a positive number, or None for the default")

    def open(self) -> bool:
        return self.learning_rate is None and self.optimizer is None

    def resolve(self, facts: Facts) -> "LocalSGD":
        if self.learning_rate is not None:
            return self
        rate = 1.0 if self.optimizer is not None else 0.5 / facts.smoothness
        return eqx.tree_at(lambda s: s.learning_rate, self, rate, is_leaf=lambda leaf: leaf is None)

    def run(self, local, x: Any, context, correct: Correction = uncorrected) -> LocalRun:
        rate = self.learning_rate(context.round) if callable(self.learning_rate) else self.learning_rate
        dtype = jnp.result_type(*jax.tree.leaves(x))
        rate = jnp.asarray(rate, dtype)
        state = None if self.optimizer is None else self.optimizer.init(x)
        zero = jnp.zeros((), dtype)
        first = (x, state, jnp.asarray(0, jnp.int32), zero, zero)

        def step(carry, value_and_grad, exists):
            """One step; nothing changes unless it `exists` (None: always) and the budget allows it."""
            y, state, steps, loss, size = carry
            value, gradient = value_and_grad(y)
            gradient = correct(gradient, y)
            length = norm(gradient)
            if self.clip is not None:
                shrink = jnp.minimum(1, jnp.asarray(self.clip, dtype) / jnp.maximum(length, jnp.finfo(dtype).tiny))
                gradient = jax.tree.map(lambda leaf: shrink.astype(leaf.dtype) * leaf, gradient)
            if self.optimizer is None:
                moved = jax.tree.map(lambda a, g: a - rate.astype(a.dtype) * g, y, gradient)
            else:
                updates, after = self.optimizer.update(gradient, state, y)
                moved = jax.tree.map(lambda a, u: a + (rate * u).astype(a.dtype), y, updates)
                state = after
            new = (moved, state, steps + 1, loss + value.astype(dtype), jnp.where(steps == 0, length, size))
            allowed = exists
            if context.budget is not None:
                within = steps < context.budget
                allowed = within if exists is None else exists & within
            return new if allowed is None else _choose(allowed, new, carry)

        y, _, steps, loss, size = self._passes(local, context, step, first)
        return LocalRun(y, steps, rate * steps.astype(dtype), loss / jnp.maximum(steps, 1).astype(dtype), size)

    def _passes(self, local, context, step, carry):
        """`step` for every minibatch of the round."""
        unroll = context.unroll
        sampled = self.batch_size is not None and hasattr(local, "max_examples")
        if not sampled:
            full = lambda carry, key: step(carry, lambda y: (local.value(y), local.stochastic_grad(y, key)), None)
            return repeat(full, carry, jax.random.split(context.key, self.steps or self.epochs or 1), unroll)
        size = min(self.batch_size, local.max_examples)
        if self.steps is not None:

            def drawn(carry, key):
                indices = jax.random.randint(key, (size,), 0, local.examples)
                return step(carry, lambda y: local.batch_value_and_grad(y, indices), None)

            return repeat(drawn, carry, jax.random.split(context.key, self.steps), unroll)
        batches = -(-local.max_examples // size)
        even = local.count is None and local.max_examples % size == 0

        def one_batch(carry, batch):
            indices, places = batch
            if even:
                return step(carry, lambda y: local.batch_value_and_grad(y, indices), None)
            real = places < local.examples
            return step(carry, lambda y: local.batch_value_and_grad(y, indices, real), real[0])

        def one_pass(carry, key):
            order = jnp.pad(shuffled(local, key), (0, batches * size - local.max_examples)).reshape(batches, size)
            places = jnp.arange(batches * size).reshape(batches, size)
            return repeat(one_batch, carry, (order, places), unroll)

        return repeat(one_pass, carry, jax.random.split(context.key, self.epochs or 1), unroll)


def shuffled(local, key):
    """A random order of the own examples, `[max m_i]`, padding last."""
    draws = jax.random.bits(key, (local.max_examples,), jnp.uint32) >> 1
    if local.count is not None:
        draws = jnp.where(jnp.arange(local.max_examples) < local.count, draws, jnp.uint32(2**32 - 1))
    return jnp.argsort(draws)


def _choose(condition, new, old):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)
