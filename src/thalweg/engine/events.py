"""The order of events of a run without rounds: who woke, and whose message came to whom.

Wakes and delays do not depend on what agents compute, so that the order stands before anything runs. It is drawn (`draw_events`),
or given: that of sites that really ran, for example.

Axes: `e` events, `n` agents.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from thalweg.network import Network

WAKE = -1


@dataclasses.dataclass(frozen=True, eq=False)
class Events:
    """What happened, in order.

    Attributes:
        agent: `[e]`, who wakes or hears, as its position.
        sender: `[e]`, whose message it hears; −1 where it wakes.
        number: `[e]`, of a wake how often the agent has woken before; of a message at which of its sender's wakes it was written.
        time: `[e]` seconds, or None where they are not known.

    Raises:
        ValueError, TypeError: not such arrays.
    """

    agent: Any
    sender: Any
    number: Any
    time: Any = None

    def __post_init__(self) -> None:
        for name in ("agent", "sender", "number"):
            array = np.asarray(getattr(self, name))
            if array.ndim != 1 or not (np.issubdtype(array.dtype, np.integer) or not array.size):
                raise TypeError(f"Events({name}=…): got {array.dtype}{list(array.shape)}, expected whole numbers [e]")
            object.__setattr__(self, name, array.astype(np.int32))
        if self.time is not None:
            object.__setattr__(self, "time", np.asarray(self.time, float))
        lengths = {len(array) for array in (self.agent, self.sender, self.number, self.time) if array is not None}
        if len(lengths) != 1:
            raise ValueError(f"Events: got arrays of {' and '.join(map(str, sorted(lengths)))} entries, expected one length")
        if self.time is not None and not (np.diff(self.time) >= 0).all():
            raise ValueError("Events(time=…): got times that go back, expected none earlier than the one before")

    def __len__(self) -> int:
        return len(self.agent)

    @property
    def wakes(self) -> int:
        """How often somebody wakes."""
        return int((self.sender == WAKE).sum())

    @staticmethod
    def merged(logs: Sequence[Any]) -> "Events":
        """One order of what each agent saw in its own.

        `logs[i]` `[e_i, 2]` are the rows (sender, or −1 for a wake; number) of agent i, as `Answer.events` of a site has them.

        Every message is heard after it was sent. Orders that keep this and each agent's own lead to the same states.

        Raises:
            ValueError: a message was heard that nobody sent.
        """
        rows = [np.asarray(log, np.int32).reshape(-1, 2) for log in logs]
        at, woken = [0] * len(rows), [0] * len(rows)
        found: list[tuple[int, int, int]] = []
        moved = True
        while moved:
            moved = False
            for i, row in enumerate(rows):
                while at[i] < len(row):
                    sender, number = row[at[i]].tolist()
                    if sender != WAKE and not (0 <= sender < len(rows) and number < woken[sender]):
                        break
                    woken[i] += sender == WAKE
                    found.append((i, sender, number))
                    at[i], moved = at[i] + 1, True
        for i, row in enumerate(rows):
            if at[i] < len(row):
                sender, number = row[at[i]].tolist()
                raise ValueError(
                    f"Events.merged: agent {i} heard message {number} of agent {sender}, which is not in that agent's log; pass "
                    "the logs of all agents, whole and in their order"
                )
        agent, sender, number = np.array(found, np.int32).reshape(-1, 3).T
        return Events(agent, sender, number)

    def slots(self, network: Network) -> Int[np.ndarray, " e"]:
        """In which of its neighbour slots an agent hears; −1 where it wakes.

        Raises:
            ValueError: an event that cannot be on this network.
        """
        n, heard = network.n, self.sender != WAKE
        for name, array, low in (("agent", self.agent, 0), ("sender", self.sender, WAKE)):
            if len(array) and not (array.min() >= low and array.max() < n):
                raise ValueError(f"Events({name}=…): got {array.min()} to {array.max()}, expected {low} to {n - 1}")
        table, found = network.slots(), np.full(len(self), WAKE, np.int32)
        at = table.neighbours[self.agent[heard]] == self.sender[heard, None]
        at &= table.mask[self.agent[heard]]
        if not (known := at.any(axis=1)).all():
            first = np.flatnonzero(heard)[~known][0]
            raise ValueError(
                f"Events: in event {first} agent {self.agent[first]} hears agent {self.sender[first]}, expected one of its "
                f"neighbours on {network.name}"
            )
        found[heard] = at.argmax(axis=1)
        self._check_numbers(n)
        return found

    def _check_numbers(self, n: int) -> None:
        """Wakes are counted one by one; messages come after they were sent, and none after a later one of the same sender."""
        for first in (*_out_of_turn(self, n), *_before_sent(self, n), *_overtaken(self, n)):
            what = (
                f"wake {self.number[first]}"
                if self.sender[first] == WAKE
                else (f"message {self.number[first]} of agent {self.sender[first]}")
            )
            raise ValueError(
                f"Events: event {first} is {what} at agent {self.agent[first]}, out of its order; expected every agent's wakes as "
                "0, 1, 2, …, messages after the wakes that sent them, and those of one sender in order, each once"
            )


def _out_of_turn(events: Events, n: int) -> np.ndarray:
    """Wakes with another number than that of the agent's wakes before."""
    at = np.flatnonzero(events.sender == WAKE)
    return at[events.number[at] != ranks(events.agent[at], n)]


def _before_sent(events: Events, n: int) -> np.ndarray:
    """Messages heard before the wake that they are of."""
    wake, heard = np.flatnonzero(events.sender == WAKE), np.flatnonzero(events.sender != WAKE)
    count, start = np.bincount(events.agent[wake], minlength=n), 0
    by_agent = wake[np.argsort(events.agent[wake], kind="stable")]
    start = np.concatenate([[0], np.cumsum(count)])[events.sender[heard]]
    number = events.number[heard]
    real = (number >= 0) & (number < count[events.sender[heard]])
    sent = by_agent[np.where(real, start + number, 0)] if len(by_agent) else np.zeros(len(heard), int)
    return heard[~real | (sent > heard)]


def _overtaken(events: Events, n: int) -> np.ndarray:
    """Messages that are not later ones than the agent heard of the same sender before."""
    heard = np.flatnonzero(events.sender != WAKE)
    edge = events.agent[heard].astype(np.int64) * n + events.sender[heard]
    order = np.argsort(edge, kind="stable")
    same, number = np.diff(edge[order]) == 0, events.number[heard][order]
    return heard[order[1:][same & (np.diff(number) <= 0)]]


def ranks(group: Int[np.ndarray, " e"], n: int) -> Int[np.ndarray, " e"]:
    """How many entries before it have the same number as an entry; numbers are below n."""
    order = np.argsort(group, kind="stable")
    start = np.concatenate([[0], np.cumsum(np.bincount(group, minlength=n))[:-1]])
    found = np.empty(len(group), np.int64)
    found[order] = np.arange(len(group)) - start[group[order]]
    return found
