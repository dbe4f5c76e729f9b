"""Orders of events drawn from clocks: wakes, messages under way, losses, sleep.

Time is cut into windows of equal length, each with random numbers of its own, so that a longer run begins like a shorter one. All
draws are in order of ids: who stands where in the arrays does not matter.

Axes: `n` agents, `a` arcs from sender to receiver, `e` events.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from thalweg.fleet import Clocks
from thalweg.network import Network

from .events import WAKE, Events, ranks

# Wakes in a window, at the least, on average.
WAKES = 4096
# More events than this are not kept in memory.
MOST = 50_000_000


@dataclasses.dataclass(frozen=True)
class _Arcs:
    """Who hears whom, in order of (id of sender, id of receiver); agents as ranks of ids. `start [b]`, b = n + 1: where senders
    begin."""

    sender: Int[np.ndarray, " a"]
    receiver: Int[np.ndarray, " a"]
    start: Int[np.ndarray, " b"]


@dataclasses.dataclass
class _Under:
    """Messages under way, and `newest [a]`, the number of the newest that was heard."""

    due: Float[np.ndarray, " e"]
    arc: Int[np.ndarray, " e"]
    number: Int[np.ndarray, " e"]
    newest: Int[np.ndarray, " a"]


def draw_events(
    clocks: Clocks, network: Network, ids: Int[np.ndarray, " n"], seed: int, rounds: int
) -> tuple[Events, Float[np.ndarray, " e"]]:
    """(events, over): n·rounds wakes, and all that is heard before the next one; and of every wake when its message will have come
    to all whom it reaches, −∞ where it reaches nobody.

    A message is lost with the probability `network.failures.loss`, each by itself; one that was overtaken is dropped.

    Raises:
        ValueError: agents are awake for fewer wakes, or there are too many events to keep.
    """
    n, by_id = network.n, np.argsort(ids)
    arcs = _arcs(network, ids)
    expected = rounds * (n + len(arcs.sender))
    if expected > MOST:
        raise ValueError(
            f"solve(rounds={rounds}): got about {expected:.1e} events, expected at most {MOST:.0e}, which are kept in memory; pass "
            "fewer rounds, and continue with another seed and x0=result.x"
        )
    ranked = _Ranked(clocks, by_id)
    width = max(WAKES, 4 * n) / float(np.sum(1 / ranked.period))
    woken, under = (
        np.zeros(n, np.int64),
        _Under(np.zeros(0), *(np.zeros(0, np.int64) for _ in range(2)), np.full(len(arcs.sender), -1)),
    )
    parts, window, total = [], 0, 0
    while total <= n * rounds:
        begin, end = window * width, (window + 1) * width
        if begin >= ranked.last:
            raise ValueError(
                f"solve(rounds={rounds}): the agents' availability ends after {total} wakes, expected {n * rounds}; pass "
                f"rounds={total // n}, or intervals that repeat (period=…)"
            )
        rng = np.random.default_rng([int(seed) % 2**64, window])
        parts.append(_window(ranked, arcs, network.failures.loss, woken, under, rng, begin, end))
        total, window = total + int((parts[-1][2] == WAKE).sum()), window + 1
    time, agent, sender, number, over = map(np.concatenate, zip(*parts, strict=True))
    cut = np.flatnonzero(sender == WAKE)[n * rounds]
    sender = np.where(sender == WAKE, WAKE, by_id[sender])
    return Events(by_id[agent][:cut], sender[:cut], number[:cut], time[:cut]), over[:cut]


class _Ranked:
    """Clocks in order of ids."""

    def __init__(self, clocks: Clocks, by_id: Int[np.ndarray, " n"]):
        n = len(by_id)
        self.clocks, self.by_id = clocks, by_id
        self.period, self.latency, self.jitter = (clocks.of(name, n)[by_id] for name in ("period", "latency", "jitter"))
        self.first = None if clocks.first is None else clocks.of("first", n)[by_id]
        always = clocks.availability is None or np.isfinite(clocks.availability.period)
        self.last = np.inf if always else float(np.max(clocks.availability.end))

    def wakes(self, rng: np.random.Generator, begin: float, end: float) -> tuple[np.ndarray, np.ndarray]:
        """(agents, times) of this window, in order of agents and then of time."""
        n = len(self.by_id)
        if self.clocks.poisson:
            agent = np.repeat(np.arange(n), rng.poisson((end - begin) / self.period))
            time = begin + (end - begin) * rng.random(len(agent))
        else:
            before, after = (np.maximum(np.ceil((t - self.first) / self.period), 0).astype(np.int64) for t in (begin, end))
            agent = np.repeat(np.arange(n), after - before)
            time = self.first[agent] + self.period[agent] * (before[agent] + ranks(agent, n))
            time = np.clip(time, begin, np.nextafter(end, begin))  # rounding must not carry it into another window
        awake = self.clocks.awake(self.by_id[agent], time)
        agent, time = agent[awake], time[awake]
        order = np.lexsort((time, agent))
        return agent[order], time[order]


def _window(ranked: _Ranked, arcs: _Arcs, loss: float, woken, under: _Under, rng, begin: float, end: float):
    """(time, agent, sender, number, over) of what happens before `end`, in order; `woken` and `under` go on."""
    if ranked.first is None and not ranked.clocks.poisson:
        ranked.first = ranked.period * rng.random(len(ranked.period))
    agent, time = ranked.wakes(rng, begin, end)
    number = woken[agent] + ranks(agent, len(woken))
    woken += np.bincount(agent, minlength=len(woken))

    out = arcs.start[agent + 1] - arcs.start[agent]
    wake = np.repeat(np.arange(len(agent)), out)
    arc = arcs.start[agent[wake]] + ranks(wake, len(agent))
    arrives = rng.random(len(wake)) >= loss
    due = time[wake] + ranked.latency[agent[wake]] + ranked.jitter[agent[wake]] * rng.exponential(size=len(wake))
    due = ranked.clocks.next_awake(ranked.by_id[arcs.receiver[arc]], due)
    arrives &= np.isfinite(due)
    for name, new in (("due", due), ("arc", arc), ("number", number[wake])):
        setattr(under, name, np.concatenate([getattr(under, name), new[arrives]]))

    over = np.full(len(agent), -np.inf)
    np.maximum.at(over, wake[arrives], due[arrives])

    due, arc, heard = _heard(under, end)
    columns = (
        np.concatenate([time, due]),
        np.concatenate([agent, arcs.receiver[arc]]),
        np.concatenate([np.full(len(time), WAKE), arcs.sender[arc]]),
        np.concatenate([number, heard]),
        np.concatenate([over, np.full(len(due), np.nan)]),
    )
    # At one instant all who wake do so before anybody hears.
    order = np.lexsort((columns[3], columns[2], columns[1], columns[2] != WAKE, columns[0]))
    kinds = (np.float64, np.int32, np.int32, np.int32, np.float64)
    return tuple(column[order].astype(kind) for column, kind in zip(columns, kinds, strict=True))


def _heard(under: _Under, end: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(due, arc, number) of the messages that come before `end`, without those that were overtaken; none is under way any more."""
    come = under.due < end
    due, arc, number = under.due[come], under.arc[come], under.number[come]
    under.due, under.arc, under.number = under.due[~come], under.arc[~come], under.number[~come]
    order = np.lexsort((number, due, arc))
    due, arc, number = due[order], arc[order], number[order]
    # Arcs ascend, so that the running maximum over all of them is that of each.
    key = arc.astype(np.int64) * (int(number.max(initial=0)) + 2) + number
    newer = (np.maximum.accumulate(key) == key) & (number > under.newest[arc])
    due, arc, number = due[newer], arc[newer], number[newer]
    np.maximum.at(under.newest, arc, number)
    return due, arc, number


def _arcs(network: Network, ids: Int[np.ndarray, " n"]) -> _Arcs:
    slots, rank = network.slots(), np.argsort(np.argsort(ids))
    receiver, slot = np.nonzero(slots.mask)
    sender, receiver = rank[slots.neighbours[receiver, slot]], rank[receiver]
    order = np.lexsort((receiver, sender))
    start = np.searchsorted(sender[order], np.arange(network.n + 1))
    return _Arcs(sender[order], receiver[order], start)
