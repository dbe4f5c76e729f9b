"""The horizon problem of a whole plant as a `tw.Coupled` problem, state after state without compiling anew.

Rows: for every influence j → i, every step 1 … H−1 and every heard state, copy − original = 0; for every step and budget, what
is used ≤ budget. A subsystem touches the rows of what it hears, of who hears it, and of the budgets.

Axes: as in `condensed`; `e` influences, `m` rows.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import thalweg as tw
from thalweg.apps.mpc import condensed
from thalweg.apps.mpc.best_response import respond
from thalweg.apps.mpc.plant import Plant

# What stands for an infinite limit among data, which are to be finite.
NO_LIMIT = 1e9


def polyhedron(data: condensed.Condensed) -> tw.Polyhedron:
    """The limits of one subsystem; those that are not there ask nothing."""
    G, h = jnp.concatenate([data.C, -data.C]), jnp.concatenate([data.high, -data.low])
    there = h < NO_LIMIT / 2
    return tw.Polyhedron(jnp.where(there[:, None], G, 0), jnp.where(there, h, 1))


class Horizon:
    """Horizon problems of `plant` over `steps` time steps.

    Arguments:
        penalty: `[m]` of the rows, or a number: what `respond` prepares its matrices for.
        exact: best responses by `respond`; else by `tw.InteriorPoint` over a `tw.Polyhedron`, for methods that change penalties.
    """

    def __init__(self, plant: Plant, steps: int, penalty: Any = 1.0, exact: bool = True):
        if not isinstance(steps, int) or steps < 1:
            raise ValueError(f"horizon: got {steps!r}, expected a whole number ≥ 1")
        self.plant, self.steps, self.exact = plant, steps, exact
        arcs = sorted(plant.influence, key=lambda arc: (arc[1], arc[0]))
        if not arcs and not plant.b:
            raise ValueError("mpc: nothing couples these subsystems, got no influence and no budget; plan for each by itself")
        if arcs and steps < 2:
            raise ValueError("mpc: subsystems that influence each other need a horizon of at least 2 steps")
        n, y = plant.n, len(plant.heard)
        ins = [[e for e, (_, i) in enumerate(arcs) if i == agent] for agent in range(n)]
        outs = [[e for e, (j, _) in enumerate(arcs) if j == agent] for agent in range(n)]
        self.k, self.o = max(map(len, ins)), max(map(len, outs))
        self.arcs, self.y, self.z = arcs, y, (steps - 1) * y
        self.copies = len(arcs) * self.z
        self.m = self.copies + steps * plant.b
        block = lambda e: np.full(self.z, -1) if e is None else e * self.z + np.arange(self.z)
        padded = lambda own, size: own + [None] * (size - len(own))
        shared = self.copies + np.arange(steps * plant.b)
        self.rows = np.stack([
            np.concatenate([*map(block, padded(ins[i], self.k)), *map(block, padded(outs[i], self.o)), shared]) for i in range(n)
        ]).astype(int)  # fmt: skip
        self.row_penalty = np.broadcast_to(np.asarray(penalty, float), (self.m,))
        self.neighbours = np.array([padded([arcs[e][0] for e in ins[i]], self.k) for i in range(n)], object).reshape(n, self.k)
        self.limited = np.flatnonzero((np.isfinite(plant.low) | np.isfinite(plant.high)).any(axis=0))
        self.outs = np.zeros((n, self.o))
        self._out_degree = np.array([len(own) for own in outs])
        self.share = self._share()
        self.model = self.modelled()
        self.fixed = self.prepared(self.model)

    def _share(self) -> np.ndarray:
        """`[n, y]` half of what heard states cost, divided among those who hear them."""
        heard = self.plant.heard
        if not len(heard):
            return np.zeros((self.plant.n, 0))
        Q = self.plant.Q
        diagonal = np.stack([np.diag(np.diag(q)) for q in Q])
        apart = np.array([np.allclose(q, d) for q, d in zip(Q, diagonal, strict=True)])
        weakest = np.where(apart[:, None], np.diagonal(Q, axis1=1, axis2=2)[:, heard], np.linalg.eigvalsh(Q)[:, :1])
        for name, low, degree in zip(self.plant.names, weakest.min(axis=1), self._out_degree, strict=True):
            if degree and low <= 1e-9:
                raise ValueError(
                    f"{name}: neighbours hear its state, which costs nothing (Q = 0 there), so that no price could hold a copy; "
                    "give it a small positive weight in Q"
                )
        return np.where(self._out_degree[:, None] > 0, weakest / 2, 0.0)

    def modelled(self, dynamics: tuple[Any, Any, Any] | None = None) -> condensed.Model:
        """The model of every subsystem. `dynamics`: (A, B, c), each `[n, H, …]`, where they are not the plant's own."""
        plant, H = self.plant, self.steps
        n, s = plant.n, plant.s
        along = lambda array: np.repeat(array[:, None], H, axis=1)
        cost, goal = np.ones((n, self.k, self.y)), np.zeros((n, self.k, self.y))
        E = np.zeros((n, self.k, s, self.y))
        for i, slot, j in self._slots():
            E[i, slot] = plant.influence[j, i][:, plant.heard]
            cost[i, slot] = self.share[j] / self._out_degree[j]
            goal[i, slot] = plant.target[j][plant.heard]
        A, B, c = dynamics or (along(plant.A), along(plant.B), along(plant.drift))
        flat = lambda inputs, states: np.concatenate(
            [along(inputs).reshape(n, -1), along(states[:, self.limited]).reshape(n, -1)], axis=1
        ).clip(-NO_LIMIT, NO_LIMIT)
        with jax.enable_x64(True):
            return condensed.Model(
                *map(jnp.asarray, (A, B, along(E), c)),
                *map(jnp.asarray, (plant.Q, plant.final, plant.R, plant.target, plant.rest, cost, goal, self.share)),
                *map(jnp.asarray, (flat(plant.input_low, plant.low), flat(plant.input_high, plant.high), plant.use)),
            )

    def _slots(self):
        return [(i, slot, j) for i in range(self.plant.n) for slot, j in enumerate(self.neighbours[i]) if j is not None]

    def prepared(self, model: condensed.Model) -> tuple[Any, condensed.Condensed]:
        """What does not depend on the state."""
        with jax.enable_x64(True):
            penalty = np.where(self.rows < 0, 0, self.row_penalty[self.rows])
            return _prepare(model, jnp.asarray(self.outs), jnp.asarray(penalty), tuple(self.plant.heard), tuple(self.limited))

    def data(self, x: np.ndarray, model: condensed.Model | None = None, fixed: Any = None) -> condensed.Condensed:
        """Everybody's data at states `x` `[n, s]`."""
        others = np.zeros((self.plant.n, self.k, self.y))
        for i, slot, j in self._slots():
            others[i, slot] = x[j][self.plant.heard]
        at = (tuple(self.plant.heard), tuple(self.limited))
        return _at(model or self.model, fixed or self.fixed, jnp.asarray(x), jnp.asarray(others), *at)

    def total(self, t: int) -> np.ndarray:
        """`[m]` of the rows at time t."""
        return np.concatenate([np.zeros(self.copies), self.plant.available(t, self.steps).ravel()])

    @functools.cached_property
    def size(self) -> int:
        """d, how many variables a subsystem has."""
        return self.steps * self.plant.a + self.k * self.z

    def problem(self, x: np.ndarray, t: int = 0) -> tw.Coupled:
        """The problem at states x; later ones come from `problem.with_data(self.data(x), self.total(t))`."""
        touches_all = not self.copies
        return tw.Coupled(
            condensed.cost, self.data(x), coupling=condensed.quantities, total=self.total(t), x0=jnp.zeros(self.size),
            sense=["="] * self.copies + ["<="] * (self.steps * self.plant.b), rows=None if touches_all else self.rows,
            local=None if self.exact else polyhedron, names=self.plant.names,
            solver=tw.ClosedForm(respond, augmented=True) if self.exact else tw.InteriorPoint(),
        )  # fmt: skip

    def inputs(self, plans: Any) -> np.ndarray:
        """`[n, H, a]` of plans `[n, d]`."""
        return np.asarray(plans)[:, : self.steps * self.plant.a].reshape(self.plant.n, self.steps, self.plant.a)

    def shifted(self, price: np.ndarray, plans: Any) -> tw.WarmStart:
        """Price and plans moved on by one step; the last one stands in for the new one."""
        copies = later(price[: self.copies].reshape(len(self.arcs), self.steps - 1, self.y), 1)
        budgets = later(price[self.copies :].reshape(self.steps, self.plant.b), 0)
        v, inputs = np.asarray(plans), self.inputs(plans)
        heard = v[:, self.steps * self.plant.a :].reshape(self.plant.n, self.k, self.steps - 1, self.y)
        moved = [later(inputs, 1).reshape(self.plant.n, -1), later(heard, 2).reshape(self.plant.n, -1)]
        return tw.WarmStart(np.concatenate([copies.ravel(), budgets.ravel()]), np.concatenate(moved, axis=1))


def later(array: np.ndarray, axis: int) -> np.ndarray:
    """Moved on by one along `axis`; the last entry twice."""
    count = array.shape[axis]
    return array if not count else np.take(array, np.minimum(np.arange(count) + 1, count - 1), axis=axis)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _prepare(model, outs, penalty, heard, limited):
    indices = jnp.asarray(heard, int), jnp.asarray(limited, int)
    return jax.vmap(lambda m, o, p: condensed.matrices(m, o, p, *indices))(model, outs, penalty)


@functools.partial(jax.jit, static_argnums=(4, 5))
def _at(model, fixed, x, others, heard, limited):
    indices = jnp.asarray(heard, int), jnp.asarray(limited, int)
    return jax.vmap(lambda m, f, x, o: condensed.at_state(m, f, x, o, *indices))(model, fixed, x, others)
