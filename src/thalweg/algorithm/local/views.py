"""A client's own function seen in another way: of some leaves alone, or of a pair of models. For local solvers.

A view offers what solvers ask of an oracle: `value`, `stochastic_grad`, and, where the oracle has examples, minibatches.
"""

import abc
from typing import Any

import equinox as eqx
import jax


class View(eqx.Module):
    """Of the oracle `base`. Subclasses say what value and gradient are, given those of `base` somewhere."""

    base: eqx.AbstractVar[Any]

    @abc.abstractmethod
    def seen(self, y: Any, oracle: Any) -> tuple[Any, Any]:
        """(value, gradient) at y; `oracle(x)` gives those of `base` at x, on the same examples each time."""

    def value(self, y: Any) -> Any:
        return self.seen(y, lambda x: (self.base.value(x), x))[0]

    def stochastic_grad(self, y: Any, key: Any) -> Any:
        return self.seen(y, lambda x: (self.base.value(x), self.base.stochastic_grad(x, key)))[1]

    def grad(self, y: Any) -> Any:
        return self.seen(y, self.base.value_and_grad)[1]

    def value_and_grad(self, y: Any) -> tuple[Any, Any]:
        return self.seen(y, self.base.value_and_grad)

    def batch_value_and_grad(self, y: Any, indices: Any, real: Any = None) -> tuple[Any, Any]:
        return self.seen(y, lambda x: self.base.batch_value_and_grad(x, indices, real))

    @property
    def count(self) -> Any:
        return self.base.count

    @property
    def examples(self) -> Any:
        return self.base.examples

    @property
    def max_examples(self) -> int:
        return self.base.max_examples


class OfLeaves(View):
    """f_i as a function of some leaves (None at the others), the others `fixed` (None at the former)."""

    base: Any
    fixed: Any

    def seen(self, y, oracle):
        value, gradient = oracle(eqx.combine(y, self.fixed))
        return value, eqx.filter(gradient, jax.tree.map(lambda leaf: leaf is None, self.fixed, is_leaf=_nothing))


def _nothing(leaf: Any) -> bool:
    return leaf is None
