"""The contract of local solvers."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
from jaxtyping import Array, Float, Int

from thalweg._trees import minus, norm
from thalweg.algorithm.base import Facts

Correction = Callable[[Any, Any], Any]


class LocalRun(NamedTuple):
    """What a local solver did.

    Attributes:
        x: where it ended, y_i.
        steps: steps taken, τ_i.
        length: Σ of the step sizes, τ_i·η for a constant one.
        loss: mean loss over the minibatches, each before its step.
        gradient_norm: ‖g‖ of the first gradient.
    """

    x: Any
    steps: Int[Array, ""]
    length: Float[Array, ""]
    loss: Float[Array, ""]
    gradient_norm: Float[Array, ""]

    def drift(self, x: Any) -> Float[Array, ""]:
        """‖y_i − x‖."""
        return norm(minus(self.x, x))


def uncorrected(gradient: Any, y: Any) -> Any:
    """The gradient as it is."""
    return gradient


def repeat(step: Callable, carry: Any, rows: Any, unroll: bool) -> Any:
    """The carry after `step(carry, row) -> carry` over the leading axis of `rows`.

    Unrolled, it is no loop at all: XLA keeps even a loop of one trip, and runs convolutions in it many times slower.
    """
    if not unroll:
        return jax.lax.scan(lambda carry, row: (step(carry, row), None), carry, rows)[0]
    for i in range(jax.tree.leaves(rows)[0].shape[0]):
        carry = step(carry, jax.tree.map(lambda leaf, i=i: leaf[i], rows))
    return carry


class LocalSolver(eqx.Module):
    """Moves a client's model downhill on its own data, from where the server left it.

    Class attribute:
        secret: its randomness hides something, and must come from the secret stream.
    """

    secret: ClassVar[bool] = False

    @abc.abstractmethod
    def resolve(self, facts: Facts) -> "LocalSolver":
        """Fill what was left None."""

    @abc.abstractmethod
    def open(self) -> bool:
        """Whether something was left None, to be filled from the problem's constants."""

    @abc.abstractmethod
    def run(self, local, x: Any, context, correct: Correction = uncorrected, anchor: Any = None) -> LocalRun:
        """From `x`. `correct(g, y)` is used in place of every gradient g of f_i at y (proximal terms, control variates).

        With an `anchor` g is g(y) − g(anchor), both on the same minibatch (variance reduction).
        """
