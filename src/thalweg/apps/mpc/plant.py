"""The plant: subsystems with linear dynamics, their limits and costs, who influences whom, and what they share.

Axes: `n` subsystems, `s` states and `a` inputs of one of them, `k` neighbours that it hears at most, `y` states that are heard,
`b` shared budgets.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np


@dataclasses.dataclass(frozen=True)
class Subsystem:
    """x⁺ = A x + B u + Σ_j influence[j] x_j + drift,  stage cost ½(x − target)ᵀQ(x − target) + ½(u − rest)ᵀR(u − rest).

    Attributes:
        A, B: `[s, s]`, `[s, a]`.
        Q, R: `[s, s]` and `[a, a]`, R positive definite, or their diagonals.
        influence: name of another subsystem → `[s, s]`; what it does to this one's next state.
        drift: `[s]`. target: `[s]`. rest: `[a]`. All 0 where left out.
        final: `[s, s]` or a diagonal, Q of the last state of a horizon; Q where left out.
        low, high: `[s]` limits of the state; input_low, input_high: `[a]` of the input; numbers hold for all entries.
        use: `[b, a]`, what a unit of input uses of each shared budget; a number holds for all inputs.
    """

    A: Any
    B: Any
    Q: Any
    R: Any
    influence: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    drift: Any = 0.0
    target: Any = 0.0
    rest: Any = 0.0
    final: Any = None
    low: Any = -np.inf
    high: Any = np.inf
    input_low: Any = -np.inf
    input_high: Any = np.inf
    use: Any = 0.0


class Plant:
    """Subsystems by name, with the budgets Σ_i use_i u_i(t) ≤ budget that they share.

    All have as many states, and as many inputs. Only the states that somebody's dynamics mention are heard by neighbours.

    Arguments:
        subsystems: name → `Subsystem`.
        budget: `[b]`, or a function of the time step t that gives it; None: nothing is shared.
        bend: `bend(x, u, parameters_i) -> [s]`, in JAX, what is not linear in a subsystem's own dynamics: added to A x + B u.
        parameters: a pytree with a leading axis n, one entry per subsystem.

    Raises:
        ValueError: shapes that do not fit, an unknown neighbour, costs that are not convex, limits that exclude each other.
    """

    def __init__(
        self, subsystems: Mapping[str, Subsystem], budget: Any = None, bend: Callable | None = None, parameters: Any = ()
    ):
        self.names, self.subsystems = tuple(subsystems), tuple(subsystems.values())
        self.bend, self.parameters = bend, parameters
        if not self.names:
            raise ValueError("Plant: got no subsystems")
        self.budget = budget
        first = self.subsystems[0]
        s, a = np.shape(np.atleast_2d(first.A))[0], np.atleast_2d(first.B).shape[1]
        self.b = len(self.available(0))
        self.A = self._stack("A", lambda v: np.atleast_2d(v), (s, s))
        self.B = self._stack("B", lambda v: np.atleast_2d(v), (s, a))
        self.Q, self.R = self._stack("Q", _square(s), (s, s)), self._stack("R", _square(a), (a, a))
        self.final = np.stack(
            [self.Q[i] if sub.final is None else _square(s)(sub.final) for i, sub in enumerate(self.subsystems)]
        )
        rows = lambda name, size: self._stack(name, lambda v: np.broadcast_to(np.asarray(v, float), (size,)), (size,))
        self.drift, self.target, self.rest = rows("drift", s), rows("target", s), rows("rest", a)
        self.low, self.high = rows("low", s), rows("high", s)
        self.input_low, self.input_high = rows("input_low", a), rows("input_high", a)
        self.use = self._stack("use", lambda v: np.broadcast_to(np.asarray(v, float), (self.b, a)), (self.b, a))
        self._check()
        self.influence = self._influence()
        involved = sorted({int(c) for matrix in self.influence.values() for c in np.flatnonzero(np.any(matrix != 0, axis=0))})
        self.heard = np.array(involved, int)

    def _stack(self, field: str, form: Callable, shape: tuple[int, ...]) -> np.ndarray:
        found = []
        for name, subsystem in zip(self.names, self.subsystems, strict=True):
            try:
                array = np.asarray(form(np.asarray(getattr(subsystem, field), float)), float)
            except ValueError:
                array = np.asarray(getattr(subsystem, field), float)
            if array.shape != shape:
                raise ValueError(f"{name}: got {field} of shape {array.shape}, expected {shape}, as all subsystems have")
            if np.isnan(array).any():
                raise ValueError(f"{name}: got NaN in {field}")
            found.append(array)
        return np.stack(found)

    def _check(self) -> None:
        for i, name in enumerate(self.names):
            if np.linalg.eigvalsh(self.R[i])[0] <= 0 or min(np.linalg.eigvalsh(m[i])[0] for m in (self.Q, self.final)) < -1e-12:
                raise ValueError(f"{name}: expected R positive definite, and Q and final positive semidefinite")
            if (self.low[i] > self.high[i]).any() or (self.input_low[i] > self.input_high[i]).any():
                raise ValueError(f"{name}: a lower limit lies above the upper one")

    def _influence(self) -> dict[tuple[int, int], np.ndarray]:
        """(j, i) → what the state of j does to that of i."""
        found = {}
        for i, subsystem in enumerate(self.subsystems):
            for other, matrix in subsystem.influence.items():
                if other not in self.names or other == self.names[i]:
                    raise ValueError(f"{self.names[i]}: influence of {other!r}, expected another subsystem's name")
                matrix = np.asarray(matrix, float)
                if matrix.shape != self.A[i].shape:
                    raise ValueError(
                        f"{self.names[i]}: influence of {other!r} of shape {matrix.shape}, expected {self.A[i].shape}"
                    )
                if matrix.any():
                    found[self.names.index(other), i] = matrix
        return found

    @property
    def n(self) -> int:
        """Number of subsystems."""
        return len(self.names)

    @property
    def s(self) -> int:
        """Number of states of one subsystem."""
        return self.A.shape[1]

    @property
    def a(self) -> int:
        """Number of inputs of one subsystem."""
        return self.B.shape[2]

    def available(self, t: int, steps: int | None = None) -> np.ndarray:
        """The budgets `[b]` at time t, or `[steps, b]` from t on."""
        if steps is not None:
            return np.stack([self.available(t + k) for k in range(steps)])
        if self.budget is None:
            return np.zeros(0)
        return np.atleast_1d(np.asarray(self.budget(t) if callable(self.budget) else self.budget, float))

    def step(self, x: np.ndarray, u: np.ndarray) -> np.ndarray:
        """The next states `[n, s]` from states and inputs `[n, a]`."""
        following = np.einsum("nij,nj->ni", self.A, x) + np.einsum("nij,nj->ni", self.B, u) + self.drift
        for (j, i), matrix in self.influence.items():
            following[i] += matrix @ x[j]
        if self.bend is not None:
            with jax.enable_x64(True):
                following += np.asarray(_bent(self.bend, x, u, self.parameters))
        return following

    def linearised(self, states: np.ndarray, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(A `[n, H, s, s]`, B `[n, H, s, a]`, c `[n, H, s]`) of x⁺ = A x + B u + c + influence, along states `[n, H, s]`."""
        with jax.enable_x64(True):
            value, dx, du = (np.asarray(found) for found in _slopes(self.bend, states, inputs, self.parameters))
        c = value - np.einsum("nhij,nhj->nhi", dx, states) - np.einsum("nhij,nhj->nhi", du, inputs) + self.drift[:, None]
        return self.A[:, None] + dx, self.B[:, None] + du, c

    def rollout(self, x: np.ndarray, inputs: np.ndarray) -> np.ndarray:
        """States `[n, H + 1, s]` from `x` under inputs `[n, H, a]`, everybody's influence included."""
        states = [x]
        for t in range(inputs.shape[1]):
            states.append(self.step(states[-1], inputs[:, t]))
        return np.stack(states, axis=1)

    def stage_cost(self, x: np.ndarray, u: np.ndarray) -> float:
        """Σ_i of the stage costs at states `[n, s]` and inputs `[n, a]`."""
        dx, du = x - self.target, u - self.rest
        return 0.5 * float(np.einsum("ni,nij,nj", dx, self.Q, dx) + np.einsum("ni,nij,nj", du, self.R, du))

    def excess(self, states: np.ndarray, inputs: np.ndarray, t: int) -> np.ndarray:
        """All limits as one vector, ≤ 0 where they hold: of states `[n, H, s]`, inputs `[n, H, a]`, and budgets from t on."""
        used = np.einsum("nba,nta->tb", self.use, inputs) - self.available(t, inputs.shape[1])
        parts = [states - self.high[:, None], self.low[:, None] - states, inputs - self.input_high[:, None]]
        return np.concatenate([part.ravel() for part in (*parts, self.input_low[:, None] - inputs, used)])

    def __repr__(self) -> str:
        return f"Plant({self.n} subsystems, {self.s} states and {self.a} inputs each, {len(self.influence)} influences, {self.b} budgets)"


@functools.partial(jax.jit, static_argnums=0)
def _bent(bend, x, u, parameters):
    return jax.vmap(bend)(x, u, parameters)


@functools.partial(jax.jit, static_argnums=0)
def _slopes(bend, states, inputs, parameters):
    def along(x, u, own):
        one = lambda x, u: (bend(x, u, own), *jax.jacfwd(bend, argnums=(0, 1))(x, u, own))
        return jax.vmap(one)(x, u)

    return jax.vmap(along)(states, inputs, parameters)


def _square(size: int) -> Callable:
    """A matrix from itself, its diagonal, or a number."""

    def form(value):
        if np.ndim(value) == 2:
            return value
        return np.diag(np.broadcast_to(value, (size,)))

    return form
