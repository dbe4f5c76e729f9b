"""A model as a loss of one example, comparable and hashable, so that equal models compile once."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from thalweg.algorithm.leaves import LeafFilter, join, split


@dataclasses.dataclass(frozen=True)
class Model:
    """loss(x, (features, label)) with a prediction in between. Equal ones compare equal.

    Attributes:
        forward: `forward(x, features) -> prediction` of one example.
        loss: `loss(prediction, label) -> number`, for example `tw.losses.softmax_cross_entropy`.
    """

    forward: Callable
    loss: Callable

    def predict(self, x: Any, features: Any, frozen: Any = None) -> Any:
        """The prediction for one example; `frozen` are parameters that x lacks (`freeze`)."""
        return self.forward(x if frozen is None else join(x, frozen), features)

    def __call__(self, x: Any, example: tuple[Any, Any], frozen: Any = None) -> Any:
        features, label = example
        return self.loss(self.predict(x, features, frozen), label)


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """metric(x, (features, label)): 1 where the largest of several scores (or the sign of a single one) gives the label, else 0.

    For `solve(evaluate={"accuracy": (tw.models.accuracy(model), examples)})`. Of several labels in one example: their mean.
    """

    model: Any

    def __call__(self, x: Any, example: tuple[Any, Any], *frozen: Any) -> Any:
        features, label = example
        scores = self.model.predict(x, features, *frozen)
        found = (scores > 0).astype(jnp.int32) if scores.ndim == jnp.ndim(label) else jnp.argmax(scores, axis=-1)
        return jnp.mean((found == label).astype(jnp.float32))


def accuracy(model: Any) -> Accuracy:
    """The share of right classifications of a model with `predict(x, features)`."""
    return Accuracy(model)


def freeze(x0: Any, trainable: Any) -> tuple[Any, Any]:
    """(the leaves to be trained, the others), for `EmpiricalRisk(model, data, trained, frozen=others)`.

    Args:
        x0: parameters.
        trainable: which leaves are trained: a function `(path, leaf) -> bool`, or a pytree of bools like x0 or its upper levels.

    Raises:
        ValueError: all are, or none.
    """
    return split(x0, LeafFilter(trainable, "freeze(trainable=…)").mask(x0))


def instance_norm(channels: int, **options: Any) -> eqx.nn.GroupNorm:
    """Instance normalisation: every channel of every example by itself, group normalisation with one channel per group.

    For group normalisation itself use `eqx.nn.GroupNorm(groups, channels)`. Both need one example only, so that they mean the same
    on every client; statistics over a batch do not.
    """
    return eqx.nn.GroupNorm(groups=channels, channels=channels, **options)
