"""An order of events as the compiled loop wants it: slots, places for messages under way, and windows of equal length.

A round is n wakes, with all that is heard until the next one.
Axes: `e` events, `b` bounds of rounds (one more than rounds), `w` events of a window.
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
    starts: Int[Array, " b"]
    agent: Int[Array, " w"]
    slot: Int[Array, " w"]
    place: Int[Array, " w"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """The whole order, on the host.

    Attributes:
        agent, slot, place: of every event `[e]`; slot is −1 at a wake, place is `places` where nobody will hear the message.
        starts: `[b]`, where rounds begin; clock: `[b]`, the time after each, None where it is not known.
        places: for messages under way.
        length: of a window.
    """

    agent: Int[np.ndarray, " e"]
    slot: Int[np.ndarray, " e"]
    place: Int[np.ndarray, " e"]
    starts: Int[np.ndarray, " b"]
    clock: Float[np.ndarray, " b"] | None
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


def plan_of(events: Events, network: Network, over: Float[np.ndarray, " e"] | None, clocks: Clocks | None) -> Plan:
    """The plan of an order. `over` and `clocks` are those of a drawn one: what lies beyond its end then counts too, and a run can
    be resumed into a longer one. Sizes follow from network and clocks where they suffice, so that another seed compiles nothing.

    Raises:
        ValueError: an event that cannot be on this network.
    """
    n, slot = network.n, events.slots(network)
    wakes, heard = np.flatnonzero(slot == WAKE), np.flatnonzero(slot != WAKE)
    starts = np.append(wakes[::n], len(events)).astype(np.int64)
    message = _messages(events, wakes, heard, n)
    if over is None:
        begin, end = wakes.astype(float), np.full(len(wakes), -np.inf)
        end[message] = heard  # events ascend: the last one stays
    else:
        begin, end = events.time[wakes], over[wakes]
    places, taken = _places(begin, end, _under_way(network, clocks))
    place = np.empty(len(events), np.int32)
    place[wakes], place[heard] = taken, taken[message]
    usual = np.mean(network.slots().mask.sum(axis=1)) + 1
    longest = int(np.diff(starts).max(initial=1))
    return Plan(
        agent=events.agent,
        slot=slot,
        place=place,
        starts=starts,
        clock=None if events.time is None else np.concatenate([[0.0], events.time[starts[1:] - 1]]),
        places=places,
        length=max(SMALLEST, _power(max(longest, int(2 * n * usual)))),
        n=n,
    )


def _messages(events: Events, wakes: np.ndarray, heard: np.ndarray, n: int) -> np.ndarray:
    """Which of all wakes each message that is heard is of."""
    by_agent = np.argsort(events.agent[wakes], kind="stable")
    begin = np.concatenate([[0], np.cumsum(np.bincount(events.agent[wakes], minlength=n))])
    return by_agent[begin[events.sender[heard]] + events.number[heard]]


def _places(begin: np.ndarray, end: np.ndarray, least: int) -> tuple[int, np.ndarray]:
    """(how many places there are, at least so many; the place of each message, the one behind the last where `end` is −∞).

    A message has its place from `begin` to `end`. The place that was freed first is taken first: so where a message is does not
    depend on what comes later, if the number of places does not.
    """
    kept = np.flatnonzero(np.isfinite(end))
    sent, over = begin[kept], end[kept]
    alive = np.arange(1, len(kept) + 1) - np.searchsorted(np.sort(over), sent)
    places = _power(max(int(alive.max(initial=0)), least))
    after = np.argsort(over, kind="stable").tolist()
    taken = list(range(min(places, len(kept))))
    for m in range(places, len(kept)):
        taken.append(taken[after[m - places]])
    found = np.full(len(end), places, np.int32)
    found[kept] = taken
    return places, found


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
