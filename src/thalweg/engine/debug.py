"""The debug engine: role by role, agent by agent, with the inputs at hand."""

import contextlib
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg._trees import square
from thalweg.algorithm.base import Info
from thalweg.algorithm.server.base import ClientInfo
from thalweg.message.payload import pack
from thalweg.problem.coupling import Coupling

from . import loop
from .executor import Vectorised, weighted
from .fence import isolate
from .hosts import Hosts

# What is done for the history alone: no role of the algorithm, and the driver looks at its results.
MEASURING = ("estimate", "measure", "squares")


class RoleFailure(ArithmeticError):
    """A role returned a value that is not finite from inputs that were.

    Attributes:
        agent: position of the agent; role: what it was doing; inputs: what it was given; round: when (None before round 0).
    """

    round: int | None = None

    def __init__(self, agent: int, role: str, inputs: Any, output: Any):
        self.agent, self.role, self.inputs, self.output = agent, role, inputs, output
        super().__init__(f"agent {agent}, {role}: not finite from finite inputs\n{_show(inputs)}\n  → {_show(output)}")


class OneByOne:
    """Every role compiled once, by itself, and called agent after agent.

    Attributes:
        check: raise `RoleFailure` where finite inputs give a result that is not finite, and pack what is sent.
        isolated: whether a role's bits may not depend on how it is compiled (see `fence`).
        wire: `[n]` bytes of payload that were really packed for one link, per exchange of messages.
    """

    axis = None

    def __init__(self, check: bool, isolated: bool = True):
        self.check, self.isolated, self.wire, self._compiled, self._known = check, isolated, [], {}, {}
        self._members = None

    def role(self, name: str, function: Callable, *args: Any, axes: tuple) -> Any:
        pairs = list(zip(args, axes, strict=True))
        n = next(leaf.shape[0] for arg, axis in pairs if axis == 0 for leaf in jax.tree.leaves(arg))
        compiled = self._compile(name, function)
        results = []
        for i in range(n):
            mine = [arg if axis is None else jax.tree.map(lambda leaf, i=i: leaf[i], arg) for arg, axis in pairs]
            out = compiled(jnp.asarray(0, jnp.uint32), *mine)
            if self.check and name not in MEASURING and _finite(mine) and not _finite(out):
                raise RoleFailure(i if self._members is None else int(self._members[i]), name, mine[1:], out)
            results.append(out)
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)

    @property
    def shapes(self) -> Vectorised:
        """An executor that may be traced, to find shapes; nothing is checked in it."""
        return Vectorised(jnp.asarray(0, jnp.uint32), False)

    @contextlib.contextmanager
    def acting(self, members: Any):
        self._members = members
        try:
            yield
        finally:
            self._members = None

    def once(self, name: str, compute: Callable) -> Any:
        if name not in self._known:
            self._known[name] = compute()
        return self._known[name]

    def network_role(self, name: str, function: Callable, *args: Any) -> Any:
        return self._compile(name, function)(jnp.asarray(0, jnp.uint32), *args)

    def post(self, common: Any, each: Any) -> None:
        if not self.check:
            return
        first = jax.tree.map(lambda leaf: leaf[:, 0], each)  # encodings have one size: any slot stands for all
        n = jax.tree.leaves((common, each))[0].shape[0]
        self.wire.append([len(pack(jax.tree.map(lambda leaf, i=i: leaf[i], (common, first)))) for i in range(n)])

    @contextlib.contextmanager
    def in_round(self, k: int):
        """Within, a failure knows its round."""
        try:
            yield
        except RoleFailure as failure:
            failure.round = k
            failure.add_note(f"in round {k}")
            raise

    def settle(self, messages: Any) -> Any:
        return messages

    def everyone(self, tree: Any) -> Any:
        return tree

    def share(self, tree: Any) -> Any:
        return tree

    def take(self, tree: Any, members) -> Any:
        return jax.tree.map(lambda leaf: leaf[members], tree)

    def pieces(self, problem: Any, members) -> Any:
        return self.take(problem.pieces, members)

    def put(self, tree: Any, members, rows: Any, keep, whole: bool = False) -> Any:
        kept = np.flatnonzero(keep)
        return jax.tree.map(lambda leaf, new: leaf.at[members[kept]].set(new[kept]), tree, rows)

    def weighted(self, name: str, weights, tree: Any) -> Any:
        return self.network_role(name, weighted, weights, tree)

    def squares(self, tree: Any):
        return self.role("squares", square, tree, axes=(0,))

    def total(self, name: str, leaf):
        return self.network_role(name, lambda all_: jnp.sum(all_, axis=0), leaf)

    def count(self, leaf) -> int:
        return leaf.shape[0]

    def _compile(self, name, function):
        if name not in self._compiled:
            run = lambda zero, *args: isolate(function, zero)(*args) if self.isolated else function(*args)
            self._compiled[name] = jax.jit(run)
        return self._compiled[name]


class Debug(eqx.Module):
    """Role by role with the inputs at hand: for people. Slow, and bitwise equal to a deterministic run.

    Attributes:
        check: stop with a `RoleFailure` at the first role that makes something not finite out of finite inputs,
            naming round, agent and role, and showing the inputs.
    """

    check: bool = True
    deterministic: bool = True
    name = "debug"

    def open(self) -> "ByHand":
        """A session: roles are compiled once in it."""
        return ByHand(self.name, OneByOne(self.check), self.deterministic)


class ByHand:
    """One run, round by round from Python. `executor.wire` has the bytes that were really packed."""

    hosts = Hosts()

    def __init__(self, name: str, executor: Any, deterministic: bool):
        self.name, self.executor, self.deterministic = name, executor, deterministic

    def begin(self, e, rules, earlier=None):
        """(local, shared) before round 0."""
        return e.begin(self.executor, rules, earlier)

    def estimates(self, e, local, shared):
        """`[n, d]` every agent's answer."""
        return e.estimates(self.executor, local, shared)

    def bytes(self, e, local, shared):
        """Payload of one client's messages in one round."""
        return e.bytes(self.executor, local, shared)

    def committed(self, local, k: int) -> None:
        """Round `k` is safe in a checkpoint."""
        store = getattr(getattr(local, "records", None), "store", None)
        if store is not None:  # records on disk keep a journal of what might be undone
            store.commit(k)

    def whole(self, local):
        """`local` where the host can read it."""
        return local

    def shared_answer(self, e, shared):
        """`[d]` the answer of a run with a server."""
        return e.shared_answer(self.executor, shared)

    def advance(self, e, rules, local, shared, until):
        """(local, shared, records) after going on to round `until` at most."""
        return loop.advance_by_hand(self.executor, e, rules, local, shared, until)


def _finite(tree: Any) -> bool:
    # What an `Info` does not know is NaN, and what a `Coupling` leaves free is infinite, on purpose; they are leaves here, and
    # have no dtype.
    leaves = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, Info | ClientInfo | Coupling))
    leaves += [number for node in leaves if isinstance(node, ClientInfo) for number in (node.loss, node.drift)]
    leaves = [leaf for leaf in leaves if jnp.issubdtype(getattr(leaf, "dtype", int), jnp.inexact)]
    return all(bool(np.isfinite(leaf).all()) for leaf in leaves)


def _show(tree: Any) -> str:
    lines = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            lines.append(f"  {jax.tree_util.keystr(path)} = {np.array2string(np.asarray(leaf), threshold=12, precision=6)}")
    return "\n".join(lines)
