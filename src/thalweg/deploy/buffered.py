"""A server that does not wait: it gives work to whoever is idle, and updates after every so many answers.

The rules are those of the event-driven engine (`engine.asynchronous`), whose clock here is the real one.

Axes: `n` clients, `s` messages of an update.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .desk import NEVER, Desk
from .membership import TooFew
from .post import Kind
from .rounds import BufferedRounds


class Buffered:
    """Updates of a server.

    Args:
        log: called with (central, k) when something has come that must survive a restart.

    Attributes:
        accepted: `[n]`, how often a client had been asked before its last accepted message.
        started: `[n]`, how often it has been asked.
    """

    def __init__(self, desk: Desk, rounds: BufferedRounds, log: Callable[[Any, int], None]):
        n, size = len(desk.sites), rounds.specs[0].heard_as.size
        self._desk, self._rounds, self._log = desk, rounds, log
        self.accepted, self.started = np.full(n, NEVER, np.int32), np.zeros(n, np.int32)
        # The buffer: whose messages wait, of which version of the model, and what they say.
        self._waiting = (np.full(rounds.buffer, NEVER, np.int32), np.zeros(rounds.buffer, np.int32))
        self._bodies = np.zeros((rounds.buffer, size), np.uint8)
        # Site → (version of its model, bytes sent, when) while it works.
        self._working: dict[str, tuple[int, bytes, float]] = {}

    @property
    def memory(self) -> Any:
        """What a restart needs beside what the algorithm keeps."""
        return self.accepted, self.started, self._waiting, self._bodies

    @memory.setter
    def memory(self, found: Any) -> None:
        self.accepted, self.started, (members, versions), self._bodies = (
            np.array(found[0]), np.array(found[1]), map(np.array, found[2]), np.array(found[3])
        )  # fmt: skip
        self._waiting = members, versions

    def update(self, central: Any, k: int) -> tuple[Any, dict[str, Any], int]:
        """Update k: (central, scalars to report, messages in it).

        Raises:
            TooFew: less than a quorum of clients was there for as long as one waits. Spent: so few take part still.
        """
        desk, enough = self._desk, time.monotonic()
        members, versions = self._waiting
        need = desk.settings.quorum or 1
        while (members == NEVER).any():
            self._give(central, k)
            desk.roster.check_left(need)
            able = desk.roster.able
            if len(able) >= need:
                enough = time.monotonic()
            if time.monotonic() - enough > desk.settings.wait:
                missing = [site for site in desk.sites if site not in able]
                raise TooFew(f"{len(able)} clients are there, expected {need}; missing: {', '.join(missing)}", missing)
            letter = desk.receive(0.2)
            able = desk.roster.able
            self._working = {site: work for site, work in self._working.items() if site in able}
            if letter is None or not desk.answer(letter, Kind.MESSAGE, self._bodies.shape[1]):
                continue
            i = desk.sites.index(letter.sender)
            if letter.sender not in self._working or letter.round != self.started[i] - 1:
                desk.reject("stale")
                continue
            self._take(i, letter.body)
            desk.take(letter)
            if (members == NEVER).any():
                self._log(central, k)
        central, accepted, scalars = self._rounds.up(central, members, versions, self._bodies, k)
        desk.post.rejected["not finite"] += int(np.sum(~np.asarray(accepted)))
        members[:] = NEVER
        return central, scalars, int(np.sum(accepted))

    def _take(self, i: int, body: Any) -> None:
        """Client i's answer into the buffer: it will be in the next update, so the client may keep what it has made of it."""
        members, versions = self._waiting
        place, (version, *_) = int(np.argmax(members == NEVER)), self._working.pop(self._desk.sites[i])
        members[place], versions[place], self._bodies[place] = i, version, np.frombuffer(body, np.uint8)
        self.accepted[i] = self.started[i] - 1

    def _give(self, central: Any, k: int) -> None:
        """Work to those who are idle, as many as may work at a time; and once more to those who were not heard of."""
        desk, now = self._desk, time.monotonic()
        while len(self._working) < self._rounds.slots:
            able = desk.roster.able - self._working.keys()
            idle = np.array([site in able for site in desk.sites])
            if not idle.any():
                break
            i = int(self._rounds.pick(idle, int(self.started.sum())))
            body = self._rounds.down(central, i, k)
            desk.ask(desk.sites[i], k, 0, (int(self.accepted[i]), int(self.started[i])), body)
            self.started[i] += 1
            self._working[desk.sites[i]] = k, body, now
        for site, (version, body, at) in self._working.items():
            if site in desk.roster.proved and now - at > desk.settings.timeout:
                i = desk.sites.index(site)
                desk.ask(site, version, 0, (int(self.accepted[i]), int(self.started[i]) - 1), body, again=True)
                self._working[site] = version, body, now
