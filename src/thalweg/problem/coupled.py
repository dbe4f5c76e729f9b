"""Coupled problems: every agent has a variable of its own, and all share a constraint.

    minimise Σ_i f_i(x_i)   subject to   Σ_i g_i(x_i) = b (or ≤, ≥),   x_i ∈ X_i

Axes: `n` agents, `m` rows of the coupling, `r` rows that one agent touches.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from thalweg.problem import checks
from thalweg.problem.base import Scalar
from thalweg.problem.consensus import stack_agents
from thalweg.problem.constants import Memo
from thalweg.problem.coupling import Coupling, gathered, heard, scattered
from thalweg.problem.polyhedron import Polyhedron
from thalweg.problem.pricing import Pricing, pricing
from thalweg.problem.regularizer import Regularizer, Zero
from thalweg.problem.respond import ClosedForm, Descent, InteriorPoint, Question, Solver
from thalweg.problem.scattered import Scattered


class CoupledPiece(eqx.Module):
    """What one agent holds (stacked: a leading axis n everywhere).

    Attributes:
        data: the agent's data.
        share: b_i `[r]`, its part of the total: Σ_i b_i = b (for peers; nobody uses it under a price-setter).
        rows: `[r]` the rows that it touches, −1 where there are fewer; None: all m of them.
    """

    data: PyTree
    share: Float[Array, "*n r"]
    rows: Int[Array, "*n r"] | None


class CoupledLocal(eqx.Module):
    """The oracle of one agent: of f_i, g_i and X_i. A price `[r]` has one entry for each row that it touches; `public` is what
    everybody knows of the rows, their total and their senses."""

    data: PyTree
    share: Float[Array, " r"]
    rows: Int[Array, " r"] | None
    public: Coupling
    x0: PyTree
    feasible: Regularizer | Polyhedron
    solver: Solver
    function: Callable = eqx.field(static=True)
    coupling: Callable = eqx.field(static=True)

    def value(self, x: PyTree) -> Scalar:
        """f_i(x)."""
        return self.function(x, self.data)

    def cost(self, x: PyTree) -> Scalar:
        """f_i(x), and the cost of the local set where that is not only a set (an l1 term, for example)."""
        r = self.feasible
        return self.value(x) if isinstance(r, Polyhedron) or r.indicator else self.value(x) + r.value(x)

    def grad(self, x: PyTree) -> PyTree:
        """∇f_i(x)."""
        return jax.grad(self.function)(x, self.data)

    def quantity(self, x: PyTree) -> Float[Array, " r"]:
        """g_i(x)."""
        return self.coupling(x, self.data)

    def lagrangian(self, x: PyTree, price: Float[Array, " r"]) -> Scalar:
        """f_i(x) + ⟨price, g_i(x)⟩."""
        return self.value(x) + jnp.sum(price * self.quantity(x))

    def respond(
        self,
        price: Float[Array, " r"],
        start: PyTree,
        *,
        penalty: Any = None,
        target: Float[Array, " r"] | None = None,
        pull: Any = None,
        anchor: PyTree | None = None,
        tolerance: Any = None,
    ) -> "Answer":
        """argmin over x ∈ X_i of f_i(x) + ⟨price, g_i(x)⟩ + ½ Σ_j penalty_j (g_i(x) − target)_j² + ½·pull·‖x − anchor‖².

        `start` is where an iterative solver begins; `tolerance` overrides its own.
        """
        question = Question(price, penalty, target, pull, anchor)
        x, iterations = self.solver.respond(self, question, start, tolerance)
        return Answer(x, self.quantity(x), iterations)

    def bound(self, price: Float[Array, " r"], start: PyTree) -> tuple[Scalar, PyTree]:
        """(a value that min_x∈X_i f_i(x) + ⟨price, g_i(x)⟩ is surely not below, up to rounding; a best response).

        −∞ where nothing can be proved: an inexact response, no strong convexity, an unbounded X_i.
        """
        return self.solver.bound(self, Question(price), start)


class Answer(eqx.Module):
    """A best response.

    Attributes:
        x: the plan; quantity: g_i(x) `[r]`; iterations: of the local solver.
    """

    x: PyTree
    quantity: Float[Array, " r"]
    iterations: Int[Array, ""]


class Coupled(Scattered):
    """minimise Σ_i cost(x_i, data_i) subject to Σ_i coupling(x_i, data_i) = total (or ≤, ≥) and x_i ∈ X_i.

    Plain sums: nothing is divided by n. The price λ belongs to the Lagrangian Σ f_i + ⟨λ, Σ g_i − b⟩.

    Arguments:
        cost: `cost(x, data_i) -> scalar`, convex; defined once, at module level (functions are compared by identity).
        data: a pytree of arrays with a leading axis n, or a list of n pytrees.
        coupling: `coupling(x, data_i) -> [m]`, affine (convex where the row is "<="), or `[r]` with `rows`.
        total: b, a number or `[m]`.
        sense: "=", "<=" or ">=", or one per row.
        x0: where plans start, like one x_i.
        local: X_i, with its cost if it has one: a regulariser (`tw.box(0, 1)`, `tw.simplex()`, …), a `tw.Polyhedron`, or a
            function of data_i that makes either; None: no constraint.
        rows: `[n, r]`, which rows an agent touches (−1: none); its quantities and prices are then those alone.
        best_response: `best_response(price, data_i) -> x`, in closed form.
        solver: how best responses are found where there is no closed form: `tw.Descent()` (accelerated proximal gradient; the
            default), or `tw.InteriorPoint()` (quadratic costs over polyhedra; the default for a `Polyhedron`).
        share: `[n, m]` (or `[n, r]`), the agents' parts of b, which peers hold; b/n each when left out (of a row, among those
            that touch it). A site of a deployed run gives its own, as it does of `rows`.
        smoothness, strong_convexity: L_i and μ_i of the f_i over X_i, numbers or `[n]`; found from Hessians at a few points when
            left out.
        signal: `signal(total, k)`: the total of round k. data_signal: `data_signal(data_i, k)`: the data of round k, in the shapes
            of data_i. `at(k)` is the problem of round k, and the problem itself is that of round 0. Constants that are left out are
            found at round 0; shares are parts of `total` as it is given.
        constants: `constants(problem) -> Pricing`, where the constants of the dual are known in closed form.
        names: the agents' names. row_names: the rows'.

    Raises:
        ValueError: data with NaN, shapes that do not fit, a sense, row or share that cannot be.
        TypeError: x0 not floating, functions that are none.
    """

    pieces: CoupledPiece
    x0: PyTree
    weights: np.ndarray
    coupling: Coupling
    feasible: Regularizer | Polyhedron | None
    solver: Solver
    round: Array
    curvature: tuple[np.ndarray | None, np.ndarray | None]
    function: Callable = eqx.field(static=True)
    quantities: Callable = eqx.field(static=True)
    of_data: Callable | None = eqx.field(static=True)
    data_signal: Callable | None = eqx.field(static=True)
    constants: Callable | None = eqx.field(static=True)
    names: tuple[str, ...] | None = eqx.field(static=True)
    row_names: tuple[str, ...] = eqx.field(static=True)
    memo: Memo = eqx.field(static=True, repr=False)

    def __init__(
        self,
        cost: Any,
        data: PyTree,
        *,
        coupling: Any,
        total: Any,
        x0: PyTree,
        sense: Any = "=",
        local: Any = None,
        rows: Any = None,
        best_response: Callable | None = None,
        solver: Solver | None = None,
        share: Any = None,
        smoothness: Any = None,
        strong_convexity: Any = None,
        signal: Callable | None = None,
        data_signal: Callable | None = None,
        constants: Callable | None = None,
        names: Sequence[str] | None = None,
        row_names: Sequence[str] | None = None,
    ):
        for name, function in (("cost", cost), ("coupling", coupling)):
            if not callable(function):
                raise TypeError(f"{name}: got {type(function).__name__}, expected a function {name}(x, data_i)")
        self.x0 = checks.start(x0)
        stacked, n = stack_agents(data, names)
        self.names = checks.agent_names(names, n)
        checks.finite(stacked, self.names, per_agent=False)
        self.weights, self.round = np.ones(n), jnp.zeros((), jnp.int32)
        m = np.size(total)
        touched = _checked_rows(rows, n, m)
        touching = n if touched is None else np.bincount(np.asarray(touched)[np.asarray(touched) >= 0], minlength=m)
        self.coupling = Coupling.of(total, sense, touching, self.dtype, signal)
        self.row_names = tuple(row_names or (f"row {j}" for j in range(m)))
        if len(self.row_names) != m:
            raise ValueError(f"row_names: got {len(self.row_names)}, expected {m}, one per row of the coupling")
        self.function, self.quantities, self.data_signal = cost, coupling, data_signal
        self.constants, self.memo = constants, Memo()
        self.of_data = local if callable(local) and not isinstance(local, eqx.Module) else None
        self.feasible = None if self.of_data else (Zero() if local is None else local)
        self.curvature = checks.vector(smoothness, n, "smoothness"), checks.vector(strong_convexity, n, "strong_convexity")
        device = checks.to_device(stacked, self.dtype)
        self.pieces = CoupledPiece(device, _shares(share, self.coupling, touched, n, self.dtype), touched)
        if n > 1:
            self.check_whole(shares=share is not None)  # equal ones add up, but for rounding
        first = jax.tree.map(lambda leaf: leaf[0], device)
        if data_signal is not None:
            checks.signal(data_signal, first, "data_signal(data_i, k)", "one agent's data")
            first = data_signal(first, self.round)
        checks.loss_function(cost, self.x0, first, "cost(x, data_i)")
        self._check_coupling(first, m if touched is None else touched.shape[1])
        self.solver = self._solver(best_response, solver, first)

    def check_whole(self, shares: bool = True) -> None:
        """As `Coupling.check_parts`; one agent, which may be a site among others, is asked when it is solved."""
        self.coupling.check_parts(self.pieces.share if shares else None, self.pieces.rows)

    def _check_coupling(self, data, r: int) -> None:
        got = jax.eval_shape(self.quantities, self.x0, data)
        if not hasattr(got, "shape") or got.shape != (r,):
            found = getattr(got, "shape", type(got).__name__)
            raise ValueError(
                f"coupling(x, data_i): got {found}, expected an array of shape ({r},): one entry per row "
                f"{'that an agent touches' if self.pieces.rows is not None else 'of total'}"
            )

    def _solver(self, best_response, solver, data) -> Solver:
        feasible = self.of_data(data) if self.of_data else self.feasible
        if not isinstance(feasible, Regularizer | Polyhedron):
            raise TypeError(
                f"local: got {type(feasible).__name__}, expected a regulariser such as tw.box(0, 1), a tw.Polyhedron, or a "
                "function of data_i that makes one"
            )
        chosen = solver or (InteriorPoint() if isinstance(feasible, Polyhedron) else Descent(strong_convexity=self._weakest()))
        chosen.check(feasible)
        if best_response is None:
            return chosen
        return ClosedForm(OfPrice(best_response), augmented=False, otherwise=chosen)

    def _weakest(self) -> float:
        """min μ_i as far as the user gave it."""
        return 0.0 if self.curvature[1] is None else float(self.curvature[1].min())

    @property
    def m(self) -> int:
        """Number of rows of the coupling."""
        return self.coupling.m

    @property
    def drifts(self) -> bool:
        return self.data_signal is not None or self.coupling.signal is not None

    def at(self, k):
        if not self.drifts:
            return self
        now = lambda p: (p.round, p.coupling)
        return eqx.tree_at(now, self, (jnp.asarray(k, jnp.int32), self.coupling.at(k)))

    def with_data(self, data: PyTree, total: Any = None) -> "Coupled":
        """The same problem with other data and another total, of the same shapes: nothing is compiled anew.

        The constants of the dual are kept as they were found, so only what leaves curvatures and ∂g alone may change: linear
        terms, bounds, offsets of quantities.

        Raises:
            ValueError: another structure, shape or dtype; a total that is not `[m]`; NaN or infinity among the data.
        """
        described = lambda tree: jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), tree)
        if (got := described(data)) != (expected := described(self.pieces.data)):
            raise ValueError(f"with_data: got {got}, expected {expected}; make a new problem for other shapes")
        coupling, share = self.coupling, self.pieces.share
        if total is not None:
            b = jnp.asarray(total, self.dtype)
            if b.shape != (self.m,):
                raise ValueError(f"with_data: got a total of shape {b.shape}, expected ({self.m},), one entry per row")
            moved = (b - coupling.total) / coupling.touching
            coupling = dataclasses.replace(coupling, total=b, initial=b if coupling.signal is None else coupling.initial)
            share = share + (moved[None] if self.pieces.rows is None else gathered(moved, self.pieces.rows))
        checks.finite(jax.tree.map(np.asarray, data), self.names, per_agent=False)
        changed = lambda p: (p.pieces.data, p.pieces.share, p.coupling)
        problem = eqx.tree_at(changed, self, (jax.tree.map(jnp.asarray, data), share, coupling))
        object.__setattr__(problem, "memo", Memo())  # a static field, of a problem that nobody has seen yet
        problem.memo.remember(jax.tree.leaves(eqx.filter(problem, eqx.is_array)), self.pricing)
        return problem

    def local(self, piece: CoupledPiece) -> CoupledLocal:
        """The oracle of the agent that holds `piece` (one entry of `pieces`, without the leading axis)."""
        data = piece.data if self.data_signal is None else self.data_signal(piece.data, self.round)
        feasible = self.of_data(data) if self.of_data else self.feasible
        known = self.coupling, self.x0, feasible, self.solver
        return CoupledLocal(data, piece.share, piece.rows, *known, self.function, self.quantities)

    def objective(self, plans: PyTree) -> Scalar:
        """Σ_i f_i(x_i) of plans with a leading axis n, with the costs of local terms. It says little without `violation(plans)`."""
        return jnp.sum(_each(self, _cost, plans))

    def quantity(self, plans: PyTree) -> Float[Array, " m"]:
        """Σ_i g_i(x_i)."""
        return self.added(_each(self, _quantity, plans))

    def violation(self, plans: PyTree) -> Scalar:
        """max over rows of the distance to the right side of b, relative to max(1, |b|)."""
        return self.coupling.violation(self.quantity(plans))

    def dual(self, price: Any) -> tuple[Scalar, PyTree]:
        """(a valid lower bound of the optimal cost, best responses), from a full sweep of best responses at one price.

        Σ_i min_x∈X_i f_i(x) + ⟨λ, g_i(x)⟩ − ⟨λ, b⟩, each minimum bounded from below where it is not exact.
        """
        price = self.coupling.project(jnp.asarray(price, self.dtype))
        bounds, plans = _sweep(self, price)
        return jnp.sum(bounds) - jnp.sum(price * self.coupling.total), plans

    def added(self, entries: Float[Array, "n r"]) -> Float[Array, " m"]:
        """Σ over agents of their entries, row by row."""
        return jnp.sum(entries, axis=0) if self.pieces.rows is None else scattered(entries, self.pieces.rows, self.m)

    @property
    def pricing(self) -> Pricing:
        """Constants of the dual problem; computed once."""
        leaves = jax.tree.leaves(eqx.filter(self, eqx.is_array))
        if (found := self.memo.recall(leaves)) is None:
            found = (self.constants or pricing)(self)
            self.memo.remember(leaves, found)
        return found

    def __repr__(self) -> str:
        return f"Coupled({self.n} agents, {self.size} variables each, {self.m} rows, {self.dtype})"


@dataclasses.dataclass(frozen=True)
class OfPrice:
    """`best_response(price, data)` as an answer to a question; equal for equal functions, so that it compiles once."""

    best_response: Callable

    def __call__(self, question: Question, data: PyTree) -> PyTree:
        return self.best_response(question.price, data)


def _cost(local: CoupledLocal, x: PyTree) -> Scalar:
    return local.cost(x)


def _quantity(local: CoupledLocal, x: PyTree) -> Float[Array, " r"]:
    return local.quantity(x)


@eqx.filter_jit
def _each(problem: Coupled, function, plans):
    return jax.vmap(lambda piece, x: function(problem.local(piece), x))(problem.pieces, plans)


@eqx.filter_jit
def _sweep(problem: Coupled, price):
    def one(piece):
        return problem.local(piece).bound(heard(price, piece.rows), problem.x0)

    return jax.vmap(one)(problem.pieces)


def _checked_rows(rows: Any, n: int, m: int):
    """`[n, r]` on the device, or None."""
    if rows is None:
        return None
    array = np.asarray(rows)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or len(array) != n or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"rows: got shape {array.shape} and dtype {array.dtype}, expected integers [{n}, r], −1 for none")
    if array.min() < -1 or array.max() >= m:
        raise ValueError(f"rows: got {array.min()} … {array.max()}, expected −1 (none) or 0 … {m - 1}, rows of total")
    ordered = np.sort(array, axis=1)
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
        raise ValueError("rows: an agent names a row twice; add its entries up in coupling(x, data_i)")
    return jnp.asarray(array, jnp.int32)


def _shares(share: Any, coupling: Coupling, rows, n: int, dtype):
    """`[n, r]`."""
    b = np.asarray(coupling.initial, float)
    if share is None:
        each = coupling.initial / coupling.touching
        return jnp.broadcast_to(each, (n, len(b))) if rows is None else gathered(each, rows)
    array = np.asarray(share, float)
    expected = (n, len(b) if rows is None else rows.shape[1])
    if array.shape != expected:
        raise ValueError(f"share: got shape {array.shape}, expected {expected}, each agent's part of the total")
    return jnp.asarray(array, dtype)
