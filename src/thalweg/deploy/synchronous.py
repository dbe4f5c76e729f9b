"""A server that waits in every round: for all it has asked, or for a quorum and as long as answers usually take.

Axes: `n` clients, `c` slots of the cohort.
"""

import collections
import time
from typing import Any

import numpy as np

from .desk import NEVER, Desk
from .membership import TooFew
from .rounds import ServerRounds

# A round is closed this many median absolute deviations after the median time of an answer (and not before the time-out).
SPREADS = 8
# Answers of which these are taken.
REMEMBERED = 256


class Synchronous:
    """Rounds of a server.

    Attributes:
        accepted: `[n]`, the last round of which a client's message was accepted.
    """

    def __init__(self, desk: Desk, rounds: ServerRounds):
        self._desk, self._rounds = desk, rounds
        self.accepted = np.full(len(desk.sites), NEVER, np.int32)
        self._times: collections.deque[float] = collections.deque(maxlen=REMEMBERED)

    @property
    def memory(self) -> Any:
        """What a restart needs beside what the algorithm keeps."""
        return self.accepted

    @memory.setter
    def memory(self, found: Any) -> None:
        self.accepted = np.array(found)

    def update(self, central: Any, k: int) -> tuple[Any, dict[str, float], int]:
        """Round k: (central, scalars to report, clients whose message was accepted).

        Raises:
            TooFew: less than a quorum has answered for as long as one waits.
        """
        desk, scalars = self._desk, {}
        draw = self._rounds.draw(central, k)
        members, arrived = np.asarray(draw.members), np.array(draw.valid)
        for index, specs in enumerate(self._rounds.specs):
            central, common, own = self._rounds.down(central, draw.members, k, index)
            common, own = np.asarray(common).tobytes(), np.asarray(own)
            slots = {desk.sites[members[slot]]: slot for slot in np.flatnonzero(arrived)}
            found = self._collect({site: common + own[slot].tobytes() for site, slot in slots.items()}, k, index)
            heard = np.zeros((len(members), specs.sizes["up"]), np.uint8)
            arrived[:] = False
            for site, body in found.items():
                heard[slots[site]], arrived[slots[site]] = np.frombuffer(body, np.uint8), True
            central, accepted, scalars = self._rounds.up(central, draw, arrived, heard, k, index)
            desk.post.rejected["not finite"] += int(np.sum(arrived & ~np.asarray(accepted)))
            arrived = np.array(accepted)
        self.accepted[members[arrived]] = k
        return central, {name: float(value) for name, value in scalars.items()}, int(arrived.sum())

    def _collect(self, bodies: dict[str, bytes], k: int, index: int) -> dict[str, Any]:
        """Ask clients, and take their answers until the phase is closed."""
        desk, size = self._desk, self._rounds.specs[index].sizes["up"]
        asked, found, began = dict[str, float](), dict[str, Any](), time.monotonic()
        need, heard_at = min(desk.settings.quorum or len(bodies) // 2 + 1, len(bodies)), began
        while True:
            now = time.monotonic()
            for site in bodies.keys() & desk.roster.here - found.keys():
                if site not in asked or (site in desk.roster.proved and now - asked[site] > desk.settings.timeout):
                    numbers = int(self.accepted[desk.sites.index(site)]), k
                    desk.ask(site, k, index, numbers, bodies[site], again=site in asked)
                    asked[site] = now
            if len(found) >= need and self._closed(bodies.keys() & desk.roster.here - found.keys(), now - began):
                return found
            if now - heard_at > desk.settings.wait:
                missing = [site for site in bodies if site not in found]
                have = f"{len(found)} of {len(bodies)} clients answered, expected {need}"
                raise TooFew(f"{have}; missing: {', '.join(missing)}", missing)
            letter = desk.receive(0.05 if len(found) >= need else 0.2)
            asked = {site: at for site, at in asked.items() if site in desk.roster.here}  # who comes back is asked again
            if letter is None or not desk.answer(letter, size):
                continue
            if (letter.round, letter.phase) != (k, index) or letter.sender not in bodies or letter.sender in found:
                desk.reject("stale")
                continue
            found[letter.sender], heard_at = letter.body, time.monotonic()
            if letter.sender in desk.roster.proved:  # the first answer takes a compilation
                self._times.append(heard_at - began)
            desk.take(letter)

    def _closed(self, pending: set[str], waited: float) -> bool:
        """Whether those who have not answered need not be waited for; nor in later rounds, until they are heard of."""
        pending = pending - self._desk.roster.silent
        if not pending:
            return True
        least = self._desk.settings.timeout  # no median is asked for before
        if waited <= least or not pending <= self._desk.roster.proved or not self._times:
            return False
        times = np.array(self._times)
        middle = float(np.median(times))
        if waited <= max(least, middle + SPREADS * float(np.median(np.abs(times - middle)))):
            return False
        self._desk.roster.silent |= pending
        return True
