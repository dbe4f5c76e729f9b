"""The default engine: all agents stacked in one compiled program, on one device or sharded over several."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from thalweg.algorithm.step import PerAgent

from . import loop
from .executor import Vectorised
from .metrics import estimates

AXIS = "agents"


class Simulated(eqx.Module):
    """All agents at once on one device: `vmap` over agents, one compiled loop over rounds.

    Attributes:
        deterministic: compile every role by itself, so that this engine, the sharded one and the debug one give the
            same bits (float64, CPU). Slower; without it they agree to rounding.
    """

    deterministic: bool = False
    name = "simulated"

    def open(self) -> "Simulated":
        """A session of this engine: itself."""
        return self

    def begin(self, e, rules, earlier=None):
        """(local, shared) before round 0."""
        return _begin(_executor(self.deterministic), e, rules, earlier)

    def advance(self, e, rules, local, shared, until):
        """(local, shared, records) after going on to round `until` at most."""
        return _advance(_executor(self.deterministic), e, rules, local, shared, jnp.asarray(until, jnp.int32))

    def estimates(self, e, agents):
        """`[n, d]` every agent's answer."""
        return _estimates(_executor(self.deterministic), e, agents)


class Sharded(eqx.Module):
    """The same program with the agent axis sharded over devices: each device works for a block of agents.

    Messages are gathered, estimates and metrics reduced by collectives; only blocks of the agents' data stay apart.

    Attributes:
        devices: how many devices to use; all of them when None. Must divide the number of agents.
        deterministic: as in `Simulated`.
    """

    devices: int | None = None
    deterministic: bool = False
    name = "sharded"

    def open(self) -> "Sharded":
        """A session of this engine: itself."""
        return self

    def begin(self, e, rules, earlier=None):
        """(local, shared) before round 0."""
        return self._run(loop.begin, e, rules, () if earlier is None else (earlier,), ())

    def advance(self, e, rules, local, shared, until):
        """(local, shared, records) after going on to round `until` at most."""
        return self._run(loop.advance, e, rules, (local,), (shared, jnp.asarray(until, jnp.int32)))

    def estimates(self, e, agents):
        """`[n, d]` every agent's answer, the same on every device."""
        return self._run(_gathered, e, None, (agents,), ())[1]

    def _run(self, function, e, rules, split, common):
        mesh = _mesh(self.devices, e.world.ids.shape[0])
        return _sharded(function, mesh, _executor(self.deterministic, AXIS), e, rules, split, common)


def _executor(deterministic: bool, axis: str | None = None) -> Vectorised:
    return Vectorised(jnp.asarray(0, jnp.uint32), deterministic, axis)


@eqx.filter_jit
def _begin(executor, e, rules, earlier):
    return loop.begin(executor, e, rules, earlier)


@eqx.filter_jit
def _advance(executor, e, rules, local, shared, until):
    return loop.advance(executor, e, rules, local, shared, until)


@eqx.filter_jit
def _estimates(executor, e, agents):
    return estimates(executor, e, agents)


def _gathered(executor, e, rules, agents):
    return (), executor.everyone(estimates(executor, e, agents))


@eqx.filter_jit
def _sharded(function, mesh, executor, e, rules, split, common):
    """`function(executor, e, rules, *split, *common)` with agents' leaves split over the mesh.

    It returns (what is split, *what is the same on every device).
    """
    arrays, static = eqx.partition((e, rules, split, common), eqx.is_array)
    mine, ours = eqx.partition(arrays, _belongs_to_agents(arrays))

    def block(zero, mine, ours):
        e, rules, split, common = eqx.combine(mine, ours, static)
        return function(Vectorised(zero, executor.deterministic, AXIS), e, rules, *split, *common)

    # How many results there are is read off one unsharded trace; the first is the agents', the others everybody's.
    results = jax.eval_shape(lambda: function(Vectorised(executor.zero, executor.deterministic), e, rules, *split, *common))
    out = (PartitionSpec(AXIS), *(PartitionSpec() for _ in results[1:]))
    places = (PartitionSpec(), PartitionSpec(AXIS), PartitionSpec())
    return jax.shard_map(block, mesh=mesh, in_specs=places, out_specs=out, check_vma=False)(executor.zero, mine, ours)


def _mesh(devices: int | None, n: int) -> Mesh:
    available = jax.devices()
    count = len(available) if devices is None else devices
    if not 1 <= count <= len(available):
        raise ValueError(f"Sharded(devices={count}): this machine has {len(available)} device(s)")
    if n % count:
        best = max(c for c in range(1, count + 1) if n % c == 0)
        raise ValueError(f"Sharded(devices={count}): {n} agents cannot be split evenly; use devices={best}")
    return Mesh(np.asarray(available[:count]), (AXIS,))


def _belongs_to_agents(arrays: Any):
    """True at every leaf with a leading agent axis: data, slots, per-agent hyper-parameters, records."""
    e, rules, split, common = arrays
    no = lambda tree: jax.tree.map(lambda _: False, tree)
    yes = lambda tree: jax.tree.map(lambda _: True, tree)
    per_agent = lambda leaf: isinstance(leaf, PerAgent)
    algorithm = jax.tree.map(lambda leaf: yes(leaf) if per_agent(leaf) else False, e.algorithm, is_leaf=per_agent)
    marks = eqx.tree_at(
        lambda m: (m.problem.pieces, m.world, m.algorithm), no(e), (yes(e.problem.pieces), yes(e.world), algorithm)
    )
    return marks, no(rules), yes(split), no(common)
