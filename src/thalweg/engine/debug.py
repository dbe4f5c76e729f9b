"""The debug engine: role by role, agent by agent, with the inputs at hand."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.algorithm.base import Info
from thalweg.message.payload import pack

from . import loop
from .executor import Vectorised
from .fence import isolate
from .metrics import estimates
from .peer_round import restart_agents

# What is done for the history alone: no role of the algorithm, and the driver looks at its results.
MEASURING = ("estimate", "measure")


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
        check: raise `RoleFailure` where finite inputs give a result that is not finite.
        wire: `[n]` bytes of payload that were really packed for one link, per exchange of messages.
    """

    axis = None

    def __init__(self, check: bool):
        self.check, self.wire, self._compiled = check, [], {}

    def role(self, name: str, function: Callable, *args: Any, axes: tuple) -> Any:
        pairs = list(zip(args, axes, strict=True))
        n = next(leaf.shape[0] for arg, axis in pairs if axis == 0 for leaf in jax.tree.leaves(arg))
        compiled = self._compile(name, function)
        results = []
        for i in range(n):
            mine = [arg if axis is None else jax.tree.map(lambda leaf, i=i: leaf[i], arg) for arg, axis in pairs]
            out = compiled(jnp.asarray(0, jnp.uint32), *mine)
            if self.check and name not in MEASURING and _finite(mine) and not _finite(out):
                raise RoleFailure(i, name, mine[1:], out)
            results.append(out)
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)

    def network_role(self, name: str, function: Callable, *args: Any) -> Any:
        return self._compile(name, function)(jnp.asarray(0, jnp.uint32), *args)

    def post(self, common: Any, each: Any) -> None:
        first = jax.tree.map(lambda leaf: leaf[:, 0], each)  # encodings have one size: any slot stands for all
        n = jax.tree.leaves((common, each))[0].shape[0]
        self.wire.append([len(pack(jax.tree.map(lambda leaf, i=i: leaf[i], (common, first)))) for i in range(n)])

    def settle(self, messages: Any) -> Any:
        return messages

    def everyone(self, tree: Any) -> Any:
        return tree

    def total(self, name: str, leaf):
        return self.network_role(name, lambda all_: jnp.sum(all_, axis=0), leaf)

    def count(self, leaf) -> int:
        return leaf.shape[0]

    def _compile(self, name, function):
        if name not in self._compiled:
            self._compiled[name] = jax.jit(lambda zero, *args: isolate(function, zero)(*args))
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

    def open(self) -> "Debugger":
        """A session: roles are compiled once in it."""
        return Debugger(OneByOne(self.check), self.deterministic)


class Debugger:
    """One run under the debug engine. `executor.wire` has the bytes that were really packed."""

    name = "debug"

    def __init__(self, executor: OneByOne, deterministic: bool):
        self.executor, self.deterministic = executor, deterministic

    def begin(self, e, rules):
        """(local, shared) before round 0."""
        return loop.begin(self.executor, e, rules)

    def enter(self, e, rules, agents, k):
        """(local, shared) around agents that restart at round k."""
        return loop.enter(self.executor, e, rules, restart_agents(self.executor, e, agents, k), k)

    def estimates(self, e, agents):
        """`[n, d]` every agent's answer."""
        return estimates(self.executor, e, agents)

    def advance(self, e, rules, local, shared, until):
        """(local, shared, records) after going on to round `until` at most."""
        executor, every = self.executor, int(rules.every)
        shapes = Vectorised(jnp.asarray(0, jnp.uint32), self.deterministic)  # only to find shapes; nothing is checked
        report = loop.no_report(shapes, e, rules, local)
        records = loop.no_records(shapes, e, rules, local, shared)
        k = int(shared.round)
        while k < until and not (bool(shared.done) or bool(shared.broken)) and int(records.count) < loop.CAPACITY:
            target = min(until, (k // every + 1) * every)
            while k < target and not loop.all_done(executor, local):
                try:
                    local, info = loop.one_round(executor, e, rules, local, jnp.asarray(k, jnp.int32))
                except RoleFailure as failure:
                    failure.round = k
                    failure.add_note(f"in round {k}")
                    raise
                report, k = loop.reported(executor, rules, info), k + 1
            shared = eqx.tree_at(lambda s: s.round, shared, jnp.asarray(k, jnp.int32))
            local, shared, snapshot = loop.record(executor, e, rules, local, shared)
            records = loop.append(rules, records, snapshot, shared.round, local.agents.sent, report)
        return local, shared, records


def _finite(tree: Any) -> bool:
    # What an `Info` does not know is NaN, on purpose; it is a leaf here, and has no dtype.
    leaves = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, Info))
    leaves = [leaf for leaf in leaves if jnp.issubdtype(getattr(leaf, "dtype", int), jnp.inexact)]
    return all(bool(np.isfinite(leaf).all()) for leaf in leaves)


def _show(tree: Any) -> str:
    lines = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            lines.append(f"  {jax.tree_util.keystr(path)} = {np.array2string(np.asarray(leaf), threshold=12, precision=6)}")
    return "\n".join(lines)
