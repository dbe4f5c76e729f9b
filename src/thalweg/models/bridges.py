"""Models of other libraries as (loss of one example, start)."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np

from thalweg.models.model import Model


@dataclasses.dataclass(frozen=True)
class EquinoxForward:
    """Calls an Equinox module whose arrays are x, all else kept in `structure` and `leaves`."""

    structure: Any
    leaves: tuple
    call: Callable | None

    def __call__(self, x: Any, features: Any) -> Any:
        module = eqx.combine(x, jax.tree.unflatten(self.structure, self.leaves), is_leaf=lambda node: hasattr(node, "low_rank"))
        return module(features) if self.call is None else self.call(module, features)


def from_equinox(module: Any, loss: Callable, call: Callable | None = None) -> tuple[Model, Any]:
    """(loss of one example, x0) of an Equinox module.

    Args:
        module: called with the features of one example. Its floating arrays are x0.
        loss: `loss(prediction, label) -> number`.
        call: `call(module, features) -> prediction`, where a plain call is not what is meant.

    Raises:
        TypeError: the module holds arrays that are not floating (they cannot be trained, nor compared by the compiler).
        ValueError: it keeps statistics of batches (`eqx.nn.BatchNorm`), which a loss of one example does not have.
    """
    if any(isinstance(node, eqx.nn.StatefulLayer) for node in jax.tree.leaves(module, is_leaf=_stateful)):
        raise ValueError(
            "from_equinox: the module has stateful layers (batch statistics), which a loss of one example cannot update; use "
            "eqx.nn.GroupNorm, eqx.nn.LayerNorm or tw.models.instance_norm"
        )
    x0, static = eqx.partition(module, eqx.is_inexact_array)
    leaves, structure = jax.tree.flatten(static)
    for leaf in leaves:
        if isinstance(leaf, jax.Array | np.ndarray):
            raise TypeError(
                f"from_equinox: got an array of {leaf.dtype}, expected floating ones only; keep whole numbers in static fields, or "
                "pass them with the data"
            )
    return Model(EquinoxForward(structure, tuple(leaves), call), loss), x0


def _stateful(node: Any) -> bool:
    return isinstance(node, eqx.nn.StatefulLayer)


@dataclasses.dataclass(frozen=True)
class FlaxForward:
    """Calls a Flax (linen) module with x as its parameters."""

    module: Any

    def __call__(self, x: Any, features: Any) -> Any:
        return self.module.apply({"params": x}, features)


def from_flax(module: Any, loss: Callable, example: Any, key: Any) -> tuple[Model, Any]:
    """(loss of one example, x0) of a `flax.linen` module.

    Args:
        module: called with the features of one example.
        loss: `loss(prediction, label) -> number`.
        example: features of one example, for shapes.
        key: of the random start.

    Raises:
        ValueError: the module has variables other than parameters (batch statistics), which a loss of one example cannot update.
    """
    variables = dict(module.init(key, example))
    x0 = variables.pop("params", {})
    if variables:
        raise ValueError(
            f"from_flax: got variables {', '.join(map(repr, variables))} beside the parameters, which a loss of one example cannot "
            "update; use nn.GroupNorm or nn.LayerNorm in place of nn.BatchNorm"
        )
    return Model(FlaxForward(module), loss), x0


def from_init_apply(init: Callable, apply: Callable, loss: Callable, example: Any, key: Any) -> tuple[Model, Any]:
    """(loss of one example, x0) of a pair of functions.

    Args:
        init: `init(key, example) -> x0`.
        apply: `apply(x, features) -> prediction`; the same function object each time, or equal programs compile twice.
        loss: `loss(prediction, label) -> number`.
        example: features of one example.
        key: of the random start.
    """
    return Model(apply, loss), init(key, example)
