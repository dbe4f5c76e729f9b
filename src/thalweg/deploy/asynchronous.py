"""A peer without rounds as a process: the algorithm that the event-driven engine simulates, run by one site with its neighbours."""

import dataclasses
import time
from collections.abc import Iterable, Sequence, Set

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from thalweg.algorithm.asynchronous.base import AsynchronousAlgorithm
from thalweg.engine import Stop
from thalweg.message.payload import pack
from thalweg.network import Network
from thalweg.observe import Outcome
from thalweg.problem import Problem

from .acquaintance import AGAIN, LARGEST, Acquaintance
from .among import among
from .async_steps import Steps
from .card import Card, asks_for_constants, card_of
from .event_log import EventLog
from .membership import TooFew
from .octets import pack_rows
from .post import Kind, Letter, Post
from .rest import Rest
from .site import Answer, Settings, Site, Watch

# Phases of a letter `DONE`: its sender has done its part, or takes that back, or leaves without, for good.
PART_DONE, NOT_YET, GIVES_UP = range(3)


class AsynchronousPeer(Site):
    """One site of a run without a centre and without rounds. It wakes by its own clock, and hears messages as they come; of those
    that came while it had no time, the newest of each neighbour.

    It has done its part after `wakes` wakes, after `seconds`, or when it has come to rest (`stop`), whichever is first; it goes on,
    so that the others have somebody to talk to, until each of them has done its part or is given up. Who moves again takes back
    that it had come to rest. A site is given up that has been away for `settings.wait`, or is away after `seconds`. One that is
    alone for as long ends with `TOO_FEW_AGENTS`, and can be started again from its log.

    Args:
        problem: what this site holds, a problem of one agent; its x0 must be the same on all sites.
        algorithm, network, seed: as for `thalweg.solve`; the same on all sites.
        sites: the names of all, in the order of the network's agents. post: this site's end of the network.
        wakes, seconds: as said; None for no such limit, of one of them.
        stop: `progress` and `patience` of a `tw.Stop`; None: no such rule. It sees that nobody moves, and not that all agree: at
            a fixed point they do.
        period: seconds between two wakes; 0: whenever a message has come, and `settings.timeout` after the last wake at the latest.
        weight: w_i up to a common factor; None: its number of examples, or 1.
        columns: names of the features, which must be the same on all sites.
        run: what all sites must have in common, for example the experiment's hash.
        settings: of which `wait` is how long to wait for all sites before the first wake, and for one that went away, and `folder`
            has the log. `quorum` has no meaning: each goes on by itself.
        record: keep the order of events, for a replay by `tw.EventDriven(events=tw.Events.merged(…))`.
        every: look at the own loss every so many wakes.
        watch: told of (wakes, history) at every look.

    Raises:
        TypeError, ValueError: an impossible combination, before anything is sent.
    """

    def __init__(
        self,
        problem: Problem,
        algorithm: AsynchronousAlgorithm,
        network: Network,
        *,
        sites: Sequence[str],
        post: Post,
        wakes: int | None = 1000,
        seconds: float | None = None,
        stop: Stop | None = None,
        period: float = 0.0,
        seed: int = 0,
        weight: float | None = None,
        columns: Sequence[str] = (),
        run: str = "",
        settings: Settings | None = None,
        deterministic: bool = False,
        record: bool = False,
        every: int | None = None,
        watch: Watch | None = None,
    ):
        _check(problem, algorithm, network, sites, post, wakes, seconds, period)
        card = card_of(post.me, run, problem, weight, asks_for_constants(algorithm), columns)
        super().__init__(post, settings, wakes or 20_000, every, watch)
        self.sites, self.place = tuple(sites), list(sites).index(post.me)
        self.problem, self.algorithm, self.network, self.seed = problem, algorithm, network, int(seed)
        self.wakes, self.seconds, self.period = wakes, seconds, period
        self.deterministic = deterministic
        self.card = card
        self.others = Acquaintance(post, sites, self.card, self.settings.wait)
        self._events = EventLog(self.settings.folder) if record else None
        self._rest, self._finished = Rest(stop), set[str]()
        self._last_here, self._parted = dict[str, float](), set[str]()
        # The number of the next wake, and how many numbers were left out, because others knew them of a life that is forgotten.
        self._number, self._skipped, self._steps = 0, 0, None
        self._state = self._newest = None
        self._unheard: dict[str, Letter] = {}

    def ended(self, outcome: Outcome, reason: str) -> Answer:
        return self._answer(outcome, reason)

    @property
    def standing(self) -> tuple[int, frozenset[str]]:
        """(−1 before the first wake, then 0; who is there)."""
        return (-1 if self._steps is None else 0), self.post.present() | {self.post.me}

    def _lived(self) -> Answer:
        if not self._restored():
            try:
                cards = self.others.gather()
            except TooFew as few:
                return self._answer(Outcome.TOO_FEW_AGENTS, str(few))
            self._sit(cards)
            if self._events is not None:
                self._events.begin()
        due, told, said = time.monotonic(), 0.0, None
        self._last_here = dict.fromkeys(set(self.sites) - {self.post.me}, due)
        while True:
            new = self.others.greet()
            self._renumber()
            done = self._done()
            if done != said or (done and time.monotonic() > told + AGAIN):
                told, said = time.monotonic(), done
                new = self.post.present()
            self._tell(PART_DONE if done else NOT_YET, new)
            awaited, missing = self._awaited(), self._last_here.keys() - self._finished
            if done and not awaited - self._finished and (awaited or self._late or not missing):
                return self._ended(missing)
            if self._last_here and not awaited:
                why = f"alone after {self._woken} wakes; missing: {', '.join(sorted(self._last_here))}"
                return self._answer(Outcome.TOO_FEW_AGENTS, why)
            # Nobody needs it now but who may come back.
            idle = done and self.post.present() & self._last_here.keys() <= self._finished
            if self._wait(due, idle):
                pace = self.settings.timeout if idle or not self.period else self.period
                due = max(due + pace, time.monotonic()) if self.period else time.monotonic() + pace
                self._wake()
                if self._woken % self.every == 0 and not self._look():
                    self._tell(GIVES_UP, self.post.present())
                    why = f"site {self.post.me!r} has NaN or infinity after {self._woken} wakes"
                    return self._answer(Outcome.NOT_FINITE, why)

    def _restored(self) -> bool:
        """Whether there is a log; then the site goes on from it."""
        notes = self._logged_notes()
        if notes is None:
            return False
        cards = [Card(**card) for card in notes["cards"]]
        self.others.restore(cards)
        self._sit(cards)
        entry = self._journal.read((self._state.tree, self._newest))
        self._state, self._newest = jax.tree.map(jnp.asarray, entry.state[0]), np.array(entry.state[1])
        self._number, self._skipped = entry.round + 1, entry.notes["skipped"]
        self._finished = set(entry.notes.get("finished", ()))
        self._recall(self._woken)
        self.others.seen = {site: int(self._newest[slot]) for site, slot in self._slots.items()}
        if self._events is not None:
            self._events.restore(entry.round)
        return True

    def _sit(self, cards: Sequence[Card]) -> None:
        """Take the seat among all sites, once they are known."""
        problem = among(self.problem, cards, self.place)
        self._steps = Steps(problem, self.algorithm, self.network, self.place, self.seed, self.deterministic)
        self._slots = {self.sites[j]: slot for slot, j in enumerate(self._steps.heard.tolist()) if j >= 0}
        self._hearing = [self.sites[j] for j in self._steps.hearing.tolist()]
        self._notes = {"cards": [dataclasses.asdict(card) for card in cards]}
        self._state, self._newest = self._steps.begin(), np.full(len(self._steps.heard), -1, np.int32)

    def _renumber(self) -> None:
        """Go on behind what others have heard of this site, and it does not remember."""
        if self.others.next > self._number:
            self._skipped += self.others.next - self._number
            self._number = self.others.next
            if self._events is not None:
                self._events.tear()

    def _wait(self, due: float, idle: bool) -> bool:
        """Take what comes until it is time to wake; false after a while, for a look at who is there. Who is `idle` does not wake
        at a message."""
        look = time.monotonic() + 0.25
        while True:
            now = time.monotonic()
            ready = now >= due or (bool(self._unheard) and not self.period and not idle)
            letter = self.post.receive(0.0 if ready or self._unheard else max(0.0, min(due, look) - now))
            if letter is None:
                self._hear()
                return ready or time.monotonic() >= due
            self._take(letter)
            if now >= look:
                return ready

    def _take(self, letter: Letter) -> None:
        if letter.kind is Kind.MESSAGE:
            if (slot := self._fits(letter)) is not None:
                self._unheard[letter.sender], self._newest[slot] = letter, letter.round
                self.others.seen[letter.sender] = letter.round
        elif letter.kind is Kind.DONE:
            for said, phase in ((self._finished, PART_DONE), (self._parted, GIVES_UP)):
                (said.add if letter.phase == phase else said.discard)(letter.sender)
        else:
            self.others.hear(letter)

    def _fits(self, letter: Letter) -> int | None:
        """The slot of the sender of a message that can be used; others are counted."""
        slot = self._slots.get(letter.sender)
        why = None
        if slot is None:
            why = "unknown site"
        elif letter.round >= 2 * LARGEST:
            why = "malformed"
        elif len(letter.body) != self._steps.message.size:
            why = "wrong size"
        elif letter.round <= self._newest[slot]:
            why = "stale"
        elif not self._steps.message.finite(np.frombuffer(letter.body, np.uint8)):
            why = "not finite"
        if why is not None:
            self.post.rejected[why] += 1
            return None
        return slot

    def _hear(self) -> None:
        """Hear the newest message of each neighbour: all that came, where there was time for them, and else none is behind."""
        for sender, letter in self._unheard.items():
            body = np.frombuffer(letter.body, np.uint8)
            self._state = self._steps.hear(self._state, body, self._slots[sender], self._number)
            self._rest.hear(sender)
            if self._events is not None:
                self._events.hear(self.sites.index(sender), letter.round)
        self._unheard.clear()

    def _wake(self) -> None:
        """Wake, write it down, and only then tell: what others have heard is never taken back."""
        number = self._number
        self._hear()
        self._state, message = self._steps.wake(self._state, number)
        self._number = number + 1
        if self._events is not None:
            self._events.wake(number)
        if self._journal is not None:
            notes = self._notes | {"skipped": self._skipped, "finished": sorted(self._finished)}
            self._journal.write(0, number, notes, (self._state.tree, self._newest))
        if self._rest.due(self.post.present() & self._slots.keys()):
            self._rest.look(self._steps.estimate(self._state), self._woken)
        common, each = pack(message.common.leaves), pack_rows(message.each, self._steps.slot_of.tolist())
        for site, own in zip(self._hearing, each, strict=True):
            body = common + own
            self.post.send(site, Letter(Kind.MESSAGE, round=number, body=body))
            self.ledger.payload += len(body)
            self.ledger.messages += 1

    def _awaited(self) -> frozenset[str]:
        """Other sites that are here, or may come back."""
        now, wait = time.monotonic(), 0.0 if self._late else self.settings.wait
        self._last_here |= dict.fromkeys(self.post.present() & self._last_here.keys(), now)
        return frozenset(site for site, last in self._last_here.items() if now - last <= wait) - self._parted

    def _done(self) -> bool:
        """Whether this site has done its part."""
        return self._spent or self._rest.calm

    @property
    def _spent(self) -> bool:
        """Whether its wakes or seconds are over."""
        return self._late or (self.wakes is not None and self._woken >= self.wakes)

    @property
    def _late(self) -> bool:
        return self.seconds is not None and self._age >= self.seconds

    @property
    def _woken(self) -> int:
        """How often this site has woken, as far as it remembers."""
        return self._number - self._skipped

    def _look(self) -> bool:
        """Look at the own loss; whether everything is finite."""
        looks = self._steps.look(self._state)
        self._record(self._woken, {"loss": looks["loss"].item(), "bytes": self.ledger.payload})
        return bool(looks["finite"])

    def _tell(self, phase: int, sites: Iterable[str]) -> None:
        for site in sites:
            self.post.send(site, Letter(Kind.DONE, round=self._number, phase=phase))

    def _ended(self, missing: Set[str]) -> Answer:
        self._tell(PART_DONE, self.post.present())  # also who has come since; or it would wait for this site
        self._hear()
        if self.history["round"][-1:] != [self._woken]:
            self._look()
        gone = f"; gone before they had: {', '.join(sorted(missing))}" if missing else ""
        if self._rest.calm:
            return self._answer(
                Outcome.CONVERGED, f"at rest after {self._woken} wakes, and all others have done their part{gone}"
            )
        return self._answer(Outcome.ROUND_LIMIT, f"{self._woken} wakes, and all others have done their part{gone}")

    def _answer(self, outcome: Outcome, reason: str) -> Answer:
        x = None
        if self._state is not None:
            x = ravel_pytree(self._steps.program.problem.x0)[1](jnp.asarray(self._steps.estimate(self._state)))
        return self._answered(
            x, outcome, reason, self._woken,
            algorithm=None if self._steps is None else self._steps.algorithm,
            events=None if self._events is None else self._events.rows,
        )  # fmt: skip


