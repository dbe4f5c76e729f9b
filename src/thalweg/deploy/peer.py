"""A peer as a process: the algorithm that `solve` simulates, run by one site with its neighbours."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from thalweg.algorithm.base import PeerAlgorithm
from thalweg.engine import Stop, setup
from thalweg.engine.loop import Rules
from thalweg.engine.peers import Peers
from thalweg.message.aggregate import Mixer
from thalweg.message.payload import pack
from thalweg.message.stage import Stage
from thalweg.network import Network
from thalweg.observe import Outcome
from thalweg.problem.scattered import Scattered

from .among import among
from .card import Card, asks_for_constants, card_of
from .compiled import Held
from .halves import Halves
from .membership import Epoch, Membership, TooFew
from .octets import pack_rows
from .post import Kind, Letter, Post
from .seat import Seat, take_seat
from .secret import system_key
from .site import Answer, Settings, Site, Watch

# Seconds that a round takes a site that has no neighbour left.
ALONE = 0.5


class Peer(Site):
    """One site of a run without a centre.

    Args:
        problem: what this site holds, a problem of one agent; its x0 must be the same on all sites.
        algorithm, network, rounds, stop, seed, link, aggregate: as for `thalweg.solve`; the same on all sites. `stop` is decided by
            the sites themselves (`Stop(distributed=True)`), in epochs that have all of them.
        sites: the names of all, in the order of the network's agents. post: this site's end of the network.
        weight: w_i up to a common factor; None: its number of examples, or 1.
        columns: names of the features, which must be the same on all sites.
        run: what all sites must have in common, for example the experiment's hash.
        every: record every so many rounds.
        watch: told of (round, history) at every record.

        simulated_secrets: draw noise for privacy from the seed, as the simulation does, not from the operating system. Then
            nothing is private.
        allowance: rounds in which it sends something, at most, counted in `settings.folder` if there is one; then it leaves. None:
            any number.

    Other randomness is that of the simulation, from a seed that all sites know.

    Raises:
        TypeError, ValueError: an impossible combination, before anything is sent.
    """

    def __init__(
        self,
        problem: Scattered,
        algorithm: PeerAlgorithm,
        network: Network,
        *,
        sites: Sequence[str],
        post: Post,
        rounds: int = 1000,
        stop: Stop | None = None,
        seed: int = 0,
        link: Stage | None = None,
        aggregate: Mixer | None = None,
        weight: float | None = None,
        columns: Sequence[str] = (),
        run: str = "",
        settings: Settings | None = None,
        deterministic: bool = False,
        simulated_secrets: bool = False,
        allowance: int | None = None,
        every: int | None = None,
        watch: Watch | None = None,
    ):
        if post.me not in sites:
            raise ValueError(f"got site {post.me!r}, expected one of {', '.join(sites)}")
        if len(sites) != network.n:
            raise ValueError(f"got {len(sites)} sites and a network of {network.n} agents, expected one site for each agent")
        card = card_of(post.me, run, problem, weight, asks_for_constants(algorithm), columns)
        super().__init__(post, settings, int(rounds), every, watch, allowance)
        self.sites, self.place = tuple(sites), list(sites).index(post.me)
        self.problem, self.algorithm, self.network = problem, algorithm, network
        self.rounds, self.stop, self.seed, self.link, self.mixer = int(rounds), stop, int(seed), link, aggregate
        if stop is not None:
            self.stop = dataclasses.replace(stop, distributed=True)
        self.deterministic = deterministic
        self._secret = None if simulated_secrets else system_key()
        self.card = card
        quorum = self.settings.quorum or len(sites) // 2 + 1
        self.members = Membership(post, sites, self.card, quorum=quorum, timeout=self.settings.timeout, wait=self.settings.wait)
        self._inbox: dict[tuple[int, int, int], dict[str, Any]] = {}
        self._outbox: dict[tuple[int, int, int], dict[str, bytes]] = {}
        self._finished: set[str] = set()
        self._seat: Seat | None = None
        self._logged = self._local = None  # the state in the log, and what it has become

    def ended(self, outcome: Outcome, reason: str) -> Answer:
        return self._answer(None, self.members.round, outcome, reason)

    @property
    def standing(self) -> tuple[int, frozenset[str]]:
        return self.members.epoch, self.members.members

    def _lived(self) -> Answer:
        k, local, done = self._restored(), None, False
        self.members.round = k
        while True:
            if k < self.rounds:
                self._purse.check()  # the others may not come back
            try:
                epoch = self.members.gather(k, self._keep)
            except TooFew as few:
                return self._answer(local, k, Outcome.TOO_FEW_AGENTS, str(few))
            local, k, done = self._enter(epoch), epoch.round, False
            while k < self.rounds and not done:
                after = self._round(local, k)
                if after is None:  # the epoch is over; this round was not finished
                    break
                (local, done), k = after, k + 1
                self._local = local
                if k % self.every == 0 or k == self.rounds:
                    looks = self._look(local, k)
                    if not looks["finite"]:
                        return self._answer(
                            local, k, Outcome.NOT_FINITE, f"site {self.post.me!r} has NaN or infinity in round {k}"
                        )
            else:
                if self._linger(k):
                    if self.history["round"][-1:] != [k]:
                        self._look(local, k)
                    outcome = Outcome.CONVERGED if done else Outcome.ROUND_LIMIT
                    reason = "all sites agreed to stop" if done else f"all {self.rounds} rounds were done"
                    return self._answer(local, k, outcome, reason)

    def _restored(self) -> int:
        """The round that the site's log stands at; 0 where there is none."""
        notes = self._logged_notes()
        if notes is None:
            return 0
        cards = [Card(**card) for card in notes["cards"]]
        self.members.restore(notes["epoch"], cards)
        self._sit(cards)
        entry = self._journal.read(self._halves.begin(self._seat.program).tree.agents.state)
        self._logged = jax.tree.map(jnp.asarray, entry.state)
        self._recall(entry.round)
        return entry.round

    def _sit(self, cards: Sequence[Card]) -> None:
        """Take the seat among all sites, once they are known."""
        problem = among(self.problem, cards, self.place)
        seat = take_seat(
            problem, self.algorithm, self.network, self.place,
            seed=self.seed, link=self.link, mixer=self.mixer, secret=self._secret,
        )  # fmt: skip
        rules = Rules(
            stop=setup.traced_stop(setup.with_diameter(self.stop, self.network, problem), problem.dtype),
            every=jnp.asarray(self.every, jnp.int32),
            reference=jnp.full(ravel_pytree(problem.x0)[0].shape, jnp.nan),
            limit=jnp.asarray(jnp.inf, problem.dtype),
        )
        self._seat, self._halves = seat, Halves(seat, rules, self.deterministic)

    @property
    def _state(self) -> Any:
        """The algorithm's state, as the last whole round left it; None before the first."""
        return self._logged if self._local is None else self._local.tree.agents.state

    def _enter(self, epoch: Epoch) -> Any:
        """Before the first round of an epoch."""
        if self._seat is None:
            self._sit(epoch.cards)
        if self._secret is not None:  # rounds may be done again, and noise that is known from before hides nothing
            self._seat = self._seat.renewed(system_key())
        self._epoch, self.ledger.epochs = epoch, self.ledger.epochs + 1
        self._places = places = frozenset(self.sites.index(site) for site in epoch.members)
        self._program = self._seat.with_members(places)
        self._heard = [self.sites[j] if j in places else "" for j in self._seat.heard.tolist()]
        self._hearing = [self.sites[j] if j in places else "" for j in self._seat.hearing.tolist()]
        self._notes = {"epoch": epoch.number, "cards": [dataclasses.asdict(card) for card in epoch.cards]}
        self._inbox = {key: found for key, found in self._inbox.items() if key[0] >= epoch.number}
        self._outbox.clear()
        self._finished.clear()
        state, first = self._state, self._halves.begin(self._program)
        if state is None and epoch.number == 0:
            return first
        return self._halves.enter(self._program, first.tree.agents.state if state is None else state, state is not None)

    def _round(self, local: Held, k: int) -> tuple[Held, bool] | None:
        """(after round k, whether all sites have agreed to stop); None when the epoch ended meanwhile."""
        self.members.round = k
        if any(self._hearing):
            self._purse.pay()
        if self._journal is not None:
            self._journal.write(self._epoch.number, k, self._notes, local.tree.agents.state)
        before, done, flags = local, False, np.zeros((len(self._heard), self._halves.flags.size), np.uint8)
        for index, messages in enumerate(self._halves.messages):
            leaving = self._halves.depart(self._program, local, k, index)
            self._publish(leaving, k, index)
            heard = np.zeros((len(self._heard), messages.size), np.uint8)
            found = self._await(np.asarray(leaving.awaited), k, index)
            if found is None:
                return None
            broken, lead = set[int](), self._halves.flags.size if index == 0 else 0
            for slot, body in found.items():
                row = np.frombuffer(body, np.uint8)
                # One that came before this site had its seat was not looked at.
                if len(row) == lead + messages.size and messages.finite(row[lead:]):
                    heard[slot], flags[slot, :lead] = row[lead:], row[:lead]
                else:
                    broken.add(self._seat.heard[slot])
            program = self._without(broken) if broken else self._program
            local, done = self._halves.arrive(program, before, local, leaving.gone, k, index, heard, flags)
        return local, self.stop is not None and len(self._epoch.members) == len(self.sites) and bool(done)

    def _without(self, broken: set[int]) -> Peers:
        """The program of a round in which messages of these sites cannot be used: their weight returns to oneself. Whoever sends
        NaN or infinity has lost its own state, and will end itself."""
        self.post.rejected["not finite"] += len(broken)
        return self._seat.with_members(self._places - broken)

    def _publish(self, leaving: Any, k: int, index: int) -> None:
        flags, common, to = pack(leaving.flags.leaves), pack(leaving.common.leaves), np.asarray(leaving.to).tolist()
        slots = self._seat.slot_of.tolist()
        told = {site: slot for site, slot, due in zip(self._hearing, slots, to, strict=True) if site and due}
        each = pack_rows(leaving.each, told.values())
        bodies = {site: b"".join((flags, common, own)) for site, own in zip(told, each, strict=True)}
        for key in [key for key in self._outbox if key[1] < k - 1]:
            del self._outbox[key]
        self._outbox[self._epoch.number, k, index] = bodies
        for site, body in bodies.items():
            self._send(site, k, index, body)
            self.ledger.payload += len(body) - len(flags)
            self.ledger.headers += len(flags)
            self.ledger.messages += index == 0

    def _send(self, site: str, k: int, index: int, body: bytes) -> None:
        self.post.send(site, Letter(Kind.MESSAGE, self._epoch.number, k, index, body))

    def _await(self, awaited: np.ndarray, k: int, index: int) -> dict[int, Any] | None:
        """Slot → body of the messages of a phase; None when the epoch ended meanwhile."""
        key = (self._epoch.number, k, index)
        wanted = {site: slot for slot, site in enumerate(self._heard) if site and awaited[slot]}
        if not any(self._heard) and not any(self._hearing) and len(self._epoch.members) > 1:
            return self._alone()
        found = self._inbox.setdefault(key, {})
        asked = time.monotonic()
        while not wanted.keys() <= found.keys():
            letter = self.post.receive(self.settings.timeout)
            if letter is not None:
                self._take(letter)
            if (letter is None or letter.kind is not Kind.MESSAGE) and self.members.disturbed():
                return None
            if time.monotonic() - asked > self.settings.timeout:
                asked = time.monotonic()
                self.members.tell()  # the others may have gone on without this site, which knows nothing of it
                for site in wanted.keys() - found.keys():
                    self.post.send(site, Letter(Kind.AGAIN, *key))
        self._inbox = {key: bodies for key, bodies in self._inbox.items() if key > (self._epoch.number, k, index)}
        return {slot: found[site] for site, slot in wanted.items()}

    def _alone(self) -> dict[int, Any] | None:
        """A round of a site without neighbours in this epoch: it waits for news, and takes its time. It would else run far ahead,
        and the others would have to follow it when they meet again; only once they have ended does it hurry."""
        end = time.monotonic() + ALONE
        while not self._finished and (left := end - time.monotonic()) > 0:
            letter = self.post.receive(left)
            if letter is not None:
                self._take(letter)
            if self.members.disturbed():
                return None
        return None if self.members.disturbed() else {}

    def _take(self, letter: Letter) -> None:
        """A letter during a round."""
        if letter.kind in (Kind.MESSAGE, Kind.AGAIN, Kind.DONE):
            self._keep(letter)
        else:
            self.members.hear(letter)

    def _keep(self, letter: Letter) -> None:
        """A letter that is not about membership."""
        key = (letter.epoch, letter.round, letter.phase)
        if letter.kind is Kind.AGAIN:
            body = self._outbox.get(key, {}).get(letter.sender)
            if body is not None:
                self.ledger.again += 1
                self._send(letter.sender, letter.round, letter.phase, body)
        elif letter.kind is Kind.DONE:
            self._finished.add(letter.sender)
        elif self._fits(letter):
            self._inbox.setdefault(key, {})[letter.sender] = letter.body

    def _fits(self, letter: Letter) -> bool:
        """Whether a message is of this epoch, or the next, and of the right size; others are counted."""
        if letter.epoch < self.members.epoch:
            return self._reject("stale")
        if self._seat is not None:
            lead, messages = self._halves.flags.size if letter.phase == 0 else 0, self._halves.messages
            if letter.phase >= len(messages) or len(letter.body) != messages[letter.phase].size + lead:
                return self._reject("wrong size")
        # Of each sender by itself: one that sends what nobody waits for shuts out nobody else.
        waiting = sum(letter.sender in bodies for bodies in self._inbox.values())
        if letter.round != self.members.round and (letter.round >= self.rounds or waiting > 4 * self.network.n):
            return self._reject("too far ahead")
        return True

    def _reject(self, why: str) -> bool:
        self.post.rejected[why] += 1
        return False

    def _look(self, local: Held, k: int) -> dict[str, float]:
        looks = self._halves.look(self._program, local)
        self._record(k, {"loss": looks["loss"], "bytes": self.ledger.payload})
        return looks

    def _linger(self, k: int) -> bool:
        """Stay until the others have ended too, to send them again what they missed; False when a new epoch begins instead."""
        self.members.round = k
        for site in self._epoch.members - {self.post.me}:
            self.post.send(site, Letter(Kind.DONE, self._epoch.number, k))
        missing, last = self._epoch.members - {self.post.me} - self._finished, time.monotonic()
        # Whoever has done its last round may leave; one that is gone before has lost its place in this epoch.
        while missing & self.post.present() and time.monotonic() - last < self.settings.wait:
            letter = self.post.receive(min(1.0, self.settings.timeout))
            if letter is not None:
                self._take(letter)
                last = time.monotonic()
            if self.members.proposed:
                return False
            missing = missing - self._finished
        return True

    def _answer(self, local: Held | None, k: int, outcome: Outcome, reason: str) -> Answer:
        x = None
        if local is None and (state := self._state) is not None:  # what the log holds
            local = self._halves.enter(self._seat.program, state, True)
        if local is not None:
            row = self._halves.estimate(self._seat.program, local)
            x = ravel_pytree(self._seat.program.problem.x0)[1](jnp.asarray(row))
        said = () if self._seat is None else self._seat.said
        algorithm = None if self._seat is None else self._seat.algorithm
        return self._answered(x, outcome, reason, k, warnings=said, algorithm=algorithm)
