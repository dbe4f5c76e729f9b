"""The default engine: all agents stacked in one compiled program on one device."""

from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp

from thalweg.fleet import Clocks

from . import loop
from .events import Events
from .executor import Vectorised
from .hosts import Hosts


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
    hosts = Hosts()

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

    def whole(self, local):
        """`local` where the host can read it."""
        return local


class EventDriven(Simulated):
    """Nobody waits: a server that does not wait for its clients, or peers without rounds, on a virtual clock.

    Of a server the clock is that of a fleet (`tw.solve(fleet=…)`). The algorithm's cohort is how many clients work at a time; the
    server updates after every `buffer` messages. `FedAvg` with buffer 1 is FedAsync in its form of updates, with a larger buffer
    FedBuff. With devices that take no time and a buffer for everybody, it equals the synchronous run.

    Peers run one of `tw.asynchronous` under `clocks`. Wakes and delays do not depend on what agents compute: their order is drawn
    before the run, or is that of `events`. A "round" is n wakes, with all that is heard until the next one.

    Attributes:
        buffer: of a server: messages per update.
        staleness: of a server: a; a message whose model is τ updates old counts with the weight (1 + τ)^−a.
        clocks: of peers: when they wake and how long messages take, `tw.Clocks`; None: wakes once a second on average, and messages
            that come at once.
        events: of peers: what happens, in order, in place of what clocks would have drawn, `tw.Events`.

    Cong Xie, Sanmi Koyejo, Indranil Gupta, *Asynchronous federated optimization*, OPT 2020; John Nguyen et al., *Federated
    learning with buffered asynchronous aggregation*, AISTATS 2022.
    """

    buffer: int = eqx.field(static=True, default=1)
    staleness: float = 0.5
    clocks: Any = None
    events: Any = None
    name = "event-driven"

    def __check_init__(self):
        if not isinstance(self.buffer, int) or self.buffer < 1:
            raise ValueError(f"EventDriven(buffer={self.buffer!r}): expected a whole number ≥ 1")
        if not self.staleness >= 0:
            raise ValueError(f"EventDriven(staleness={self.staleness!r}): expected a number ≥ 0")
        for name, kind in (("clocks", Clocks), ("events", Events)):
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                raise TypeError(f"EventDriven({name}=…): got {type(value).__name__}, expected tw.{kind.__name__}, or None")
        if self.clocks is not None and self.events is not None:
            raise ValueError("EventDriven(clocks=…, events=…): got both, expected one: events are what clocks would draw")


def _executor(deterministic: bool) -> Vectorised:
    return Vectorised(jnp.asarray(0, jnp.uint32), deterministic)


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
