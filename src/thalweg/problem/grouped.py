"""Agents of different shapes under one coupling: batteries beside generators beside houses.

The variable of all is as long as the longest; an agent uses the head of it, and the rest stays 0.

Axes: `n` agents of all groups together, `d` variables of the longest.
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from thalweg.problem.coupled import Coupled
from thalweg.problem.pricing import reach
from thalweg.problem.regularizer import Regularizer
from thalweg.problem.respond import Question, Solver


class Member(eqx.Module):
    """What an agent is told besides its own data: its group, and blanks for the data of the other groups."""

    group: Any
    pieces: tuple


class Kinds(eqx.Module):
    """The groups without their data; x of a group is the head of a row `[d]`."""

    problems: tuple
    size: int = eqx.field(static=True)

    def choose(self, member: Member, function, *args) -> Any:
        """`function(the agent's own oracle, of its own group g, *args)`."""
        branches = [lambda pieces, *args, g=g, p=p: function(p.local(pieces[g]), g, *args) for g, p in enumerate(self.problems)]
        return jax.lax.switch(member.group, branches, member.pieces, *args)

    def head(self, g: int, row: Any) -> PyTree:
        """The variable of group g in a row."""
        start, unravel = ravel_pytree(self.problems[g].x0)
        return unravel(row[: start.shape[0]])

    def row(self, x: PyTree) -> Any:
        """A group's variable as a row, filled with zeros."""
        flat = ravel_pytree(x)[0]
        return jnp.pad(flat, (0, self.size - flat.shape[0]))


class GroupedSet(Regularizer):
    """X_i of the agent's own group, and 0 beyond its variables."""

    kinds: Kinds
    member: Member
    smooth: bool = eqx.field(static=True, default=False)
    indicator: bool = eqx.field(static=True, default=True)

    def value(self, x):
        return self.kinds.choose(self.member, lambda local, g, row: local.feasible.value(self.kinds.head(g, row)), x)

    def reach(self, quantity, A, start):
        """As `tw.problem.pricing.reach`, of the agent's own group."""

        def one(local, g, quantity, A, row):
            head = ravel_pytree(self.kinds.head(g, row))[0]
            return reach(local, quantity, A[:, : head.shape[0]], head)

        return self.kinds.choose(self.member, one, quantity, A, start)

    def _prox(self, v, step):
        def one(local, g, row, step):
            return self.kinds.row(local.feasible.prox(self.kinds.head(g, row), step))

        return self.kinds.choose(self.member, one, v, step)


class GroupedSolver(Solver):
    """Every group's own solver."""

    kinds: Kinds

    def check(self, feasible):
        pass

    def respond(self, local, question, start, tolerance=None):
        def one(own, g, question, row):
            x, iterations = own.solver.respond(own, self._of(own, question, g), self.kinds.head(g, row), tolerance)
            return self.kinds.row(x), iterations.astype(jnp.int32)

        return self.kinds.choose(local.data, one, question, start)

    def bound(self, local, question, start):
        def one(own, g, question, row):
            low, x = own.solver.bound(own, self._of(own, question, g), self.kinds.head(g, row))
            return low.astype(row.dtype), self.kinds.row(x)

        return self.kinds.choose(local.data, one, question, start)

    def _of(self, own: Any, question: Question, g: int) -> Question:
        """The question in terms of group g: its rows, which may be fewer, and its variables."""
        rows = lambda leaf: leaf if leaf is None or jnp.ndim(leaf) == 0 else leaf[: own.share.shape[0]]
        anchor = None if question.anchor is None else self.kinds.head(g, question.anchor)
        return Question(rows(question.price), rows(question.penalty), rows(question.target), question.pull, anchor)


