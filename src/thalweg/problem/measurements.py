"""Measurements: every agent has a value, all want the mean; f_i(x) = ½‖x − m_i‖².

Axes: `n` agents.
"""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from thalweg.problem import checks
from thalweg.problem.base import Local, Problem, scaled
from thalweg.problem.consensus import normal_like, stack_agents
from thalweg.problem.constants import Known, Memo
from thalweg.problem.regularizer import Regularizer, Zero


class MeasurementsPiece(eqx.Module):
    """What one agent holds (stacked: a leading axis n everywhere).

    Attributes:
        scale: 1, as all agents count the same.
        data: the agent's value, like x.
    """

    scale: Float[Array, "..."]
    data: PyTree


class MeasurementsLocal(Local):
    """The oracle of f_i(x) = ½‖x − m_i‖², and the measurement itself."""

    scale: Array
    data: PyTree
    regularizer: Regularizer
    noise: float = eqx.field(static=True)

    def measurement(self, key: PRNGKeyArray) -> PyTree:
        """What the sensor shows now: m_i + noise·N(0, I)."""
        if self.noise == 0:
            return self.data
        return jax.tree.map(jnp.add, self.data, scaled(normal_like(self.data, key), self.noise))

    def loss(self, x):
        return sum(0.5 * jnp.sum((a - m) ** 2) for a, m in zip(*map(jax.tree.leaves, (x, self.data)), strict=True))

    def stochastic_grad(self, x, key):
        """x − m with a fresh noisy measurement m."""
        return scaled(jax.tree.map(jnp.subtract, x, self.measurement(key)), self.scale)

    def _prox(self, v, step, x_init):
        def toward(a, m):
            pull = jnp.asarray(step, a.dtype) * self.scale.astype(a.dtype)
            return (a + pull * m) / (1 + pull)

        return jax.tree.map(toward, v, self.data)


class Measurements(Problem):
    """minimise mean_i ½‖x − m_i‖², whose solution is the mean of what the agents measure.

    Arguments:
        values: m_i; a pytree of floating arrays with a leading axis n, or a list of n pytrees. x is like one value and
            starts at zero.
        noise: standard deviation of one reading, for algorithms that measure again in every round.
        signal: `signal(value_i, k) -> m_i in round k`; the mean then moves, and `at(k)` is the problem of round k.
        names: the agents' names.

    Raises:
        ValueError: NaN or infinity, shapes that differ between agents, negative noise, a signal of another shape.
        TypeError: values that are not floating.
    """

    pieces: MeasurementsPiece
    x0: PyTree
    weights: np.ndarray
    round: Array
    noise: float = eqx.field(static=True)
    signal: Callable | None = eqx.field(static=True)
    names: tuple[str, ...] | None = eqx.field(static=True)
    memo: Memo = eqx.field(static=True, repr=False)
    regularizer: Regularizer | None = None

    def __init__(
        self, values: PyTree, *, noise: float | int = 0.0, signal: Callable | None = None, names: Sequence[str] | None = None
    ):
        stacked, n = stack_agents(values, names)
        self.names = checks.agent_names(names, n)
        checks.finite(stacked, self.names, per_agent=False)
        if not (np.isfinite(noise) and noise >= 0):
            raise ValueError(f"noise: got {noise}, expected a standard deviation ≥ 0")
        device = checks.start(stacked, root="values")
        self.x0 = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:], leaf.dtype), device)
        self.weights = checks.normalised_weights(np.ones(n), n, self.names)
        self.pieces = MeasurementsPiece(jnp.ones(n, self.dtype), device)
        self.round, self.noise, self.signal = jnp.zeros((), jnp.int32), float(noise), signal
        self.regularizer, self.memo = None, Memo()
        if signal is not None:
            checks.signal(signal, jax.tree.map(lambda leaf: leaf[0], device), "signal(value, k)", "one value")

    @property
    def drifts(self) -> bool:
        return self.signal is not None

    def at(self, k):
        return eqx.tree_at(lambda p: p.round, self, jnp.asarray(k, jnp.int32)) if self.drifts else self

    def local(self, piece: MeasurementsPiece) -> MeasurementsLocal:
        value = piece.data if self.signal is None else self.signal(piece.data, self.round)
        return MeasurementsLocal(piece.scale, value, Zero(), self.noise)

    def _known_constants(self) -> Known:
        return Known(np.ones(self.n), np.ones(self.n), "exact")
