"""An order of events as the compiled loop wants it: slots, places for messages under way, and windows of equal length.

A round is n wakes, with all that is heard until the next one. Axes: `e` events, `r` rounds, `w` events of a window.
"""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from thalweg.fleet import Clocks
from thalweg.network import Network

from .events import WAKE, Events

SMALLEST = 4096


class Window(eqx.Module):
    """Some rounds' events, padded.

    Attributes:
        first: number of its first round; starts: where rounds begin.
        agent, slot: as in `Plan`; place: of the message, to write it to at a wake, to read it from where it is heard.
    """

    first: Int[Array, ""]
    starts: Int[Array, " r"]
    agent: Int[Array, " w"]
    slot: Int[Array, " w"]
    place: Int[Array, " w"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """The whole order, on the host.

    Attributes:
        agent, slot, place: of every event `[e]`; slot is −1 at a wake, place is `places` where nobody will hear the message.
        starts: `[r + 1]`, where rounds begin; clock: `[r + 1]`, the time after each, None where it is not known.
        places: for messages under way.
        length: of a window.
    """

    agent: Int[np.ndarray, " e"]
    slot: Int[np.ndarray, " e"]
    place: Int[np.ndarray, " e"]
    starts: Int[np.ndarray, " r+1"]
    clock: Float[np.ndarray, " r+1"] | None
    places: int
    length: int
    n: int

    @property
    def rounds(self) -> int:
        """The last may have fewer wakes than the others."""
        return len(self.starts) - 1

    def end(self, k: int) -> int:
        """The last round that the window which begins with round `k` has whole."""
        return int(np.searchsorted(self.starts, self.starts[k] + self.length, side="right")) - 1

    def window(self, k: int) -> Window:
        """The rounds from `k` on."""
        begin, last = int(self.starts[k]), self.end(k)
        cut = slice(begin, int(self.starts[last]))
        pad = lambda array, size: jnp.asarray(np.pad(array, (0, size - len(array)), mode="edge" if len(array) else "constant"))
        starts = np.asarray(self.starts[k : last + 1] - begin, np.int32)
        events = (pad(array[cut], self.length) for array in (self.agent, self.slot, self.place))
        return Window(jnp.asarray(k, jnp.int32), pad(starts, self.length // self.n + 2), *events)


def plan_of(events: Events, network: Network, clocks: Clocks | None) -> Plan:
    """The plan of an order. Sizes follow from network and clocks where they suffice, so that another seed compiles nothing.

    Raises:
        ValueError: an event that cannot be on this network.
    """
    n, slot = network.n, events.slots(network)
    wakes = np.flatnonzero(slot == WAKE)
    starts = np.append(wakes[::n], len(events)).astype(np.int64)
    place, most = _places(events, slot, n)
    usual = np.mean(network.slots().mask.sum(axis=1)) + 1
    longest = int(np.diff(starts).max(initial=1))
    clock = None if events.time is None else np.concatenate([[0.0], events.time[starts[1:] - 1]])
    return Plan(
        agent=events.agent,
        slot=slot,
        place=np.where(place < 0, places := _power(max(most, _under_way(network, clocks))), place).astype(np.int32),
        starts=starts,
        clock=clock,
        places=places,
        length=max(SMALLEST, _power(max(longest, int(2 * n * usual)))),
        n=n,
    )


def _places(events: Events, slot: np.ndarray, n: int) -> tuple[np.ndarray, int]:
    """(place `[e]` of each event's message, −1 where nobody hears it; how many places there are).

    A place is free again after its message was heard for the last time; the one that was freed first is taken first.
    """
    wake, heard = np.flatnonzero(slot == WAKE), np.flatnonzero(slot != WAKE)
    by_agent = np.argsort(events.agent[wake], kind="stable")
    begin = np.concatenate([[0], np.cumsum(np.bincount(events.agent[wake], minlength=n))])
    message = by_agent[begin[events.sender[heard]] + events.number[heard]]  # which of all wakes
    last = np.full(len(wake), -1, np.int64)
    last[message] = heard  # events ascend: the last one stays
    kept = np.flatnonzero(last >= 0)
    sent, over = wake[kept], last[kept]
    freed = np.sort(over)
    alive = np.arange(1, len(kept) + 1) - np.searchsorted(freed, sent)
    most = int(alive.max(initial=0))
    after = np.argsort(over, kind="stable").tolist()
    taken = list(range(min(most, len(kept))))
    for m in range(most, len(kept)):
        taken.append(taken[after[m - most]])
    of_wake = np.full(len(wake), -1, np.int64)
    of_wake[kept] = taken
    place = np.empty(len(slot), np.int64)
    place[wake], place[heard] = of_wake, of_wake[message]
    return place, most


def _under_way(network: Network, clocks: Clocks | None) -> int:
    """Messages that are under way at a time, by a generous guess: n where all wake at once, and what wakes during four times the
    longest delay of a message to all neighbours."""
    n = network.n
    if clocks is None:
        return n
    rate, degree = float(np.sum(1 / clocks.of("period", n))), int(network.slots().mask.sum(axis=1).max(initial=1))
    longest = np.max(clocks.of("latency", n) + clocks.of("jitter", n) * (1 + np.log(max(degree, 1))))
    return n + int(4 * rate * longest)


def _power(count: int) -> int:
    """The least power of two that is not below."""
    return 1 << max(0, count - 1).bit_length()
