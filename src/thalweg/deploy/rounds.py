"""A round under a server in compiled parts, those of the server and those of a client. What crosses between them is bytes.

Axes: `n` clients, `c` slots of the cohort, `b` bytes.
"""

import functools
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from thalweg.cohort import Draw
from thalweg.engine.aggregation import sealed
from thalweg.engine.asynchronous import AsyncServer, next_idle
from thalweg.engine.executor import Vectorised
from thalweg.engine.pace import Pace
from thalweg.engine.server import ServerProgram
from thalweg.engine.server_metrics import answer, own_answers
from thalweg.engine.server_round import (
    Central,
    absorb,
    absorb_sum,
    broadcast,
    draw_cohort,
    first_memory,
    learn,
    message_specs,
    reported,
    respond,
)  # fmt: skip
from thalweg.message.payload import pack

from .compiled import Compiled, Held, Kept, bound
from .octets import Form, pack_rows


@dataclass(frozen=True)
class Specs:
    """Shapes of what is sent in one phase: the wires of the two parts downwards and what they say, the wire upwards and what it
    says, and what is reported beside it in the last phase."""

    down: tuple[Any, Any]
    told: tuple[Any, Any]
    up: Any
    sent: Any
    report: Any

    @functools.cached_property
    def told_as(self) -> Form:
        """Of both parts downwards."""
        return Form(self.down)

    @functools.cached_property
    def heard_as(self) -> Form:
        """Of what comes back: message and report."""
        return Form((self.up, self.report))


class Drawn(NamedTuple):
    """A cohort: whose `members` `[c]` are drawn, in the slots that are `valid` `[c]`; `held` is all there is of it."""

    held: Held
    members: np.ndarray
    valid: np.ndarray

    def complete(self, arrived: np.ndarray) -> bool:
        """Whether everybody who was drawn has `arrived` `[c]`, and nobody else can have."""
        return arrived.tobytes() == self.valid.tobytes()


def specs_of(program: ServerProgram) -> list[Specs]:
    """By phase; from shapes alone."""
    executor, e = Vectorised(jnp.zeros((), jnp.uint32), False), program

    def begin():
        state = e.first_states(executor, _first_piece(e), e.ids[:1])
        return state, e.first_server(executor)

    states, server = jax.eval_shape(begin)
    written = lambda stage, message: (
        jax.eval_shape(lambda m: stage.encode(stage.init(m), m, e.key)[1], message) if message else ()
    )
    found = []
    for index, phase in enumerate(e.algorithm.phases):
        common, own, up = message_specs(e, e.problem.pieces, states, server, phase)
        last = index == len(e.algorithm.phases) - 1
        down = written(e.downlink, common), written(e.downlink, own)
        found.append(Specs(down, (common, own), written(e.uplink, up), up, reported(e) if last else {}))
    return found


class ServerRounds:
    """The server's parts. Another membership compiles nothing anew."""

    def __init__(self, program: ServerProgram, deterministic: bool):
        self._program = program
        self.specs = specs_of(program)
        make = lambda function, *fixed: Compiled(bound(function, *fixed), deterministic)
        self._begin, self._open, self._answer = map(make, (_begin_server, _open, _answer))
        phases = range(len(self.specs))
        self._down = [make(_down, index) for index in phases]
        self._up = [{complete: make(_up, index, complete) for complete in (True, False)} for index in phases]
        self._up_sum = [{complete: make(_up_sum, index, complete) for complete in (True, False)} for index in phases]

    def begin(self) -> Held:
        """A `Central` before round 0."""
        return self._begin(self._program)

    def open(self, central: Any, k: int) -> tuple[Drawn, tuple[Held, bytes, list[bytes]]]:
        """(the cohort of round k, what `down` gives in later phases)."""
        held, members, valid, *told = self._open(self._program, central, np.int32(k))
        return Drawn(held, np.asarray(members), np.asarray(valid)), _told(*told, members.size)

    def down(self, central: Any, members: np.ndarray, k: int, index: int) -> tuple[Held, bytes, list[bytes]]:
        """(central, what goes to all, what goes to each of `members` `[c]` by itself) in a phase after the first."""
        return _told(*self._down[index](self._program, central, members, np.int32(k)), len(members))

    def up(
        self, central: Any, draw: Drawn, arrived: np.ndarray, heard: np.ndarray, k: int, index: int
    ) -> tuple[Held, Array, Any]:
        """(central, whose message was accepted `[c]`, scalars to report), from the bytes `heard [c, b]` of those that `arrived`.

        Means are what the cohort's rule makes of them if everybody has answered who was drawn, and else over those who have:
        who stays away is not known to do so at random.
        """
        part, messages = self._up[index][draw.complete(arrived)], self.specs[index].heard_as.read(heard)
        return part(self._program, central, draw.held, arrived, messages, np.int32(k))

    def up_sum(self, central: Any, draw: Drawn, arrived: np.ndarray, total: Any, k: int, index: int) -> tuple[Held, Any]:
        """(central, scalars to report), from the secure sum `[length]` of those that `arrived`, and of nobody else."""
        part = self._up_sum[index][draw.complete(arrived)]
        return part(self._program, central, draw.held, arrived, total, np.int32(k))

    def answer(self, central: Any) -> Array:
        """`[d]` the shared answer."""
        return self._answer(self._program, central)


