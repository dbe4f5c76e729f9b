"""The simulated engine with the agent axis sharded over devices, of one process or of several."""

import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from . import hosts, loop, route
from .executor import Vectorised
from .peer_round import message_specs
from .peers import Peers
from .stop import Flags, told

AXIS = "agents"
COMMON, SPLIT = PartitionSpec(), PartitionSpec(AXIS)


class Sharded(eqx.Module):
    """The same program with the agent axis sharded over devices: each device works for a block of agents.

    Neighbours' messages go from block to block where an edge joins them; those of a server are added up, estimates and metrics
    reduced by collectives. After `tw.distribute` the devices are those of all processes.

    Attributes:
        devices: how many devices to use, as many of each process; all of them when None. Must divide the number of agents.
        deterministic: as in `Simulated`.
    """

    devices: int | None = None
    deterministic: bool = False
    name = "sharded"

    def open(self) -> "Shards":
        """A session: what lies on the devices stays there from call to call."""
        return Shards(self.devices, self.deterministic)


class Shards:
    """One run on the devices of all `hosts`. What it returns of the run as a whole lies on one device of this process."""

    name = Sharded.name

    def __init__(self, devices: int | None, deterministic: bool):
        self.devices, self.deterministic, self.hosts = devices, deterministic, hosts.here()
        self._program: tuple[Any, Any] = None, None  # as it was given, and as it lies on the mesh

    def begin(self, e, rules, earlier=None):
        """(local, shared) before round 0."""
        local, shared = self._run(_begins, e, rules, () if earlier is None else (earlier,), ())
        return self.whole(local), shared

    def advance(self, e, rules, local, shared, until):
        """(local, shared, records) after going on to round `until` at most."""
        return self._run(loop.advance, e, rules, (local,), (shared, jnp.asarray(until, jnp.int32)))

    def estimates(self, e, local, shared):
        """`[n, d]` every agent's answer."""
        return self._run(_gathered, e, None, (local,), (shared,))[1]

    def shared_answer(self, e, shared):
        """`[d]` the answer of a run with a server."""
        return _shared_answer(self._executor(None), e, shared)

    def bytes(self, e, local, shared):
        """Payload of one client's messages in one round."""
        return eqx.filter_eval_shape(lambda e, *run: e.bytes(self._executor(None), *run), e, local, shared)

    def committed(self, local, k: int) -> None:
        """Round `k` is safe in a checkpoint."""

    def whole(self, local):
        """`local` where the host can read it."""
        if self.hosts.processes == 1:
            return local
        arrays, rest = eqx.partition(local, lambda leaf: isinstance(leaf, jax.Array) and not leaf.is_fully_addressable)
        leaves, structure = jax.tree.flatten(arrays)
        if not leaves:
            return local
        with self.hosts.in_touch():
            everywhere = jax.block_until_ready(_copied(leaves[0].sharding.mesh)(leaves))
        return eqx.combine(jax.tree.unflatten(structure, _readable(everywhere)), rest)

    def moved(self, e: Peers, local) -> int:
        """Bytes of messages that cross between devices in one round of peers, all devices together."""
        devices = self._mesh(e.n).size
        plan = self._routed(e, devices).world.route
        rows = (devices - 1) * e.n if plan is None else plan.moved
        size = lambda tree: sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
        flags = size(told(local.flags)) // e.n if isinstance(local.flags, Flags) else 0
        return rows * (size(message_specs(e, local.agents.state)) + flags)

    def _executor(self, axis: str | None) -> Vectorised:
        return Vectorised(jnp.asarray(0, jnp.uint32), self.deterministic, axis)

    def _run(self, function, e, rules, split, common):
        with self.hosts.in_touch():
            local, *others = jax.block_until_ready(_sharded(*self._arguments(function, e, rules, split, common)))
        return local, *(_readable(tree) for tree in others)

    def _arguments(self, function, e, rules, split, common) -> tuple:
        """Of `_sharded`, all on the mesh. The program is put there once."""
        mesh = self._mesh(e.n)
        if self._program[0] is not e:
            there = self._routed(e, mesh.size)
            self._program = e, _placed(there, there.belongs_to_agents(), mesh)
        every = lambda tree, of_agents: _placed(tree, jax.tree.map(lambda _: of_agents, tree), mesh)
        executor, rules, common = every((self._executor(AXIS), rules, common), False)
        return function, mesh, executor, self._program[1], rules, every(split, True), common

    def _routed(self, e, devices: int):
        """The program, its messages routed from block to block where that is less than handing them to everybody."""
        if not isinstance(e, Peers) or devices == 1 or e.world.dense:
            return e
        found = route.plan(np.asarray(e.world.neighbours), devices)
        if found is None:
            return e
        world = dataclasses.replace(e.world, neighbours=jnp.asarray(found[0], jnp.int32), route=found[1])
        return dataclasses.replace(e, world=world)

    def _mesh(self, n: int) -> Mesh:
        every = [[d for d in jax.devices() if d.process_index == rank] for rank in range(self.hosts.processes)]
        available = len(jax.devices())
        count = available if self.devices is None else self.devices
        if not 1 <= count <= available:
            where = "this machine has" if len(every) == 1 else f"{len(every)} processes have"
            raise ValueError(f"Sharded(devices={count}): {where} {available} device(s)")
        each, over = divmod(count, len(every))
        if over or any(len(own) < each for own in every):
            raise ValueError(
                f"Sharded(devices={count}): got {len(every)} processes with {', '.join(str(len(own)) for own in every)} devices, "
                f"expected as many on each; leave `devices` out, or give a multiple of {len(every)}"
            )
        if n % count:
            fits = [c for c in range(len(every), count + 1, len(every)) if n % c == 0]
            mend = f"use devices={fits[-1]}" if fits else f"start a number of processes that divides {n}"
            raise ValueError(f"Sharded(devices={count}): {n} agents cannot be split evenly; {mend}")
        return Mesh(np.asarray([device for own in every for device in own[:each]]), (AXIS,))


