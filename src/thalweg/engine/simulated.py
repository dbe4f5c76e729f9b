"""The default engine: all agents stacked in one compiled program, on one device or sharded over several."""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from . import loop
from .executor import Vectorised

AXIS = "agents"


class Simulated(eqx.Module):
    """All agents at once on one device: `vmap` over agents, one compiled loop over rounds.

    Attributes:
        deterministic: compile every role by itself, so that this engine, the sharded one and the debug one give the
            same bits (float64, CPU). Slower; without it they agree to rounding.
        plan: of clients: "vmap", side by side, or "sequential", one after another; None leaves it to the engine (see `plans`).
    """

    deterministic: bool = False
    plan: Literal["vmap", "sequential"] | None = None
    name = "simulated"

    def __check_init__(self):
        if self.plan not in (None, "vmap", "sequential"):
            raise ValueError(f"Simulated(plan={self.plan!r}): expected 'vmap', 'sequential' or None")

    def open(self) -> "Simulated":
        """A session of this engine: itself."""
        return self

    def begin(self, e, rules, earlier=None):
        """(local, shared) before round 0."""
        return _begin(_executor(self.deterministic), e, rules, earlier)

    def advance(self, e, rules, local, shared, until):
        """(local, shared, records) after going on to round `until` at most."""
        return _advance(_executor(self.deterministic), e, rules, local, shared, jnp.asarray(until, jnp.int32))

    def estimates(self, e, local, shared):
        """`[n, d]` every agent's answer."""
        return _estimates(_executor(self.deterministic), e, local, shared)

    def shared_answer(self, e, shared):
        """`[d]` the answer of a run with a server."""
        return _shared_answer(_executor(self.deterministic), e, shared)

    def bytes(self, e, local, shared):
        """Payload of one client's messages in one round."""
        return _bytes(_executor(self.deterministic), e, local, shared)

    def committed(self, local, k: int) -> None:
        """Round `k` is safe in a checkpoint."""


class EventDriven(Simulated):
    """A server that does not wait for its clients, on the virtual clock of a fleet (`tw.solve(fleet=…)`).

    The algorithm's cohort is how many clients work at a time; the server updates after every `buffer` messages. `FedAvg` with
    buffer 1 is FedAsync in its form of updates, with a larger buffer FedBuff. With devices that take no time and a buffer for
    everybody, it equals the synchronous run.

    Attributes:
        buffer: messages per update.
        staleness: a; a message whose model is τ updates old counts with the weight (1 + τ)^−a.

    Cong Xie, Sanmi Koyejo, Indranil Gupta, *Asynchronous federated optimization*, OPT 2020; John Nguyen et al., *Federated
    learning with buffered asynchronous aggregation*, AISTATS 2022.
    """

    buffer: int = eqx.field(static=True, default=1)
    staleness: float = 0.5
    name = "event-driven"

    def __check_init__(self):
        if not isinstance(self.buffer, int) or self.buffer < 1:
            raise ValueError(f"EventDriven(buffer={self.buffer!r}): expected a whole number ≥ 1")
        if not self.staleness >= 0:
            raise ValueError(f"EventDriven(staleness={self.staleness!r}): expected a number ≥ 0")


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
        return self._run(_begins, e, rules, () if earlier is None else (earlier,), ())

    def advance(self, e, rules, local, shared, until):
        """(local, shared, records) after going on to round `until` at most."""
        return self._run(loop.advance, e, rules, (local,), (shared, jnp.asarray(until, jnp.int32)))

    def estimates(self, e, local, shared):
        """`[n, d]` every agent's answer, the same on every device."""
        return self._run(_gathered, e, None, (local,), (shared,))[1]

    def shared_answer(self, e, shared):
        """`[d]` the answer of a run with a server."""
        return _shared_answer(_executor(self.deterministic), e, shared)

    def bytes(self, e, local, shared):
        """Payload of one client's messages in one round."""
        return _bytes(_executor(self.deterministic), e, local, shared)

    def committed(self, local, k: int) -> None:
        """Round `k` is safe in a checkpoint."""

    def _run(self, function, e, rules, split, common):
        mesh = _mesh(self.devices, e.n)
        return _sharded(function, mesh, _executor(self.deterministic, AXIS), e, rules, split, common)


def _executor(deterministic: bool, axis: str | None = None) -> Vectorised:
    return Vectorised(jnp.asarray(0, jnp.uint32), deterministic, axis)


@eqx.filter_jit
def _begin(executor, e, rules, earlier):
    return e.begin(executor, rules, earlier)


@eqx.filter_jit
def _advance(executor, e, rules, local, shared, until):
    return loop.advance(executor, e, rules, local, shared, until)


@eqx.filter_jit
def _estimates(executor, e, local, shared):
    return e.estimates(executor, local, shared)


@eqx.filter_jit
def _shared_answer(executor, e, shared):
    return e.shared_answer(executor, shared)


@eqx.filter_jit
def _bytes(executor, e, local, shared):
    return e.bytes(executor, local, shared)  # read off shapes: numbers that are kept with the program


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
    """True at every leaf with a leading agent axis: what the program says, and records."""
    e, rules, split, common = arrays
    no = lambda tree: jax.tree.map(lambda _: False, tree)
    yes = lambda tree: jax.tree.map(lambda _: True, tree)
    return e.belongs_to_agents(), no(rules), yes(split), no(common)
