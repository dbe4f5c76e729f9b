"""A server that waits in every round: for all it has asked, or for a quorum and as long as answers usually take.

Axes: `n` clients, `c` slots of the cohort.
"""

import collections
import itertools
import time
from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from thalweg.message.secure import ProtocolError, TooFewClients

from .desk import NEVER, Desk
from .membership import TooFew
from .post import Kind, Letter
from .rounds import ServerRounds
from .sealed_sum import Sums

# A round is closed this many median absolute deviations after the median time of an answer (and not before the time-out).
SPREADS = 8
# Answers of which these are taken.
REMEMBERED = 256


class Synchronous:
    """Rounds of a server, which sees its clients' messages, or, given `sums`, their secure sums alone.

    Attributes:
        accepted: `[n]`, the last round of which a client's message was accepted.
    """

    def __init__(self, desk: Desk, rounds: ServerRounds, sums: Sums | None = None):
        self._desk, self._rounds, self._sums = desk, rounds, sums
        self.accepted = np.full(len(desk.sites), NEVER, np.int32)
        # By step: 0 for the clients' work, others for those of a secure sum.
        self._times = collections.defaultdict[int, collections.deque[float]](lambda: collections.deque(maxlen=REMEMBERED))
        self._answered = set[tuple[str, int]]()  # (site, phase): a site's first answer in a phase takes a compilation

    @property
    def memory(self) -> Any:
        """What a restart needs beside what the algorithm keeps."""
        return self.accepted

    @memory.setter
    def memory(self, found: Any) -> None:
        self.accepted = np.array(found)

    def update(self, central: Any, k: int) -> tuple[Any, dict[str, Any], int]:
        """Round k: (central, scalars to report, clients whose message was accepted).

        Raises:
            TooFew: less than a quorum has answered for as long as one waits. Spent: so few take part still.
        """
        desk, scalars = self._desk, {}
        draw, told = self._rounds.open(central, k)
        members, arrived = draw.members, draw.valid.copy()
        for index, specs in enumerate(self._rounds.specs):
            central, common, own = told if index == 0 else self._rounds.down(central, members, k, index)
            slots = {desk.sites[members[slot]]: slot for slot in np.flatnonzero(arrived).tolist()}
            bodies = {site: common + own[slot] for site, slot in slots.items()}
            arrived = np.zeros_like(arrived)  # compiled code may still read the old one
            if self._sums is not None:
                places = np.where(draw.valid, members, -1).tolist()
                survivors, total = self._sum(places, bodies, common, k, index, self._sums)
                arrived[[slots[site] for site in survivors]] = True
                central, scalars = self._rounds.up_sum(central, draw, arrived, total, k, index)
                continue
            found = self._ask(bodies, k, index)
            heard = np.zeros((len(members), specs.heard_as.size), np.uint8)
            for site, body in found.items():
                heard[slots[site]], arrived[slots[site]] = np.frombuffer(body, np.uint8), True
            central, accepted, scalars = self._rounds.up(central, draw, arrived, heard, k, index)
            arrived = np.array(accepted)
            desk.post.rejected["not finite"] += len(found) - int(np.count_nonzero(arrived))
        self.accepted[members[arrived]] = k
        return central, scalars, int(np.count_nonzero(arrived))

    def _ask(self, bodies: dict[str, bytes], k: int, index: int) -> dict[str, Any]:
        """The answers of clients, by site."""
        desk, size = self._desk, self._rounds.specs[index].heard_as.size
        send = lambda site, again: desk.ask(site, k, index, self._numbers(site, k), bodies[site], again)
        return self._collect(bodies.keys(), (k, index), send, lambda letter: desk.answer(letter, Kind.MESSAGE, size))

    def _sum(
        self, places: list[int], bodies: dict[str, bytes], common: bytes, k: int, index: int, sums: Sums
    ) -> tuple[list[str], np.ndarray]:
        """(whose vectors are in it, the sum) of a secure sum; where it is void nobody and zeros."""
        desk, when = self._desk, (k, index)
        try:
            found = sums.begin(places, common, k, index)
            if (able := len(bodies.keys() - desk.roster.left.keys())) < found.need:  # the others would work for nothing
                raise TooFewClients("before it began", able, found.need, ())
            beside = found.invitations
            send = lambda site, again: desk.ask(site, k, index, self._numbers(site, k), bodies[site], again, beside[site])
            take = lambda letter: desk.answer(letter, Kind.MESSAGE) and found.take(letter)
            self._collect(bodies.keys(), when, send, take, found.need)
            for step in itertools.count(1):
                messages = found.advance()
                if not messages:
                    return found.survivors, found.total
                send = lambda site, again, messages=messages: desk.relay(site, k, index, messages[site], again)
                take = lambda letter: desk.answer(letter, Kind.SUM) and found.take(letter)
                self._collect(messages.keys(), when, send, take, step=step)
        except (TooFewClients, ProtocolError) as error:
            desk.post.note("void sum", round=k, phase=index, reason=str(error))
        return [], sums.nothing(index)

    def _numbers(self, site: str, k: int) -> tuple[int, int]:
        return int(self.accepted[self._desk.sites.index(site)]), k

    def _collect(
        self,
        sites: Collection[str],
        when: tuple[int, int],
        send: Callable[[str, bool], None],
        take: Callable[[Letter], bool],
        least: int = 0,
        step: int = 0,
    ) -> dict[str, Any]:
        """Ask clients, and take their answers until the phase, or a step of it, is closed.

        Args:
            when: (round, phase). send: called with a site, and whether it is asked once more.
            take: whether an answer is one. least: answers without which there is no use in going on.
            step: 0 for the clients' work, for which those that are missing are waited for until there are enough.
        """
        desk, roster, later = self._desk, self._desk.roster, step > 0 or when[1] > 0
        asked, found, wanted, waiting = dict[str, float](), dict[str, Any](), set(sites), set[str]()
        need = 0 if step else min(max(desk.settings.quorum or len(sites) // 2 + 1, least), len(sites))
        began = heard_at = look = time.monotonic()
        here: frozenset[str] | None = None
        while True:
            now = time.monotonic()
            if roster.here is not here or now >= look:
                here = roster.here
                asked = {site: at for site, at in asked.items() if site in here}  # who comes back is asked again
                waiting = (wanted & here) - found.keys() - roster.left.keys()
                for site in waiting:
                    if site not in asked or (site in roster.proved and now - asked[site] > desk.settings.timeout):
                        send(site, site in asked)
                        asked[site] = now
                look = min((asked[site] for site in waiting), default=now) + desk.settings.timeout
            if roster.left:
                roster.check_left(max(desk.settings.quorum or len(desk.sites) // 2 + 1, least))
                waiting -= roster.left.keys()
                need = min(need, len(wanted - roster.left.keys() | found.keys()))
            # Who began again in the middle of a round cannot go on with it.
            if len(found) >= need and self._closed(waiting & roster.proved if later else waiting, now - began, when[1], step):
                return found
            if now - heard_at > desk.settings.wait:
                missing = [site for site in sites if site not in found]
                have = f"{len(found)} of {len(sites)} clients answered, expected {need}"
                raise TooFew(f"{have}; missing: {', '.join(missing)}", missing)
            letter = desk.receive(0.05 if len(found) >= need else 0.2)
            if letter is None or letter.kind not in (Kind.MESSAGE, Kind.SUM):
                continue
            if (letter.round, letter.phase) != when or letter.sender not in wanted or letter.sender in found:
                desk.reject("stale")
                continue
            if not take(letter):
                continue
            found[letter.sender], heard_at = letter.body, time.monotonic()
            waiting.discard(letter.sender)
            if self._ready({letter.sender}, when[1]):
                self._times[step].append(heard_at - began)
            self._answered.add((letter.sender, when[1]))
            desk.take(letter)

    def _ready(self, sites: set[str], phase: int) -> bool:
        """Whether none of them has yet to compile its part of the phase, as far as is known."""
        return sites <= self._desk.roster.proved and all((site, phase) in self._answered for site in sites)

    def _closed(self, pending: set[str], waited: float, phase: int, step: int) -> bool:
        """Whether those who have not answered need not be waited for; nor in later rounds, until they are heard of."""
        pending = pending - self._desk.roster.silent
        if not pending:
            return True
        least, times = self._desk.settings.timeout, self._times[step]  # no median is asked for before
        if waited <= least or (step == 0 and not (times and self._ready(pending, phase))):
            return False
        middle = float(np.median(times)) if times else 0.0
        if times and waited <= middle + SPREADS * float(np.median(np.abs(np.array(times) - middle))):
            return False
        self._desk.roster.silent |= pending
        return True
