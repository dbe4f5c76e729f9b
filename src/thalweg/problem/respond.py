"""How one agent finds its best response to a price:

    argmin over x ∈ X   f(x) + ⟨price, g(x)⟩ + ½ Σ_j penalty_j (g(x) − target)_j² + ½·pull·‖x − anchor‖²

Everything is pure, and is vectorised over agents by the engine.
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from thalweg._extras import require
from thalweg._trees import dot, minus, norm, square
from thalweg.problem.cones import Ball
from thalweg.problem.polyhedron import Polyhedron
from thalweg.problem.regularizer import Box, Regularizer, Simplex, Zero


class Question(eqx.Module):
    """What is asked: `price [r]`, and the terms that augment it, None where they are not there."""

    price: Float[Array, " r"]
    penalty: Any = None
    target: Float[Array, " r"] | None = None
    pull: Any = None
    anchor: PyTree | None = None

    @property
    def augmented(self) -> bool:
        """Whether there is more than a price."""
        return self.penalty is not None or self.pull is not None

    def smooth(self, local: Any) -> Callable:
        """x ↦ the smooth part of what is minimised."""

        def value(x):
            total = local.lagrangian(x, self.price)
            if self.penalty is not None:
                total = total + 0.5 * jnp.sum(self.penalty * (local.quantity(x) - self.target) ** 2)
            if self.pull is not None:
                total = total + 0.5 * self.pull * square(minus(x, self.anchor))
            return total

        return value


class Solver(eqx.Module):
    """A way to answer."""

    @abc.abstractmethod
    def check(self, feasible: Regularizer | Polyhedron) -> None:
        """Refuse a feasible set that this solver cannot handle."""

    @abc.abstractmethod
    def respond(self, local: Any, question: Question, start: PyTree, tolerance: Any = None) -> tuple[PyTree, Array]:
        """(x, iterations)."""

    @abc.abstractmethod
    def bound(self, local: Any, question: Question, start: PyTree) -> tuple[Array, PyTree]:
        """(a lower bound of the minimum, x); −∞ where none can be proved."""


class ClosedForm(Solver):
    """`function(question, data) -> x`, exact. Questions that it does not cover go to the solver `otherwise`.

    `augmented`: whether it covers penalty and pull.
    """

    function: Callable = eqx.field(static=True)
    augmented: bool = eqx.field(static=True)
    otherwise: "Solver | None" = None

    def check(self, feasible):
        if self.otherwise is not None:
            self.otherwise.check(feasible)

    def respond(self, local, question, start, tolerance=None):
        if question.augmented and not self.augmented:
            return self.otherwise.respond(local, question, start, tolerance)
        return self.function(question, local.data), jnp.asarray(1, jnp.int32)

    def bound(self, local, question, start):
        x, _ = self.respond(local, question, start)
        return local.cost(x) + jnp.sum(question.price * local.quantity(x)), x


class Descent(Solver):
    """Accelerated proximal gradient with backtracking and restarts (Beck and Teboulle 2009; O'Donoghue and Candès 2015).

    For smooth costs over sets with a projection. Ends when the prox-gradient residual is at most tolerance·(1 + ‖∇‖) of the
    first gradient.

    The bound: at x the step has s ∈ ∂(h + r)(x), so h + r ≥ (h + r)(x) + min over X of ⟨s, · − x⟩. That is finite where X is a
    bounded box or a simplex, and −‖s‖²/(2μ) with strong convexity μ, given as `strong_convexity`.
    """

    tolerance: float | None = None
    most: int = eqx.field(static=True, default=2000)
    # An array, so that another number compiles nothing.
    strong_convexity: Any = eqx.field(converter=lambda mu: jnp.asarray(mu, float), default=0.0)

    def check(self, feasible):
        if isinstance(feasible, Polyhedron):
            raise ValueError("Descent: a Polyhedron has no projection in closed form; use solver=tw.InteriorPoint()")

    def respond(self, local, question, start, tolerance=None):
        x, _, iterations = self._descend(local, question, start, tolerance)
        return x, iterations

    def bound(self, local, question, start):
        x, s, _ = self._descend(local, question, start, None)
        value = local.cost(x) + jnp.sum(question.price * local.quantity(x))
        r = local.feasible
        if isinstance(r, Simplex):
            # Over the simplex a linear function is least at a corner.
            least = lambda v, g: jnp.sum(r.total * jnp.min(g, axis=-1) - jnp.sum(g * v, axis=-1))
            slack = sum(map(least, *map(jax.tree.leaves, (x, jax.grad(question.smooth(local))(x)))))
        elif isinstance(r, Box):
            least = lambda v, g, low, high: jnp.sum(jnp.where(g == 0, 0, jnp.minimum(g * (low - v), g * (high - v))))
            low, high = r.bounds(x)
            # Within the box s may be replaced by the gradient itself, whose linear minimum is attained at a corner.
            gradient = jax.grad(question.smooth(local))(x)
            slack = sum(map(least, *map(jax.tree.leaves, (x, gradient, low, high))))
        elif isinstance(r, Ball):
            gradient, (off, _) = jax.grad(question.smooth(local))(x), r.off(x)
            slack = -dot(gradient, off) - r.radius * norm(gradient)
        else:
            slack = jnp.where(square(s) == 0, 0.0, -jnp.inf)
        mu = jnp.asarray(self.strong_convexity, value.dtype)
        slack = jnp.maximum(slack, jnp.where(mu > 0, -square(s) / (2 * jnp.where(mu > 0, mu, 1)), -jnp.inf))
        return value + slack.astype(value.dtype), x

    def _descend(self, local, question, start, tolerance):
        """(x, a subgradient of the whole at x, iterations)."""
        smooth, r = question.smooth(local), local.feasible
        value_and_grad = jax.value_and_grad(smooth)
        start = r.prox(start, 1.0) if r.indicator else start
        dtype = jnp.result_type(*jax.tree.leaves(start))
        given = tolerance if tolerance is not None else self.tolerance
        tolerance = jnp.finfo(dtype).eps ** 0.75 if given is None else given
        _, first = value_and_grad(start)
        limit = tolerance * (1 + norm(first)).astype(dtype)
        # The curvature along the gradient: where the search for a step begins.
        probe = jax.tree.map(lambda g: g / (1 + norm(first)).astype(g.dtype), first)
        curved = jax.jvp(jax.grad(smooth), (start,), (probe,))[1]
        begin = jnp.maximum(norm(curved) / jnp.maximum(norm(probe), 1e-12), 1e-6).astype(dtype)

        def step(y, L):
            value, gradient = value_and_grad(y)

            def attempt(L):
                x = r.prox(jax.tree.map(lambda v, g: v - g / L.astype(v.dtype), y, gradient), 1 / L)
                d = minus(x, y)
                there, slope = value_and_grad(x)
                model = value + dot(gradient, d) + 0.5 * L * square(d)
                # Where values differ by rounding only, slopes still tell: of a quadratic, ½⟨∇(x) − ∇(y), d⟩ is the same.
                close = jnp.abs(there - value) <= jnp.sqrt(jnp.finfo(dtype).eps) * jnp.abs(value)
                enough = jnp.where(close, dot(minus(slope, gradient), d) <= L * square(d), there <= model)
                return x, slope, enough

            def steeper(carry):
                L, *_ = carry
                return 2 * L, *attempt(2 * L)

            L, x, slope, _ = jax.lax.while_loop(lambda c: ~c[3] & (c[0] < 1e18), steeper, (L, *attempt(L)))
            return x, gradient, slope, L

        def going(carry):
            return (carry["residual"] > limit) & (carry["k"] < self.most)

        def body(c):
            x, gradient, slope, L = step(c["y"], c["L"])
            away = minus(c["y"], x)
            s = jax.tree.map(lambda d, g, h: L.astype(d.dtype) * d - g + h, away, gradient, slope)
            again = dot(away, minus(x, c["x"])) > 0
            t = jnp.where(again, 1.0, c["t"])
            following = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
            ahead = jnp.where(again, 0, (t - 1) / following)
            y = jax.tree.map(lambda new, old: new + ahead.astype(new.dtype) * (new - old), x, c["x"])
            return {"x": x, "y": y, "L": 0.9 * L, "t": following, "s": s, "residual": norm(s), "k": c["k"] + 1}

        t = jnp.ones((), dtype)
        far = jnp.asarray(jnp.inf, dtype)
        state = {"x": start, "y": start, "L": begin, "t": t, "s": first, "residual": far, "k": jnp.asarray(0, jnp.int32)}
        end = jax.lax.while_loop(going, body, state)
        return end["x"], end["s"], end["k"]


class InteriorPoint(Solver):
    """Quadratic costs over a polyhedron, by the primal-dual interior-point solver qpax (extra "qp").

    An interior point cannot start from an earlier answer, so `start` is not used; it takes 10 to 20 iterations. The cost must
    be quadratic and the coupling affine: only their first and second derivatives at `x0` are read. The bound is that of the
    solver's multipliers (y, z ≥ 0): h(x) + ⟨z, Gx − h⟩ + ⟨y, Ax − b⟩ minimised over all x where the cost is strongly convex.
    """

    tolerance: float | None = None
    most: int = eqx.field(static=True, default=60)

    def check(self, feasible):
        if not isinstance(feasible, Polyhedron | Box | Zero):
            raise ValueError(
                f"InteriorPoint: got {type(feasible).__name__}, expected a tw.Polyhedron or tw.box; use tw.Descent()"
            )
        require("qpax", "qp")

    def respond(self, local, question, start, tolerance=None):
        x, _, iterations = self._solve(local, question, tolerance)
        return x, iterations

    def bound(self, local, question, start):
        x, low, _ = self._solve(local, question, None)
        return low, x

    def _solve(self, local, question, tolerance):
        zero, unravel = ravel_pytree(jax.tree.map(jnp.zeros_like, local.x0))
        smooth = lambda row: question.smooth(local)(unravel(row))
        Q, q, c = jax.hessian(smooth)(zero), jax.grad(smooth)(zero), smooth(zero)
        given = tolerance if tolerance is not None else self.tolerance
        # qpax keeps slacks and multipliers above √eps: complementarity is never met to less than that times the multipliers.
        reached = 1.3 * jnp.finfo(zero.dtype).eps ** 0.5 * (1 + jnp.max(jnp.abs(q)))
        tolerance = reached if given is None else given
        # jaxlib's batched factorisations on CPU, two at once, wait for each other's threads: agents take turns there.
        solve = jax.custom_batching.sequential_vmap(self._program) if jax.default_backend() == "cpu" else self._program
        row, low, iterations = solve(Q, q, c, *self._rows(local, zero), jnp.asarray(tolerance, zero.dtype))
        return unravel(row), low, iterations

    def _program(self, Q, q, c, G, h, A, b, tolerance):
        """(x, a lower bound of the minimum, iterations) of ½ xᵀQx + qᵀx + c over G x ≤ h, A x = b."""
        qpax = require("qpax", "qp")
        with jax.numpy_rank_promotion("allow"):  # for users, and tests, that are strict
            row, _, z, y, _, iterations = qpax.solve_qp(Q, q, A, b, G, h, solver_tol=tolerance, max_iter=self.most)
        # The dual function at z ≥ 0 and y, where Q is positive definite: at the unconstrained minimiser.
        slope = q + G.T @ z + A.T @ y
        free = -jnp.linalg.solve(Q, slope)
        low = c + 0.5 * (slope @ free) - h @ z - b @ y
        sure = jnp.all(jnp.isfinite(free)) & jnp.all(z >= 0) & (jnp.linalg.eigvalsh(Q)[0] > 0)
        return row, jnp.where(sure, low, -jnp.inf), jnp.asarray(iterations, jnp.int32)

    def _rows(self, local, zero):
        feasible, d, dtype = local.feasible, zero.shape[0], zero.dtype
        none = jnp.zeros((0, d), dtype), jnp.zeros(0, dtype)
        if isinstance(feasible, Polyhedron):
            rows = feasible.G.astype(dtype), feasible.h.astype(dtype)
            return (*rows, *(none if feasible.A is None else (feasible.A.astype(dtype), feasible.b.astype(dtype))))
        if isinstance(feasible, Box):
            low, high = (ravel_pytree(bound)[0].astype(dtype) for bound in feasible.bounds(local.x0))
            G, h = jnp.concatenate([jnp.eye(d, dtype=dtype), -jnp.eye(d, dtype=dtype)]), jnp.concatenate([high, -low])
            # Bounds beyond all numbers stand for none: their rows become 0·x ≤ 1.
            there = h < 1e29
            return jnp.where(there[:, None], G, 0), jnp.where(there, h, 1), *none
        return (*none, *none)
