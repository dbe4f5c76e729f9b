"""Local steps that hide every single example (DP-SGD).

Axes: `s` slots of a minibatch.
"""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from thalweg._trees import norm, square
from thalweg.algorithm.base import Facts
from thalweg.algorithm.step import Real

from .base import Correction, LocalRun, LocalSolver, repeat, uncorrected
from .descent import shuffled


class PrivateSGD(LocalSolver):
    """y ← y − η ((Σ_{j ∈ B} clip_C(∇loss(y, j)) + z·C·ζ)/(q·m) + ∇r(y)), B drawn anew for every step: each example with
    probability q. The regulariser r, which tells of nobody, is neither clipped nor hidden.

    What leaves a client is then differentially private for every example of its own, whoever reads it, at a cost that depends on z,
    q and the number of steps alone (`tw.privacy`). The denominator q·m_i is public: it does not tell how many were drawn. The
    minibatch has a static number of slots; the chance that more are drawn is added to δ.

    Arguments:
        learning_rate: η, a number or a function of the round.
        noise_multiplier: z. clip: C, the longest gradient of one example that counts.
        sampling_rate: q. steps: τ, steps in a round.

    Martín Abadi, Andy Chu, Ian Goodfellow, Brendan McMahan, Ilya Mironov, Kunal Talwar, Li Zhang, *Deep learning with differential
    privacy*, CCS 2016.
    """

    secret: ClassVar[bool] = True

    learning_rate: Real | Callable
    noise_multiplier: float = eqx.field(static=True)
    clip: float = eqx.field(static=True)
    sampling_rate: float = eqx.field(static=True)
    steps: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        for name in ("noise_multiplier", "clip"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and 0 < value < math.inf):
                raise ValueError(f"PrivateSGD({name}={value!r}): expected a positive number")
        if not 0 < self.sampling_rate <= 1:
            raise ValueError(f"PrivateSGD(sampling_rate={self.sampling_rate!r}): expected a probability in (0, 1]")
        if not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"PrivateSGD(steps={self.steps!r}): expected a whole number ≥ 1")

    def open(self) -> bool:
        return False

    def resolve(self, facts: Facts) -> "PrivateSGD":
        return self

    def slots(self, examples: int) -> int:
        """Of a minibatch of so many examples at most."""
        mean = self.sampling_rate * examples
        return min(examples, math.ceil(mean + 6 * math.sqrt(mean * (1 - self.sampling_rate)) + 6))

    def overflow(self, examples: int) -> float:
        """P(more are drawn than there are slots) in one step."""
        from scipy.stats import binom

        return float(binom.sf(self.slots(examples), examples, self.sampling_rate))

    def run(self, local, x: Any, context, correct: Correction = uncorrected, anchor: Any = None) -> LocalRun:
        if anchor is not None or not hasattr(local, "max_examples"):
            what = "differences of gradients" if anchor is not None else "gradients of no single examples"
            raise TypeError(f"PrivateSGD clips the gradient of every example, got {what}; use tw.FedAvg on a tw.EmpiricalRisk")
        rate = self.learning_rate(context.round) if callable(self.learning_rate) else self.learning_rate
        dtype = jnp.result_type(*jax.tree.leaves(x))
        rate, slots = jnp.asarray(rate, dtype), self.slots(local.max_examples)
        local, regulariser = local.parted()

        def step(carry, key):
            y, count, loss, first = carry
            how_many, who, noise = jax.random.split(key, 3)
            drawn = jax.random.binomial(how_many, local.examples, self.sampling_rate)
            members = shuffled(local, who)[:slots]  # given how many, uniform over subsets
            real = jnp.arange(slots) < drawn
            values, each = jax.vmap(lambda j: _one(local, y, j))(members)
            lengths = jnp.sqrt(jax.vmap(square)(each))
            factor = jnp.minimum(1, self.clip / jnp.where(lengths > 0, lengths, 1))
            factor = jnp.where(real & jnp.isfinite(lengths), factor, 0)
            total = jax.tree.map(lambda leaf: _weighted(factor, leaf), each)
            leaves, structure = jax.tree.flatten(total)
            size = self.sampling_rate * jnp.asarray(local.examples, dtype)
            noisy = [
                (leaf + self.noise_multiplier * self.clip * jax.random.normal(k, leaf.shape, leaf.dtype))
                / size.astype(leaf.dtype)
                for leaf, k in zip(leaves, jax.random.split(noise, len(leaves)), strict=True)
            ]
            own, slope = jax.value_and_grad(regulariser)(y)
            gradient = correct(jax.tree.map(lambda g, r: g + r.astype(g.dtype), structure.unflatten(noisy), slope), y)
            moved = jax.tree.map(lambda a, g: a - rate.astype(a.dtype) * g, y, gradient)
            mean = jnp.sum(jnp.where(real, values, 0)) / jnp.maximum(jnp.sum(real), 1).astype(dtype)
            mean = mean + own.astype(mean.dtype)
            new = (moved, count + 1, loss + mean, jnp.where(count == 0, norm(gradient).astype(dtype), first))
            if context.budget is None:
                return new
            return jax.tree.map(lambda a, b: jnp.where(count < context.budget, a, b), new, carry)

        zero = jnp.zeros((), dtype)
        start = (x, jnp.asarray(0, jnp.int32), zero, zero)
        y, count, loss, first = repeat(step, start, jax.random.split(context.key, self.steps), context.unroll)
        taken = jnp.maximum(count, 1).astype(dtype)
        return LocalRun(y, count, rate * count.astype(dtype), loss / taken, first)


def _one(local, y, j):
    """(loss, gradient) of one example, without the agent's scale: a client's weight is applied by `combine`."""
    example = jax.tree.map(lambda leaf: leaf[j], local.data)
    return jax.value_and_grad(local.one)(y, example)


def _weighted(factor, leaf):
    """Σ_j factor_j leaf_j; entries without weight do not count, whatever they hold."""
    each = factor.astype(leaf.dtype).reshape(-1, *(1,) * (leaf.ndim - 1))
    return jnp.sum(jnp.where(each > 0, each * leaf, 0), axis=0)
