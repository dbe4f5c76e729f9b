"""What a site without rounds computes when it wakes and when it hears, compiled.

Axes: `D` slots, `b` bytes.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from thalweg.algorithm.asynchronous.base import AsynchronousAlgorithm
from thalweg.engine.async_assembly import assemble_asynchronous
from thalweg.engine.async_peers import AsyncPeers, first_states, heard, woken
from thalweg.engine.executor import Vectorised
from thalweg.engine.peer_round import as_agents
from thalweg.network import Network
from thalweg.problem import Problem

from .compiled import Compiled, Held, Kept
from .octets import Form
from .seat import alone


class Written(NamedTuple):
    """A message: `common`, for all neighbours alike; `each` `[D, ...]`, for each slot by itself."""

    common: Held
    each: Held


class Steps:
    """One agent among all, at `place`.

    Attributes:
        program: its row of the program of all; algorithm: resolved, hyper-parameters as the user reads them.
        heard: `[D]`, the site in each slot, −1 where there is none; hearing: those that hear it; slot_of: in which of its own slots
            they are (of messages that differ between neighbours).
        message: of one message to one neighbour.

    Raises:
        TypeError, ValueError: as `thalweg.solve`.
    """

    def __init__(
        self, problem: Problem, algorithm: AsynchronousAlgorithm, network: Network, place: int, seed: int, deterministic: bool
    ):
        found = assemble_asynchronous(problem, algorithm, network, ids=np.arange(problem.n), seed=seed)
        self.program, self.algorithm = alone(found.program, place), found.algorithm
        slots = network.slots()
        self.heard = np.where(slots.mask[place], slots.neighbours[place], -1)
        receiver, _ = np.nonzero((slots.neighbours == place) & slots.mask)
        mine = {j: s for s, j in enumerate(self.heard.tolist()) if j >= 0}
        self.hearing, self.slot_of = receiver, np.array([mine.get(j, 0) for j in receiver.tolist()], int)
        make = lambda function: Compiled(function, deterministic)
        self._begin, self._wake, self._hear = map(make, (_begin, _wake, _hear))
        self._estimate, self._look = map(make, (_estimate, _look))
        hears = lambda zero, state: _heard_of(Vectorised(zero, False), self.program, state)
        first = jax.eval_shape(hears, jnp.zeros((), jnp.uint32), self.begin().tree)
        self.message = Form(first)

    def begin(self) -> Held:
        """The state before the first wake."""
        return self._begin(self.program)

    def wake(self, state: Held, number: int) -> tuple[Held, Written]:
        """(state, message) at wake `number`."""
        state, *message = self._wake(self.program, state, np.int32(number))
        return state, Written(*message)

    def hear(self, state: Held, body: np.ndarray, slot: int, wakes: int) -> Held:
        """The state after this message `[b]` of the neighbour in `slot` was heard; so often has the site woken."""
        return self._hear(self.program, state, self.message.read(body), np.int32(slot), np.int32(wakes))

    def estimate(self, state: Held) -> np.ndarray:
        """`[d]`, the agent's answer."""
        return np.asarray(self._estimate(self.program, state))[0]

    def look(self, state: Held) -> dict[str, Any]:
        """What the site itself can see of the run: its loss φ_i(x_i), and whether everything is finite."""
        return {name: np.asarray(value) for name, value in self._look(self.program, state).items()}


def _split(program: AsyncPeers, message: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """(fields alike for all neighbours, fields that differ: leaves `[D, ...]`) of the one agent's message."""
    each = program.algorithm.per_neighbour
    own = {name: jax.tree.map(lambda leaf: leaf[0], leaf) for name, leaf in message.items()}
    return {name: own[name] for name in own if name not in each}, {name: own[name] for name in own if name in each}


def _heard_of(executor, program: AsyncPeers, state: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What one neighbour hears of a message: what all hear, and its own entries."""
    common, each = _split(program, woken(executor, program, state, jnp.zeros(1, jnp.int32))[1])
    return common, jax.tree.map(lambda leaf: leaf[0], each)


def _begin(executor, program: AsyncPeers) -> Kept:
    return Kept(first_states(executor, program))


def _wake(executor, program: AsyncPeers, state: Any, number):
    state, message = woken(executor, program, state, number[None])
    common, each = _split(program, message)
    return Kept(state), Kept(common), Kept(each)


def _hear(executor, program: AsyncPeers, state: Any, told, slot, wakes) -> Kept:
    common, each = told
    message = jax.tree.map(lambda leaf: leaf[None], common | each)
    return Kept(heard(executor, program, state, message, slot[None], wakes[None]))


def _estimate(executor, program: AsyncPeers, state: Any):
    return as_agents(executor, program, "estimate", lambda a, local, c, state: ravel_pytree(a.estimate(state))[0], state)


def _look(executor, program: AsyncPeers, state: Any):
    own = lambda a, problem, c, state: problem.value(a.estimate(state))
    loss = as_agents(executor, program, "loss", own, state)
    floats = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return {"loss": loss[0], "finite": jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in floats]))}
