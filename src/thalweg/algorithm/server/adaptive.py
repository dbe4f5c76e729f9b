"""The usual optimisers at the server: momentum, Adagrad, Adam, Yogi."""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from thalweg.algorithm.local import LocalSGD, LocalSolver
from thalweg.algorithm.step import Real
from thalweg.cohort import Cohort

from .fedopt import FedOpt

# FedAvg's local solver, when none is given.
_PLAIN = LocalSGD()


def FedAvgM(
    solver: LocalSolver = _PLAIN,
    cohort: Cohort | int | None = None,
    server_learning_rate: Real = 1.0,
    momentum: float = 0.9,
) -> FedOpt:
    """Federated averaging with heavy-ball momentum: m ← β m + Σ w_i Δ_i, x ← x + η m.

    Args:
        solver, cohort: as for `FedOpt`.
        server_learning_rate: η.
        momentum: β in [0, 1).

    Tzu-Ming Harry Hsu, Hang Qi, Matthew Brown, *Measuring the effects of non-identical data distribution for federated visual
    classification*, 2019.
    """
    _check("FedAvgM", momentum=momentum)
    return FedOpt(solver, cohort, _heavy_ball(float(momentum)), server_learning_rate)


def FedAdagrad(
    solver: LocalSolver = _PLAIN,
    cohort: Cohort | int | None = None,
    server_learning_rate: Real = 0.1,
    momentum: float = 0.0,
    adaptivity: float = 1e-3,
) -> FedOpt:
    """Adagrad at the server: with Δ = Σ w_i Δ_i, entry by entry,

        m ← β₁ m + (1 − β₁) Δ,   v ← v + Δ²,   x ← x + η m/(√v + τ),   v₀ = τ²

    Args:
        solver, cohort: as for `FedOpt`.
        server_learning_rate: η.
        momentum: β₁ in [0, 1).
        adaptivity: τ > 0; the smaller, the more the steps adapt.

    Sashank Reddi et al., *Adaptive federated optimization*, ICLR 2021.
    """
    _check("FedAdagrad", adaptivity, momentum=momentum)
    return FedOpt(solver, cohort, _adaptive("adagrad", float(momentum), 0.0, float(adaptivity)), server_learning_rate)


def FedAdam(
    solver: LocalSolver = _PLAIN,
    cohort: Cohort | int | None = None,
    server_learning_rate: Real = 0.1,
    momentum: float = 0.9,
    second_momentum: float = 0.99,
    adaptivity: float = 1e-3,
) -> FedOpt:
    """Adam at the server: as `FedAdagrad`, with v ← β₂ v + (1 − β₂) Δ².

    Moments are not corrected for their start, as in the paper; for Adam as optax has it, use
    `FedOpt(server_optimizer=optax.adam(η))`.

    Args:
        solver, cohort, server_learning_rate, momentum, adaptivity: as for `FedAdagrad`.
        second_momentum: β₂ in [0, 1).

    Sashank Reddi et al., *Adaptive federated optimization*, ICLR 2021.
    """
    _check("FedAdam", adaptivity, momentum=momentum, second_momentum=second_momentum)
    return FedOpt(
        solver, cohort, _adaptive("adam", float(momentum), float(second_momentum), float(adaptivity)), server_learning_rate
    )


def FedYogi(
    solver: LocalSolver = _PLAIN,
    cohort: Cohort | int | None = None,
    server_learning_rate: Real = 0.1,
    momentum: float = 0.9,
    second_momentum: float = 0.99,
    adaptivity: float = 1e-3,
) -> FedOpt:
    """Yogi at the server: as `FedAdam`, with v ← v − (1 − β₂) Δ² sign(v − Δ²), which lets v shrink slowly only.

    Args:
        solver, cohort, server_learning_rate, momentum, second_momentum, adaptivity: as for `FedAdam`.

    Sashank Reddi et al., *Adaptive federated optimization*, ICLR 2021.
    """
    _check("FedYogi", adaptivity, momentum=momentum, second_momentum=second_momentum)
    return FedOpt(
        solver, cohort, _adaptive("yogi", float(momentum), float(second_momentum), float(adaptivity)), server_learning_rate
    )


def _check(name: str, adaptivity: float = 1.0, **momenta: float) -> None:
    for field, value in momenta.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name}({field}={value!r}): expected a number in [0, 1)")
    if not adaptivity > 0:
        raise ValueError(f"{name}(adaptivity={adaptivity!r}): expected a positive number; 1e-3 suits most problems")


class Moments(NamedTuple):
    """State of the adaptive transformations: m and v."""

    m: Any
    v: Any


# One object per set of numbers: transformations are compared by identity, and an equal one must compile nothing.
@functools.cache
def _heavy_ball(momentum: float) -> Any:
    import optax

    return optax.chain(optax.trace(momentum), optax.scale(-1.0))


@functools.cache
def _adaptive(rule: Literal["adagrad", "adam", "yogi"], first: float, second: float, adaptivity: float) -> Any:
    """Descent directions −m/(√v + τ) of a gradient."""
    import optax

    def grown(v, gradient):
        square = gradient**2
        if rule == "adagrad":
            return v + square
        if rule == "adam":
            return second * v + (1 - second) * square
        return v - (1 - second) * square * jnp.sign(v - square)

    def init(x):
        return Moments(jax.tree.map(jnp.zeros_like, x), jax.tree.map(lambda leaf: jnp.full_like(leaf, adaptivity**2), x))

    def update(gradient, state, x=None):
        m = jax.tree.map(lambda m, g: first * m + (1 - first) * g, state.m, gradient)
        v = jax.tree.map(grown, state.v, gradient)
        return jax.tree.map(lambda m, v: -m / (jnp.sqrt(v) + adaptivity), m, v), Moments(m, v)

    return optax.GradientTransformation(init, update)