def _placed(tree: Any, split: Any, mesh: Mesh) -> Any:
    """`tree` on the mesh: arrays that are marked in `split` in blocks, the others on every device."""

    def place(leaf, of_agents):
        if not eqx.is_array(leaf):
            return leaf
        wanted = NamedSharding(mesh, SPLIT if of_agents else COMMON)
        if isinstance(leaf, jax.Array) and (leaf.sharding == wanted or not leaf.is_fully_addressable):
            return leaf
        if jax.process_count() == 1:
            return jax.device_put(leaf, wanted)
        here = np.asarray(leaf)  # all processes have all of it
        return jax.make_array_from_callback(here.shape, wanted, lambda index: here[index])

    return jax.tree.map(place, tree, split)


def _readable(tree: Any) -> Any:
    """What is the same on every device, as this process's first one has it."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf, tree)


@functools.cache
def _copied(mesh: Mesh):
    return jax.jit(lambda leaves: leaves, out_shardings=NamedSharding(mesh, COMMON))


@eqx.filter_jit
def _shared_answer(executor, e, shared):
    return e.shared_answer(executor, shared)


def _begins(executor, e, rules, earlier=None):
    return e.begin(executor, rules, earlier)


def _gathered(executor, e, rules, local, shared):
    return (), executor.everyone(e.estimates(executor, local, shared))


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
    out = (SPLIT, *(COMMON for _ in results[1:]))
    return jax.shard_map(block, mesh=mesh, in_specs=(COMMON, SPLIT, COMMON), out_specs=out, check_vma=False)(
        executor.zero, mine, ours
    )


def _belongs_to_agents(arrays: Any):
    """True at every leaf with a leading agent axis: what the program says, and records."""
    e, rules, split, common = arrays
    no = lambda tree: jax.tree.map(lambda _: False, tree)
    yes = lambda tree: jax.tree.map(lambda _: True, tree)
    return e.belongs_to_agents(), no(rules), yes(split), no(common)