class BufferedRounds:
    """The parts of a server that does not wait: one phase, updates of `buffer` messages, `slots` clients that work at a time."""

    def __init__(self, program: AsyncServer, deterministic: bool):
        self._program, self.buffer, self.slots = program, program.buffer, program.slots
        self.specs = specs_of(program)
        make = lambda function, *fixed: Compiled(bound(function, *fixed), deterministic)
        self._begin, self._answer, self._pick, self._up = map(make, (_begin_server, _answer, _pick, _up_buffered))
        self._down = make(_down, 0)

    def begin(self) -> Held:
        """A `Central` before the first update."""
        return self._begin(self._program)

    def pick(self, idle: Any, count: int) -> Array:
        """Who of the `idle` `[n]` is asked, when so many have been asked before."""
        return self._pick(self._program, idle, np.int32(count))

    def down(self, central: Any, member: int, k: int) -> bytes:
        """What goes to all alike, and to this client by itself."""
        _, common, (own,) = _told(*self._down(self._program, central, np.array([member], np.int32), np.int32(k)), 1)
        return common + own

    def up(self, central: Any, members: Any, versions: Any, heard: Any, k: int) -> tuple[Held, Array, Any]:
        """(central, whose message was accepted `[s]`, scalars), from the bytes `heard [s, b]` of models of these `versions`."""
        return self._up(self._program, central, members, versions, self.specs[0].heard_as.read(heard), np.int32(k))

    def answer(self, central: Any) -> Array:
        """`[d]` the shared answer."""
        return self._answer(self._program, central)


class ClientRounds:
    """A client's parts; `program` has its id and its piece alone."""

    def __init__(self, program: ServerProgram, deterministic: bool):
        self._program = program
        self.specs = specs_of(program)
        make = lambda function, *fixed: Compiled(bound(function, *fixed), deterministic)
        self._begin, self._own = make(_begin_client), make(_own)
        self._respond = [make(_respond, index) for index in range(len(self.specs))]
        self._seal = [make(_seal, index) for index in range(len(self.specs))]

    def renew(self, secret: Any) -> None:
        """Draw what nobody else may know from another key from now on."""
        self._program = replace(self._program, secret=secret)

    def begin(self) -> Held:
        """The record of a client that was never drawn."""
        return self._begin(self._program)

    def respond(self, record: Any, body: np.ndarray, k: int, index: int, number: int) -> tuple[Held, bytes, Array]:
        """(record, what to send, loss) after work on the bytes that came for all and for this client; randomness goes by
        `number`."""
        told = self.specs[index].told_as.read(body)
        record, reply, loss = self._respond[index](self._program, record, told, np.array([k, number], np.int32))
        return record, pack(reply.leaves), loss

    def seal(
        self, record: Any, body: np.ndarray, k: int, index: int, slot: int, drawn: int
    ) -> tuple[Held, Array, Array, Array]:
        """(record, what goes into the secure sum `[length]`, whether it holds numbers only, loss), of a client that has this
        `slot` in a cohort of which so many were `drawn`."""
        told = self.specs[index].told_as.read(body)
        return self._seal[index](self._program, record, told, np.array([k, slot, drawn], np.int32))

    def own(self, record: Any, server: Any) -> Array:
        """`[d]` the client's own answer, given the server's state."""
        return self._own(self._program, record, server)

    @property
    def server_state(self) -> Any:
        """The server's state, as shapes."""
        return jax.eval_shape(lambda: self._program.first_server(Vectorised(jnp.zeros((), jnp.uint32), False)))


def _first_piece(e: ServerProgram) -> Any:
    """One piece, with its leading axis; the server's form of one has everybody's rows of a coupled problem."""
    return jax.tree.map(lambda leaf: leaf[:1], e.problem.pieces)


def _begin_server(executor, e: ServerProgram) -> Kept:
    pieces = _first_piece(e)
    states = e.first_states(executor, pieces, e.ids[:1])
    server = e.first_server(executor)
    _, downlink, aggregate = e.pipelines(pieces, states, server)
    return Kept(Central(server, downlink, aggregate, first_memory(executor, e)))


def _open(executor, e: ServerProgram, central: Central, k):
    draw = draw_cohort(executor, e, central.cohort, k)
    return Kept(draw), draw.members, draw.valid, *_down(0, executor, e, central, draw.members, k)


