"""A server as a process: it asks the clients of a cohort, waits for a quorum and as long as answers usually take, and updates."""

import collections
import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from thalweg.message.payload import pack
from thalweg.observe import Outcome
from thalweg.problem import Coupled
from thalweg.problem.scattered import Scattered

from .card import Card, among, layout
from .client import ACCEPTED
from .federation import Plan
from .journal import Journal
from .membership import TooFew
from .post import Kind, Letter, Post
from .roster import Roster
from .rounds import ServerRounds
from .secret import system_key
from .site import Answer, Ledger, Settings

# A round is closed this many median absolute deviations after the median time of an answer (and not before the time-out).
SPREADS = 8
# Answers of which these are taken.
REMEMBERED = 256


class Server:
    """The server of a run.

    Args:
        problem: a problem of one agent of the clients' form; its data are not looked at, and may be zeros.
        plan: what all sites do alike.
        sites: the clients' names, in their order. post: this site's end of the network.
        columns, run, settings, simulated_secrets, every, watch: as for `Client`. A round needs
            `settings.quorum` answers, and as many as were asked where that is less.

    Raises:
        TypeError, ValueError: an impossible combination, before anything is sent.
    """

    def __init__(
        self,
        problem: Scattered,
        plan: Plan,
        *,
        sites: Sequence[str],
        post: Post,
        columns: Sequence[str] = (),
        run: str = "",
        settings: Settings | None = None,
        simulated_secrets: bool = False,
        every: int | None = None,
        watch: Callable[[int, dict[str, list[float]]], None] | None = None,
    ):
        if post.me in sites:
            raise ValueError(f"the server and a client are both called {post.me!r}, expected names that differ")
        self.problem, self.plan, self.sites, self.post = problem, plan, tuple(sites), post
        self.settings, self.roster = (
            settings or Settings(),
            Roster(post, self.sites, Card(post.me, run, layout(problem), columns=list(columns))),
        )
        self.every, self.watch = max(1, plan.rounds // 200) if every is None else every, watch
        self.ledger, self.history, self.warnings = Ledger(), {}, ()
        self._secret = None if simulated_secrets else system_key()
        self._journal = None if self.settings.folder is None else Journal(self.settings.folder, self.settings.fsync)
        self._rounds: ServerRounds | None = None
        self._central: Any = None
        self._accepted = np.full(len(sites), -1)
        self._epoch = self._round = 0
        self._times: collections.deque[float] = collections.deque(maxlen=REMEMBERED)

    def run(self) -> Answer:
        """Lead the run to its end.

        Raises:
            ValueError: a client does not fit, before the first round.
        """
        try:
            return self._lived()
        finally:
            self.post.close()

    def interrupted(self, reason: str) -> Answer:
        """What there is after `run` was ended from outside, by an error of the post's."""
        return self._answer(Outcome.INTERRUPTED, reason)

    @property
    def standing(self) -> tuple[int, frozenset[str]]:
        """(number of the epoch, −1 before the first; the server and the clients that have joined)."""
        return (-1 if self._rounds is None else self._epoch), frozenset({self.post.me, *self.roster.here})

    def _lived(self) -> Answer:
        self._began = time.monotonic()
        outcome, reason = Outcome.ROUND_LIMIT, f"all {self.plan.rounds} rounds were done"
        try:
            self._assemble()
            while self._round < self.plan.rounds:
                self._log()
                scalars, participants = self._one_round()
                self._round += 1
                if not self._record(scalars, participants):
                    outcome, reason = Outcome.NOT_FINITE, f"the answer is NaN or infinite after round {self._round - 1}"
                    break
        except TooFew as few:
            return self._answer(Outcome.TOO_FEW_AGENTS, str(few))
        self._log()
        self._part(outcome, reason)
        return self._answer(outcome, reason)

    # -- who is there ------------------------------------------------------------------------------

    def _assemble(self) -> None:
        """Wait until all clients are known, or go on from the log."""
        notes = None if self._journal is None else self._journal.notes()
        if notes is not None:
            self.roster.cards = {card["name"]: Card(**card) for card in notes["cards"]}
            self._begin()
            like = (self._central, np.zeros(len(self.sites), np.int32))
            entry = self._journal.read(like)
            self._central, self._accepted = jax.tree.map(jnp.asarray, entry.state[0]), np.array(entry.state[1], int)
            self._epoch, self._round, self.history = entry.epoch + 1, entry.round, notes["history"]
            back = time.monotonic() + self.settings.timeout  # clients that are still there are to be in the first round
            while self.roster.here != set(self.sites) and time.monotonic() < back:
                self._receive(0.1)
            return
        since = time.monotonic()
        while missing := self.roster.unknown():
            if time.monotonic() - since > self.settings.wait:
                have = f"{len(self.sites) - len(missing)} of {len(self.sites)} clients have come"
                raise TooFew(f"{have}, missing: {', '.join(missing)}", missing)
            self._receive(0.2)
        self._begin()
        for site in self.roster.joined():
            self._start(site)

    def _begin(self) -> None:
        problem = among(self.problem, self.roster.in_order(), None)
        program, said = self.plan.program(problem, self._secret)
        self._rounds, self.warnings = ServerRounds(program, self.plan.deterministic), tuple(said)
        self._central = self._rounds.begin()

    def _receive(self, timeout: float) -> Letter | None:
        """The next message of a client; whoever has joined meanwhile is given the run."""
        letter = self.roster.receive(timeout, begun=self._rounds is not None)
        if self._rounds is not None:
            for site in self.roster.joined():
                self._start(site)
        return letter

    def _start(self, site: str) -> None:
        body = json.dumps([dataclasses.asdict(card) for card in self.roster.in_order()]).encode()
        self.post.send(site, Letter(Kind.START, self._epoch, self._round, body=body))

    # -- rounds ------------------------------------------------------------------------------------

    def _one_round(self) -> tuple[dict[str, float], int]:
        """(scalars to report, clients whose message was accepted)."""
        central, k, scalars = self._central, self._round, {}
        draw = self._rounds.draw(central, k)
        members, arrived = np.asarray(draw.members), np.array(draw.valid)
        for index, specs in enumerate(self._rounds.specs):
            central, common, own = self._rounds.down(central, draw, k, index)
            common, own = np.asarray(common).tobytes(), np.asarray(own)
            bodies = {
                self.sites[members[slot]]: ACCEPTED.pack(self._accepted[members[slot]]) + common + own[slot].tobytes()
                for slot in np.flatnonzero(arrived)
            }
            found, heard = self._collect(bodies, k, index), np.zeros((len(members), specs.sizes["up"]), np.uint8)
            for slot in np.flatnonzero(arrived):
                body = found.get(self.sites[members[slot]])
                arrived[slot] = body is not None
                if body is not None:
                    heard[slot] = np.frombuffer(body, np.uint8)
            central, accepted, scalars = self._rounds.up(central, draw, arrived, heard, k, index)
            accepted = np.array(accepted)
            self.post.rejected["not finite"] += int(np.sum(arrived & ~accepted))
            arrived = accepted
        self._accepted[members[arrived]] = k
        self._central = central
        return {name: float(value) for name, value in scalars.items()}, int(arrived.sum())

    def _collect(self, bodies: dict[str, bytes], k: int, index: int) -> dict[str, Any]:
        """Ask clients, and take their answers until the round is closed.

        Raises:
            TooFew: less than a quorum has answered for as long as one waits.
        """
        key, size = (self._epoch, k, index), self._rounds.specs[index].sizes["up"]
        asked, found, began = dict[str, float](), dict[str, Any](), time.monotonic()
        need, heard_at = min(self.settings.quorum or len(bodies) // 2 + 1, len(bodies)), began
        while True:
            now = time.monotonic()
            for site in bodies.keys() & self.roster.here - found.keys():
                if site not in asked or now - asked[site] > self.settings.timeout:
                    self._send(site, key, bodies[site], again=site in asked)
                    asked[site] = now
            if len(found) >= need and self._closed(bodies.keys() & self.roster.here - found.keys(), now - began):
                return found
            if now - heard_at > self.settings.wait:
                missing = [site for site in bodies if site not in found]
                have = f"{len(found)} of {len(bodies)} clients answered, expected {need}"
                raise TooFew(f"{have}; missing: {', '.join(missing)}", missing)
            letter = self._receive(0.05 if len(found) >= need else 0.2)
            if letter is None or letter.kind is not Kind.MESSAGE:
                asked = {site: at for site, at in asked.items() if site in self.roster.here}  # who comes back is asked again
                continue
            if (letter.epoch, letter.round, letter.phase) != key or letter.sender not in bodies or letter.sender in found:
                self.post.rejected["stale"] += 1
            elif len(letter.body) != size:
                self.post.rejected["wrong size"] += 1
            else:
                found[letter.sender], heard_at = letter.body, time.monotonic()
                self.ledger.received += size
                if letter.sender in self.roster.proved:  # the first answer takes a compilation
                    self._times.append(heard_at - began)
                self.roster.proved.add(letter.sender)

    def _closed(self, pending: set[str], waited: float) -> bool:
        """Whether those who have not answered need not be waited for; they are not in later rounds either, until they answer."""
        pending = pending - self.roster.silent
        if not pending:
            return True
        if not pending <= self.roster.proved or not self._times:
            return False
        times = np.array(self._times)
        middle = float(np.median(times))
        limit = max(self.settings.timeout, middle + SPREADS * float(np.median(np.abs(times - middle))))
        if waited <= limit:
            return False
        self.roster.silent |= pending
        return True

    def _send(self, site: str, key: tuple[int, int, int], body: bytes, again: bool) -> None:
        self.ledger.again += again
        if not again:
            self.ledger.payload += len(body) - ACCEPTED.size
            self.ledger.headers += ACCEPTED.size
            self.ledger.messages += key[2] == 0
        self.post.send(site, Letter(Kind.MESSAGE, *key, body))

    # -- records -----------------------------------------------------------------------------------

    def _log(self) -> None:
        """What a restart needs, before a round begins: a round is done, or it is done again."""
        if self._journal is None:
            return
        notes = {"cards": [dataclasses.asdict(card) for card in self.roster.in_order()], "history": self.history}
        self._journal.write(self._epoch, self._round, notes, (self._central, self._accepted.astype(np.int32)))

    def _record(self, scalars: dict[str, float], participants: int) -> bool:
        """Whether the answer is finite."""
        if self._round % self.every and self._round != self.plan.rounds:
            return True
        row = {
            "round": self._round,
            "seconds": time.monotonic() - self._began,
            "participants": participants,
            "bytes": self.ledger.payload + self.ledger.received,
            **scalars,
        }
        for name, value in row.items():
            self.history.setdefault(name, []).append(value)
        if self.watch is not None:
            self.watch(self._round, self.history)
        return bool(np.isfinite(np.asarray(self._rounds.answer(self._central))).all())

    def _part(self, outcome: Outcome, reason: str) -> None:
        """Tell everybody who is there, and who comes until the last has heard it."""
        told = json.dumps({"outcome": outcome.value, "reason": reason}).encode()
        last = len(told).to_bytes(4, "little") + told + pack(self._central.state)
        asked, heard, since = dict[str, float](), set[str](), time.monotonic()
        while (waiting := self.roster.here - heard) or self.roster.met - heard:
            now = time.monotonic()
            for site in waiting:
                if now - asked.get(site, -np.inf) > self.settings.timeout:
                    asked[site] = now
                    body = ACCEPTED.pack(self._accepted[self.sites.index(site)]) + last
                    self.post.send(site, Letter(Kind.DONE, self._epoch, self._round, body=body))
            letter = self._receive(0.2)
            if letter is not None and letter.kind is Kind.DONE:
                heard.add(letter.sender)
            if now - since > self.settings.wait:
                return

    def _answer(self, outcome: Outcome, reason: str) -> Answer:
        x = None
        if self._rounds is not None:
            row = jnp.asarray(self._rounds.answer(self._central))
            market = isinstance(self.problem, Coupled)
            x = self.problem.at(self._round).coupling.project(row) if market else ravel_pytree(self.problem.x0)[1](row)
        rejected = {why: int(count) for why, count in self.post.rejected.items() if count}
        return Answer(self.post.me, x, outcome, reason, self._round, self.history, self.ledger, rejected, self.warnings)
