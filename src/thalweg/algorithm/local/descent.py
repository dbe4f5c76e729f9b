"""A client's round of minibatches, for every rule that makes a step of a gradient."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from thalweg._trees import minus, norm

from .base import Correction, LocalRun, repeat

# (y, state, value, gradient, ‖gradient‖) → (y, state, step size), everything in the dtype of y.
Move = Callable[[Any, Any, Any, Any, Any], tuple[Any, Any, Any]]


def descend(
    local, x: Any, context, move: Move, state: Any, *, correct: Correction, anchor: Any,
    epochs: int | None, steps: int | None, batch_size: int | None,
) -> LocalRun:  # fmt: skip
    """From `x`, one `move` for every minibatch of the round, as long as the budget lasts.

    Args:
        move: makes a step of a value and a gradient; `state` is what it remembers at first.
        correct: (gradient, y) → the gradient used.
        anchor: where given, g(y) becomes g(y) − g(anchor), both on the same minibatch, before it is corrected.
        epochs, steps, batch_size: as for `LocalSGD`.
    """
    dtype = jnp.result_type(*jax.tree.leaves(x))
    zero = jnp.zeros((), dtype)

    def step(carry, value_and_grad, exists):
        """One step; nothing changes unless it `exists` (None: always) and the budget allows it."""
        y, state, count, length, loss, first = carry
        value, gradient = value_and_grad(y)
        if anchor is not None:
            gradient = minus(gradient, value_and_grad(anchor)[1])
        gradient = correct(gradient, y)
        size = norm(gradient).astype(dtype)
        moved, after, rate = move(y, state, value.astype(dtype), gradient, size)
        first = jnp.where(count == 0, size, first)
        new = (moved, after, count + 1, length + rate, loss + value.astype(dtype), first)
        allowed = exists
        if context.budget is not None:
            within = count < context.budget
            allowed = within if exists is None else exists & within
        return new if allowed is None else _choose(allowed, new, carry)

    carry = (x, state, jnp.asarray(0, jnp.int32), zero, zero, zero)
    y, _, count, length, loss, first = _passes(local, context, step, carry, epochs, steps, batch_size)
    return LocalRun(y, count, length, loss / jnp.maximum(count, 1).astype(dtype), first)


def _passes(local, context, step, carry, epochs, steps, batch_size):
    """`step` for every minibatch of the round."""
    unroll = context.unroll
    sampled = batch_size is not None and hasattr(local, "max_examples")
    if not sampled:
        full = lambda carry, key: step(carry, lambda y: (local.value(y), local.stochastic_grad(y, key)), None)
        return repeat(full, carry, jax.random.split(context.key, steps or epochs or 1), unroll)
    size = min(batch_size, local.max_examples)
    if steps is not None:

        def drawn(carry, key):
            indices = jax.random.randint(key, (size,), 0, local.examples)
            return step(carry, lambda y: local.batch_value_and_grad(y, indices), None)

        return repeat(drawn, carry, jax.random.split(context.key, steps), unroll)
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

    return repeat(one_pass, carry, jax.random.split(context.key, epochs or 1), unroll)


def shuffled(local, key):
    """A random order of the own examples, `[max m_i]`, padding last."""
    draws = jax.random.bits(key, (local.max_examples,), jnp.uint32) >> 1
    if local.count is not None:
        draws = jnp.where(jnp.arange(local.max_examples) < local.count, draws, jnp.uint32(2**32 - 1))
    return jnp.argsort(draws)


def check_work(name: str, epochs: Any, steps: Any, batch_size: Any) -> None:
    """How much a local solver does is given in whole numbers, in epochs or in steps.

    Raises:
        ValueError: it is not.
    """
    if epochs is not None and steps is not None:
        raise ValueError(f"{name}: got epochs={epochs} and steps={steps}, expected one of them")
    for field, value in (("epochs", epochs), ("steps", steps), ("batch_size", batch_size)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"{name}({field}={value!r}): expected a whole number ≥ 1, or None")


def _choose(condition, new, old):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)