def _answer(executor, e: ServerProgram, central: Central):
    return answer(executor, e, central.state)


def _down(index: int, executor, e: ServerProgram, central: Central, members, k):
    central, sent = broadcast(executor, e, central, members, k, index)
    common, own = sent.wire
    return Kept(central), Kept(common), Kept(own)


def _told(central: Held, common: Held, own: Held, count: int) -> tuple[Held, bytes, list[bytes]]:
    """What `_down` gives, to so many clients, as bytes."""
    return central, pack(common.leaves), pack_rows(own, range(count))


def _up(index: int, complete: bool, executor, e: ServerProgram, central: Central, draw: Draw, arrived, heard, k):
    sent, report = _heard(index, executor, e, heard)
    arrived = arrived & draw.valid & _finite(sent)
    central, _, scalars = absorb(executor, e, central, sent, draw, arrived, _pace(e, draw, arrived, complete), k, index)
    return Kept(_learnt(index, executor, e, central, draw, arrived, report)), arrived, scalars


def _up_sum(index: int, complete: bool, executor, e: ServerProgram, central: Central, draw: Draw, arrived, total, k):
    pace, message = _pace(e, draw, arrived, complete), specs_of(e)[index].sent
    central, scalars = absorb_sum(executor, e, central, total, message, draw, arrived, pace, k, index)
    return Kept(_learnt(index, executor, e, central, draw, arrived, {})), scalars


def _pace(e: ServerProgram, draw: Draw, arrived, complete: bool) -> Pace:
    ids = e.ids[draw.members]
    return Pace(arrived, jnp.ones(ids.shape, e.registry.weights.dtype), ids, draw.members, complete)


def _learnt(index: int, executor, e: ServerProgram, central: Central, draw: Draw, arrived, report) -> Central:
    """After the last phase, with what the cohort's rule has learnt."""
    if index + 1 < len(e.algorithm.phases):
        return central
    return replace(central, cohort=learn(executor, e, central.cohort, draw, arrived, report))


def _pick(executor, e: AsyncServer, idle, count):
    return next_idle(e, idle, count)


def _up_buffered(executor, e: AsyncServer, central: Central, members, versions, heard, k):
    order = jnp.argsort(e.ids[members])
    sent, _ = _heard(0, executor, e, heard)
    members, versions, sent = jax.tree.map(lambda leaf: leaf[order], (members, versions, sent))
    central, _, scalars = e.updated(executor, central, sent, members, versions, _finite(sent), k)
    return Kept(central), _finite(sent), scalars


def _heard(index: int, executor, e: ServerProgram, heard):
    """(messages, what is reported beside them), from what was on the wire."""
    specs, (wire, report) = specs_of(e)[index], heard
    return executor.role("decode", lambda one: e.uplink.decode(one, specs.sent), wire, axes=(0,)), report


def _finite(tree) -> Bool[Array, " c"]:
    """`[c]` whose message holds numbers only."""
    floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf.reshape(leaf.shape[0], -1)), axis=1) for leaf in floats]), axis=0)


def _begin_client(executor, e: ServerProgram):
    states = e.first_states(executor, e.problem.pieces, e.ids)
    return Kept((states, e.pipelines(e.problem.pieces, states, e.first_server(executor))[0]))


def _respond(index: int, executor, e: ServerProgram, record, told, at):
    k, number = at
    record, up, info = _worked(index, executor, e, record, told, k, number)
    report = {name: getattr(info, name).astype(spec.dtype)[0] for name, spec in specs_of(e)[index].report.items()}
    first = jax.tree.map(lambda leaf: leaf[0], up.wire)
    return Kept(record), Kept((first, report)), info.loss[0]


def _seal(index: int, executor, e: ServerProgram, record, told, at):
    k, slot, drawn = at
    record, up, info = _worked(index, executor, e, record, told, k, k)
    element, finite = sealed(executor, e, (k, index), up.heard, slot, drawn)
    return Kept(record), element, finite, info.loss[0]


def _worked(index: int, executor, e: ServerProgram, record, told, k, number):
    """(record, what is sent, what was learnt) of the client, from what was on the wire."""
    specs, (common, own) = specs_of(e)[index], told
    read = lambda part, wire: e.downlink.decode(wire, specs.told[part]) if specs.told[part] else {}
    common = executor.network_role("decode", lambda wire: read(0, wire), common)
    own = jax.tree.map(lambda leaf: leaf[None], own)
    own = executor.role("decode", lambda wire: read(1, wire), own, axes=(0,)) if specs.told[1] else {}
    return respond(executor, e, e.problem.pieces, record, e.ids, (common, own), k, index, count=number)


def _own(executor, e: ServerProgram, record, server):
    return own_answers(executor, e, record, server)[0]