def _check(problem, algorithm, network, sites, post, wakes, seconds, period) -> None:
    """What cannot be.

    Raises:
        TypeError, ValueError: it was asked for.
    """
    if not isinstance(algorithm, AsynchronousAlgorithm):
        raise TypeError(
            f"AsynchronousPeer: got {type(algorithm).__name__}, expected a method without rounds (tw.asynchronous); others are for "
            "tw.deploy.Peer"
        )
    if problem.drifts:
        raise ValueError("AsynchronousPeer: got a problem that changes from round to round, and there are no rounds")
    if network.failures.any:
        raise ValueError(
            f"AsynchronousPeer: got a network with {network.failures}, expected none: messages of sites are really lost, or not"
        )
    if post.me not in sites:
        raise ValueError(f"got site {post.me!r}, expected one of {', '.join(sites)}")
    if len(sites) != network.n:
        raise ValueError(f"got {len(sites)} sites and a network of {network.n} agents, expected one site for each agent")
    if wakes is None and seconds is None:
        raise ValueError("AsynchronousPeer(wakes=None, seconds=None): expected one of them, or it would never end")
    for name, value, least in (("wakes", wakes, 1), ("seconds", seconds, 0), ("period", period, 0)):
        if value is not None and not value >= least:
            raise ValueError(f"AsynchronousPeer({name}={value!r}): expected a number ≥ {least}")
