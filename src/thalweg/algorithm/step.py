"""Hyper-parameters: what an algorithm's step size may be, and how an open one is filled."""

import dataclasses
import typing
from typing import TypeVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

T = TypeVar("T", bound=eqx.Module)


# A hyper-parameter: what a user writes, or the traced array that the engine makes of it.
Real = float | Float[Array, ""]
Whole = int | Int[Array, ""]


class PerAgent(eqx.Module):
    """A hyper-parameter with one value per agent: `values [n]`, in the order of the problem's agents."""

    values: Float[Array, " n"] | np.ndarray = eqx.field(converter=np.asarray)


class LocalStep(eqx.Module):
    """Each agent's own step size `fraction / L_i`, from its own Lipschitz constant.

    Only methods whose limit does not depend on the agents' step sizes accept it (`handles` has "local_steps").
    """

    fraction: float = 1.0


StepSize = Real | PerAgent | LocalStep | None


def fill(algorithm: T, **defaults) -> T:
    """`algorithm` with every field that is None replaced by its default."""
    missing = {name: value for name, value in defaults.items() if getattr(algorithm, name) is None}
    return dataclasses.replace(algorithm, **missing) if missing else algorithm


def localise(algorithm: T, local_smoothness: np.ndarray) -> T:
    """`algorithm` with every `LocalStep` resolved to the agents' own step sizes."""
    changes = {
        field.name: PerAgent(value.fraction / local_smoothness)
        for field in dataclasses.fields(algorithm)
        if isinstance(value := getattr(algorithm, field.name), LocalStep)
    }
    return dataclasses.replace(algorithm, **changes) if changes else algorithm


def traced(algorithm: T, dtype) -> T:
    """`algorithm` with float hyper-parameters as arrays of `dtype`, so that a new value compiles nothing."""

    def leaf(field, value):
        if field.metadata.get("static"):  # part of the program: a rate that sets the size of a cohort
            return value
        if isinstance(value, PerAgent):
            return PerAgent(np.asarray(value.values, dtype))
        if isinstance(value, eqx.Module):  # a local solver, a cohort's rule: hyper-parameters of their own
            return traced(value, dtype)
        if callable(value):
            return value
        real = float in (field.type, *typing.get_args(field.type)) and value is not None
        return jnp.asarray(value, dtype) if real or isinstance(value, float | np.floating) else value

    changes = {f.name: leaf(f, getattr(algorithm, f.name)) for f in dataclasses.fields(algorithm)}
    return dataclasses.replace(algorithm, **changes)
