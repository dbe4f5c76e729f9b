"""Consensus problems: any local objective f_i(x) = loss(x, data_i).

Axes: `n` agents.
"""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from thalweg.problem import checks
from thalweg.problem.base import Local, Problem, scaled
from thalweg.problem.constants import Known, Memo, given
from thalweg.problem.inner import solve_prox
from thalweg.problem.regularizer import Regularizer, Zero


class ConsensusPiece(eqx.Module):
    """What one agent holds (stacked: a leading axis n everywhere).

    Attributes:
        scale: n·w_i.
        data: the agent's data.
    """

    scale: Float[Array, "..."]
    data: PyTree


class ConsensusLocal(Local):
    """The oracle of φ_i = n·w_i·loss(·, data_i)."""

    scale: Array
    data: PyTree
    regularizer: Regularizer
    function: Callable = eqx.field(static=True)
    proximal: Callable | None = eqx.field(static=True)
    gradient_noise: float = eqx.field(static=True)

    def loss(self, x):
        return self.function(x, self.data)

    def stochastic_grad(self, x, key):
        """∇φ_i(x) + n·w_i·σ·N(0, I) with σ = `gradient_noise`."""
        gradient = self.grad(x)
        if self.gradient_noise == 0:
            return gradient
        return jax.tree.map(jnp.add, gradient, scaled(normal_like(x, key), self.scale * self.gradient_noise))

    def _prox(self, v, step, x_init):
        if self.proximal is not None:
            # prox of n·w_i·f_i with a step s is the prox of f_i with the step n·w_i·s.
            return self.proximal(v, jnp.asarray(step, self.scale.dtype) * self.scale, self.data)
        return solve_prox(self.value, v, step, x_init)


def normal_like(x: PyTree, key: Any) -> PyTree:
    """Standard normal numbers shaped like x."""
    leaves, structure = jax.tree.flatten(x)
    keys = jax.random.split(key, len(leaves))
    return structure.unflatten([jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)])


class Consensus(Problem):
    """minimise Σ_i w_i loss(x, data_i) + r(x), all agents agreeing on one x.

    Arguments:
        loss: `loss(x, data_i) -> scalar`, differentiable, in `jax.numpy`. Functions are compared by identity: define it
            once, at module level, and nothing is compiled twice.
        data: a pytree of arrays with a leading axis n, or a list of n pytrees of equal structure and shapes.
            Floating arrays are cast to the dtype of x0.
        x0: the common starting point, a pytree of floating arrays.
        weights: w_i ≥ 0, `[n]`, scaled to sum to one; equal when left out.
        regularizer: r, known to everybody, e.g. `tw.l1(0.1)`.
        smoothness, strong_convexity: L_i and μ_i of the (unscaled) f_i, numbers or `[n]`; estimated when left out.
        exact: the constants given are attained, not mere bounds, and are reported as exact.
        prox: `prox(v, step, data_i) -> x`, the closed form argmin_x f_i(x) + ‖x − v‖²/(2·step) of the unscaled f_i.
        gradient_noise: σ ≥ 0; `stochastic_grad` is the gradient of f_i plus σ·N(0, I).
        data_signal: `data_signal(data_i, k)`: the data of round k, in the shapes of data_i. `at(k)` is the problem of round k, and
            the problem itself is that of round 0, at which constants that are left out are estimated.
        names: the agents' names.

    Raises:
        ValueError: data with NaN or infinity, shapes that differ between agents, bad weights or constants, a loss that
            is not scalar, not differentiable or not finite at x0, a signal that makes something else than data.
        TypeError: x0 not floating, loss not a function.
    """

    pieces: ConsensusPiece
    x0: PyTree
    weights: np.ndarray
    regularizer: Regularizer | None
    round: Array
    curvature: tuple[np.ndarray | None, np.ndarray | None]
    source: str = eqx.field(static=True)
    function: Callable = eqx.field(static=True)
    proximal: Callable | None = eqx.field(static=True)
    gradient_noise: float = eqx.field(static=True)
    data_signal: Callable | None = eqx.field(static=True)
    names: tuple[str, ...] | None = eqx.field(static=True)
    memo: Memo = eqx.field(static=True, repr=False)

    def __init__(
        self,
        loss: Any,
        data: PyTree,
        x0: PyTree,
        *,
        weights: Any = None,
        regularizer: Any = None,
        smoothness: Any = None,
        strong_convexity: Any = None,
        exact: bool = False,
        prox: Callable | None = None,
        gradient_noise: float | int = 0.0,
        data_signal: Callable | None = None,
        names: Sequence[str] | None = None,
    ):
        self.x0 = checks.start(x0)
        stacked, n = stack_agents(data, names)
        self.names = checks.agent_names(names, n)
        checks.finite(stacked, self.names, per_agent=False)
        if not (np.isfinite(gradient_noise) and gradient_noise >= 0):
            raise ValueError(f"gradient_noise: got {gradient_noise}, expected a standard deviation ≥ 0")
        self.weights = checks.normalised_weights(np.ones(n) if weights is None else weights, n, self.names)
        self.regularizer = checks.regularizer(regularizer, self.x0)
        constants = given(smoothness, strong_convexity, n)
        self.curvature, self.source = (constants.smoothness, constants.strong_convexity), "exact" if exact else "given"
        self.function, self.proximal, self.gradient_noise = loss, prox, float(gradient_noise)
        self.data_signal, self.round, self.memo = data_signal, jnp.zeros((), jnp.int32), Memo()
        self.pieces = ConsensusPiece(jnp.asarray(n * self.weights, self.dtype), checks.to_device(stacked, self.dtype))
        first = jax.tree.map(lambda leaf: leaf[0], self.pieces.data)
        if data_signal is not None:
            checks.signal(data_signal, first, "data_signal(data_i, k)", "one agent's data")
            first = data_signal(first, self.round)
        checks.loss_function(loss, self.x0, first, "loss(x, data_i)")
        checks.finite_gradients(self.gradients(self.x0), self.losses(self.x0), self.names)

    @property
    def drifts(self) -> bool:
        return self.data_signal is not None

    def at(self, k):
        return eqx.tree_at(lambda p: p.round, self, jnp.asarray(k, jnp.int32)) if self.drifts else self

    def local(self, piece: ConsensusPiece) -> ConsensusLocal:
        data = piece.data if self.data_signal is None else self.data_signal(piece.data, self.round)
        return ConsensusLocal(piece.scale, data, self.regularizer or Zero(), self.function, self.proximal, self.gradient_noise)

    def _known_constants(self) -> Known:
        return Known(*self.curvature, self.source).times(self.n * self.weights)


def stack_agents(data: PyTree, names: Sequence[str] | None) -> tuple[PyTree, int]:
    """Data of all agents as NumPy arrays with a leading axis, and n; a list has one entry per agent.

    Raises:
        ValueError: structures, shapes or numbers of agents that differ.
    """
    if not isinstance(data, list):
        stacked = checks.host(data)
        return stacked, checks.leading_axis(stacked)
    parts = [checks.host(part) for part in data]
    checks.same_structure(parts, names, skip=0)
    return jax.tree.map(lambda *leaves: np.stack(leaves), *parts), len(parts)