def grouped(problems: Sequence[Coupled]) -> Coupled:
    """One coupled problem of several groups of agents, whose variables, data, costs and sets may differ in kind and shape.

    Arguments:
        problems: one `Coupled` per group, all with the same rows and senses; the total of all is the sum of their totals.

    Under `vmap` an agent computes what every group would, and keeps its own: time and memory grow with the number of groups,
    so make few. `ungroup(problem, plans)` gives the plans group by group.

    Raises:
        ValueError: rows, senses or dtypes that differ; drifting groups.
    """
    first = problems[0]
    for other in problems:
        same = other.m == first.m and other.row_names == first.row_names and other.dtype == first.dtype
        senses = lambda p: (np.asarray(p.coupling.low).tolist(), np.asarray(p.coupling.high).tolist())
        if not (same and senses(other) == senses(first)):
            raise ValueError("grouped: the groups have different rows, senses or dtypes; state the same coupling for all")
        if other.drifts:
            raise ValueError("grouped: got a group that drifts; expected problems that stand still")
        if (other.pieces.rows is None) != (first.pieces.rows is None):
            raise ValueError("grouped: some groups have `rows` and some have not; give them to all, or to none")
    skeletons = tuple(eqx.tree_at(lambda p: p.pieces, p, None) for p in problems)
    kinds = Kinds(skeletons, max(p.size for p in problems))
    counts = [p.n for p in problems]
    data = Member(
        np.repeat(np.arange(len(problems), dtype=np.int32), counts),
        tuple(_among(p.pieces, g, counts) for g, p in enumerate(problems)),
    )
    widest = max(p.pieces.share.shape[1] for p in problems)
    rows = None
    if first.pieces.rows is not None:
        wide = lambda p: np.pad(np.asarray(p.pieces.rows), ((0, 0), (0, widest - p.pieces.rows.shape[1])), constant_values=-1)
        rows = np.concatenate([wide(p) for p in problems])
    named = [p.names or tuple(f"group {g}, agent {i}" for i in range(p.n)) for g, p in enumerate(problems)]
    constants = [(p.pricing.smoothness, p.pricing.strong_convexity) for p in problems]
    smooth, strong = (np.concatenate([c[j] for c in constants]) for j in (0, 1))

    def cost(x, member):
        return kinds.choose(member, lambda local, g, row: local.cost(kinds.head(g, row)).astype(first.dtype), x)

    def coupling(x, member):
        def one(local, g, row):
            quantity = local.quantity(kinds.head(g, row))
            return jnp.pad(quantity, (0, widest - quantity.shape[0]))

        return kinds.choose(member, one, x)

    return Coupled(
        cost, data, coupling=coupling, total=sum(np.asarray(p.coupling.total) for p in problems), sense=_senses(first),
        x0=np.zeros(kinds.size, first.dtype), local=lambda member: GroupedSet(kinds, member), rows=rows,
        solver=GroupedSolver(kinds), smoothness=smooth, strong_convexity=strong, row_names=first.row_names,
        names=[name for group in named for name in group],
    )  # fmt: skip


def ungroup(problem: Coupled, plans: Any) -> tuple[PyTree, ...]:
    """The plans of a `grouped` problem, one pytree with a leading axis per group."""
    if not isinstance(problem.solver, GroupedSolver):
        raise TypeError(f"ungroup: got {problem!r}, expected a problem made by tw.grouped")
    kinds, groups = problem.solver.kinds, np.asarray(problem.pieces.data.group)
    rows = jnp.asarray(plans)
    return tuple(jax.vmap(lambda row, g=g: kinds.head(g, row))(rows[groups == g]) for g in range(len(kinds.problems)))


def _among(pieces: PyTree, g: int, counts: list[int]) -> PyTree:
    """The pieces of group g in rows of all agents; those of others are copies of its first, which nobody looks at."""
    before, after = sum(counts[:g]), sum(counts[g + 1 :])
    fill = lambda leaf: np.concatenate([leaf[:1].repeat(before, 0), leaf, leaf[:1].repeat(after, 0)])
    return jax.tree.map(lambda leaf: fill(np.asarray(leaf)), pieces)


def _senses(problem: Coupled) -> list[str]:
    low, high = np.asarray(problem.coupling.low), np.asarray(problem.coupling.high)
    return ["=" if a < 0 and b > 0 else "<=" if b > 0 else ">=" for a, b in zip(low, high, strict=True)]
