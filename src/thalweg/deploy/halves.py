"""A round of one peer, in compiled halves: up to where its messages leave, and from where its neighbours' have come.

A round costs Python two calls a phase; what crosses the cut are payloads as `thalweg.message.payload.pack` lays them out.

Axes: `D` slots, `o` sites that hear this one, `b` bytes.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from thalweg.engine.epoch import Earlier
from thalweg.engine.loop import Rules
from thalweg.engine.metrics import estimates
from thalweg.engine.peer_round import Gone, arrive, as_agents, depart, message_specs, wire_specs
from thalweg.engine.peers import Local, Peers
from thalweg.engine.stop import Flags, told
from thalweg.engine.weather import conditions
from thalweg.message.combine import Edges

from .compiled import Compiled, Held, Kept, bound
from .octets import Form
from .seat import Seat


class Leaving(NamedTuple):
    """What leaves an agent in a phase.

    Attributes:
        gone: what `Halves.arrive` needs of the first half.
        common: for all neighbours alike; each: `[D, ...]`, for each slot by itself.
        flags: the stop flags that travel in the header of a round's first message.
        to: `[o]`, who is sent to; awaited: `[D]`, whose message is to come.
    """

    gone: Any
    common: Held
    each: Held
    flags: Held
    to: Bool[Array, " o"]
    awaited: Bool[Array, " D"]


class Halves:
    """The compiled halves of one seat. Another membership compiles nothing anew.

    Attributes:
        messages: of one message to one neighbour, by phase; flags: of the stop flags beside it.
    """

    def __init__(self, seat: Seat, rules: Rules, deterministic: bool):
        self._seat, self._rules = seat, rules
        phases = range(len(seat.program.algorithm.phases))
        make = lambda function: Compiled(function, deterministic)
        self._begin, self._enter, self._look, self._estimate = map(make, (_begin, _enter, _look, _estimate))
        self._depart = [make(bound(_depart, index)) for index in phases]
        self._arrive = [make(bound(_arrive, index)) for index in phases]
        first = self.begin(seat.program).tree
        wires = wire_specs(seat.program, message_specs(seat.program, first.agents.state))
        self.messages = [Form(wire) for wire in wires.values()]
        flags = told(first.flags) if isinstance(first.flags, Flags) else ()
        self.flags = Form(jax.tree.map(lambda leaf: leaf[0], flags))

    def begin(self, program: Peers) -> Held:
        """A `Local` before round 0 of a first epoch."""
        return self._begin(program, self._rules)

    def enter(self, program: Peers, state: Any, stays: bool) -> Held:
        """Before the first round of an epoch, with the algorithm's state as the last one left it."""
        return self._enter(program, self._rules, Earlier(jnp.asarray([stays]), state))

    def depart(self, program: Peers, local: Held, k: int, index: int) -> Leaving:
        """Phase `index` of round k up to where messages leave."""
        return Leaving(*self._depart[index](program, self._seat.outward, local, np.int32(k)))

    def arrive(
        self, program: Peers, before: Held, local: Held, gone: Held, k: int, index: int, heard: np.ndarray, flags: np.ndarray
    ) -> tuple[Held, Any]:
        """(after the rest of the phase, whether sites have agreed to stop), given `heard [D, b]` and the `flags [D, b]` of the
        round's first phase; `before` is before it."""
        heard, flags = self.messages[index].read(heard), self.flags.read(flags)
        return self._arrive[index](program, self._rules, before, local, gone, np.int32(k), heard, flags)

    def estimate(self, program: Peers, local: Held) -> np.ndarray:
        """`[d]`, the agent's answer."""
        return np.asarray(self._estimate(program, local))[0]

    def look(self, program: Peers, local: Held) -> dict[str, float]:
        """What the site itself can see of the run: its loss φ_i(x_i), and whether everything is finite."""
        return {name: value.item() for name, value in self._look(program, local).items()}


def _begin(executor, program: Peers, rules: Rules) -> Kept:
    return Kept(program.begin(executor, rules)[0])


def _enter(executor, program: Peers, rules: Rules, earlier: Earlier) -> Kept:
    return Kept(program.begin(executor, rules, earlier)[0])


def _estimate(executor, program: Peers, local: Local):
    return estimates(executor, program, local.agents)


def _look(executor, program: Peers, local: Local):
    own = lambda a, problem, c, state: problem.value(a.estimate(state))
    loss = as_agents(executor, program, "loss", own, local.agents.state)[0]
    floats = [leaf for leaf in jax.tree.leaves(local.agents.state) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return {"finite": jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in floats])), "loss": loss}


def _depart(index: int, executor, program: Peers, outward, local: Local, k):
    gone = depart(executor, program, local.agents, k, index)
    common, each = (jax.tree.map(lambda leaf: leaf[0], wire) for wire in gone.wire)
    flags = told(local.flags) if index == 0 and isinstance(local.flags, Flags) else ()
    # A channel's state says what is lost, and nothing of what is sent.
    channel = jnp.zeros(outward.mask.shape, bool)
    to = conditions(program.key, program.setting, outward, k, index, channel)[1].scheduled[:, 0]
    kept = (gone.channel, gone.weather, gone.link, gone.sent)
    return Kept(kept), Kept(common), Kept(each), Kept(flags), to, gone.weather.scheduled[0]


def _arrive(index: int, executor, program: Peers, rules: Rules, before: Local, local: Local, kept, k, heard, flags):
    channel, weather, link, sent = kept
    phases = program.algorithm.phases
    gone = Gone(channel, weather, link, local.agents.lies[phases[index]], sent, ((), ()))
    around = _decoded(executor, program, phases[index], local, sent, heard)
    agents, _ = arrive(executor, program, local.agents, gone, k, index, lambda part: {field: around[field] for field in part})
    if index + 1 < len(phases):
        return Kept(Local(agents, local.previous, local.flags)), False
    headers = ()
    if isinstance(before.flags, Flags):
        mine = told(before.flags)
        headers = jax.tree.map(lambda own, others: jnp.concatenate([own, others]), mine, flags)
    agents, agreed = program.agree(executor, rules, before, agents, headers, k)
    return Kept(Local(agents, local.previous, agreed)), agreed.done[0] if isinstance(agreed, Flags) else False


def _decoded(executor, program: Peers, phase: str, local: Local, sent: Any, heard) -> dict[str, Any]:
    """Field → rows of what a round brings: the agent's own message first, then what is in its slots."""
    messages = message_specs(program, local.agents.state)
    each = {field for field in sent if isinstance(program.algorithm.combine[field], Edges)}
    one = lambda s: jax.ShapeDtypeStruct(s.shape[1:], s.dtype)
    parts = [
        {field: spec for field, spec in messages[phase].items() if field not in each},
        {field: jax.tree.map(one, spec) for field, spec in messages[phase].items() if field in each},
    ]
    parts = [part for part in parts if part]

    def decode(wires):
        found: dict[str, Any] = {}
        for wire, part in zip(wires, parts, strict=True):
            found |= program.link.decode(wire, part)
        return found

    rows = executor.role(f"decode {phase}", decode, heard, axes=(0,))

    def beside(field, own, others):
        if field in each:  # whichever slot is asked for: its sender wrote one message to this agent
            others = jnp.broadcast_to(others[:, None], (others.shape[0], *own.shape[1:]))
        return jnp.concatenate([own, others])

    return {field: jax.tree.map(functools.partial(beside, field), sent[field], rows[field]) for field in sent}
