"""A peer as a process: the algorithm that `solve` simulates, run by one site with its neighbours."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from thalweg.algorithm.base import PeerAlgorithm
from thalweg.engine import Stop, setup
from thalweg.engine.loop import Rules
from thalweg.engine.stop import Flags
from thalweg.message.aggregate import Mixer
from thalweg.message.stage import Stage
from thalweg.network import Network
from thalweg.observe import Outcome
from thalweg.problem.scattered import Scattered

from .card import Card, among, card_of
from .halves import Halves
from .journal import Journal
from .membership import Epoch, Membership, TooFew
from .post import Kind, Letter, Post
from .seat import Seat, take_seat


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a site deals with others that fail.

    Attributes:
        timeout: seconds without a message after which it is asked for again; the post calls a silent site gone after as many.
        wait: seconds to wait for sites that are missing, before the run begins or when too few are left.
        quorum: sites without whom no epoch begins; None: more than half.
        folder: of the site's log, from which it goes on after it was killed; None: no log.
        fsync: wait for the disk in every round (see `Journal`).
    """

    timeout: float = 5.0
    wait: float = 600.0
    quorum: int | None = None
    folder: Path | None = None
    fsync: bool = False

    def __post_init__(self):
        for name in ("timeout", "wait"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected a positive number of seconds")
        if self.quorum is not None and self.quorum < 1:
            raise ValueError(f"quorum: got {self.quorum}, expected at least 1 site")


@dataclasses.dataclass
class Ledger:
    """What a site put on the wire, and what became of it. Bytes are of payloads; headers are counted apart."""

    payload: int = 0
    headers: int = 0
    messages: int = 0
    again: int = 0
    epochs: int = 0


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a site has at the end of a run.

    Attributes:
        site: its name; x: its answer; price: of a coupled problem, its copy of the price `[m]`.
        outcome, reason: why it ended; rounds: how many were done.
        history: column → values at recorded rounds ("round", "seconds", "loss", "bytes").
        ledger: what was sent. rejected: reason → letters thrown away by the post.
    """

    site: str
    x: Any
    outcome: Outcome
    reason: str
    rounds: int
    history: dict[str, list[float]]
    ledger: Ledger
    rejected: dict[str, int]
    price: np.ndarray | None = None


class Peer:
    """One site of a run without a centre.

    Args:
        problem: what this site holds, a problem of one agent; its x0 must be the same on all sites.
        algorithm, network, rounds, stop, seed, link, aggregate: as for `thalweg.solve`; the same on all sites. `stop` is decided by
            the sites themselves (`Stop(distributed=True)`), in epochs that have all of them.
        sites: the names of all, in the order of the network's agents. post: this site's end of the network.
        weight: w_i up to a common factor; None: its number of examples, or 1.
        run: what all sites must have in common, for example the experiment's hash.
        every: record every so many rounds.
        watch: told of (round, history) at every record.

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
        run: str = "",
        settings: Settings | None = None,
        deterministic: bool = False,
        every: int | None = None,
        watch: Callable[[int, dict[str, list[float]]], None] | None = None,
    ):
        if post.me not in sites:
            raise ValueError(f"got site {post.me!r}, expected one of {', '.join(sites)}")
        if len(sites) != network.n:
            raise ValueError(f"got {len(sites)} sites and a network of {network.n} agents, expected one site for each agent")
        self.sites, self.place = tuple(sites), list(sites).index(post.me)
        self.problem, self.algorithm, self.network = problem, algorithm, network
        self.rounds, self.stop, self.seed, self.link, self.mixer = int(rounds), stop, int(seed), link, aggregate
        self.settings, self.deterministic = settings or Settings(), deterministic
        self.every, self.watch = max(1, self.rounds // 200) if every is None else every, watch
        constants = bool(algorithm.needs & {"smooth", "strongly_convex"}) or "constants" in algorithm.handles
        self.card = card_of(post.me, run, problem, weight, constants)
        quorum = self.settings.quorum or len(sites) // 2 + 1
        self.post = post
        self.members = Membership(post, sites, self.card, quorum=quorum, timeout=self.settings.timeout, wait=self.settings.wait)
        self.ledger, self.history = Ledger(), {name: [] for name in ("round", "seconds", "loss", "bytes")}
        self._inbox: dict[tuple[int, int, int], dict[str, Any]] = {}
        self._outbox: dict[tuple[int, int, int], dict[str, bytes]] = {}
        self._finished: set[str] = set()
        self._journal = None if self.settings.folder is None else Journal(self.settings.folder, self.settings.fsync)
        self._seat: Seat | None = None
        self._state: Any = None

    def run(self) -> Answer:
        """Take part to the end.

        Raises:
            ValueError: sites do not fit together, before the first round.
        """
        self._began = time.monotonic()
        k, local = self._restored(), None
        while True:
            try:
                epoch = self.members.gather(k, self._keep)
            except TooFew as few:
                return self._answer(local, k, Outcome.TOO_FEW_AGENTS, str(few))
            local, k = self._enter(epoch), epoch.round
            while k < self.rounds and not self._done(local):
                before, local = local, self._round(local, k)
                if local is None:  # the epoch is over; this round was not finished
                    local = before
                    break
                k += 1
                self._state = local.agents.state
                if k % self.every == 0 or k == self.rounds:
                    looks = self._recorded(local, k)
                    if not looks["finite"]:
                        return self._answer(
                            local, k, Outcome.NOT_FINITE, f"site {self.post.me!r} has NaN or infinity in round {k}"
                        )
            else:
                if self._linger(k):
                    outcome = Outcome.CONVERGED if self._done(local) else Outcome.ROUND_LIMIT
                    reason = "all sites agreed to stop" if self._done(local) else f"all {self.rounds} rounds were done"
                    return self._answer(local, k, outcome, reason)

    def _restored(self) -> int:
        """The round that the site's log stands at; 0 where there is none."""
        notes = None if self._journal is None else self._journal.notes()
        if notes is None:
            return 0
        cards = [Card(**card) for card in notes["cards"]]
        self.members.restore(notes["epoch"], cards)
        self._sit(cards)
        entry = self._journal.read(self._blank())
        self._state = jax.tree.map(jnp.asarray, entry.state)
        return entry.round

    def _sit(self, cards: Sequence[Card]) -> None:
        """Take the seat among all sites, once they are known."""
        problem = among(self.problem, cards, self.place)
        seat = take_seat(problem, self.algorithm, self.network, self.place, seed=self.seed, link=self.link, mixer=self.mixer)
        rules = Rules(
            stop=setup.traced_stop(self._stop(), problem.dtype),
            every=jnp.asarray(self.every, jnp.int32),
            reference=jnp.full(ravel_pytree(problem.x0)[0].shape, jnp.nan),
            limit=jnp.asarray(jnp.inf, problem.dtype),
        )
        self._seat, self._halves = seat, Halves(seat, rules, self.deterministic)

    def _stop(self) -> Stop | None:
        """The rule that sites can decide by themselves."""
        if self.stop is None:
            return None
        diameter = int(self.network.facts.diameter) if self.stop.diameter is None else self.stop.diameter
        return dataclasses.replace(self.stop, distributed=True, diameter=max(1, diameter))

    def _blank(self) -> Any:
        return jax.eval_shape(lambda: self._halves.begin(self._seat.program)).agents.state

    def _enter(self, epoch: Epoch) -> Any:
        """Before the first round of an epoch."""
        if self._seat is None:
            self._sit(epoch.cards)
        self._epoch, self.ledger.epochs = epoch, self.ledger.epochs + 1
        places = frozenset(self.sites.index(site) for site in epoch.members)
        self._program = self._seat.with_members(places)
        self._heard = [self.sites[j] if j in places else "" for j in self._seat.heard.tolist()]
        self._hearing = [self.sites[j] if j in places else "" for j in self._seat.hearing.tolist()]
        self._notes = {"epoch": epoch.number, "cards": [dataclasses.asdict(card) for card in epoch.cards]}
        self._inbox = {key: found for key, found in self._inbox.items() if key[0] >= epoch.number}
        self._outbox.clear()
        self._finished.clear()
        if self._state is None and epoch.number == 0:
            return self._halves.begin(self._program)
        state = self._halves.begin(self._program).agents.state if self._state is None else self._state
        return self._halves.enter(self._program, state, self._state is not None)

    def _round(self, local: Any, k: int) -> Any:
        """Round k; None when the epoch ended meanwhile."""
        self.members.round = k
        if self._journal is not None:
            self._journal.write(self._epoch.number, k, self._notes, local.agents.state)
        before, flags = local, np.zeros((len(self._heard), self._halves.headers), np.uint8)
        for index in range(self._halves.phases):
            leaving = self._halves.depart(self._program, local, k, index)
            self._publish(leaving, k, index)
            size = self._halves.payload[index]
            heard = np.zeros((len(self._heard), size), np.uint8)
            found = self._await(np.asarray(leaving.awaited), k, index)
            if found is None:
                return None
            for slot, body in found.items():
                row = np.frombuffer(body, np.uint8)
                lead = self._halves.headers if index == 0 else 0
                heard[slot], flags[slot, :lead] = row[lead:], row[:lead]
            local = self._halves.arrive(self._program, before, local, leaving.gone, k, index, heard, flags)
        return local

    def _publish(self, leaving: Any, k: int, index: int) -> None:
        common, each, flags, to = map(np.asarray, (leaving.common, leaving.each, leaving.flags, leaving.to))
        front = flags.tobytes() + common.tobytes()
        bodies = {
            site: front + each[slot].tobytes()
            for site, slot, due in zip(self._hearing, self._seat.slot_of.tolist(), to.tolist(), strict=True)
            if site and due
        }
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
                for site in wanted.keys() - found.keys():
                    self.post.send(site, Letter(Kind.AGAIN, *key))
        self._inbox = {key: bodies for key, bodies in self._inbox.items() if key > (self._epoch.number, k, index)}
        return {slot: found[site] for site, slot in wanted.items()}

    def _take(self, letter: Letter) -> None:
        """A letter during a round."""
        if letter.kind in (Kind.MESSAGE, Kind.AGAIN, Kind.REPORT):
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
        elif letter.kind is Kind.REPORT:
            self._finished.add(letter.sender)
        elif self._fits(letter):
            self._inbox.setdefault(key, {})[letter.sender] = letter.body

    def _fits(self, letter: Letter) -> bool:
        """Whether a message is of this epoch, or the next, and of the right size; others are counted."""
        if letter.epoch < self.members.epoch:
            return self._reject("stale")
        if self._seat is not None:
            lead = self._halves.headers if letter.phase == 0 else 0
            if letter.phase >= self._halves.phases or len(letter.body) != self._halves.payload[letter.phase] + lead:
                return self._reject("wrong size")
        if len(self._inbox) > 4 * self.network.n:
            return self._reject("too far ahead")
        return True

    def _reject(self, why: str) -> bool:
        self.post.rejected[why] += 1
        return False

    def _done(self, local: Any) -> bool:
        """Whether the sites have decided to stop, all of them."""
        whole = len(self._epoch.members) == len(self.sites)
        return whole and isinstance(local.flags, Flags) and bool(local.flags.done[0])

    def _recorded(self, local: Any, k: int) -> dict[str, float]:
        looks = self._halves.look(self._program, local)
        row = {"round": k, "seconds": time.monotonic() - self._began, "loss": looks["loss"], "bytes": self.ledger.payload}
        for name, value in row.items():
            self.history[name].append(value)
        if self.watch is not None:
            self.watch(k, self.history)
        return looks

    def _linger(self, k: int) -> bool:
        """Stay until the others have ended too, to send them again what they missed; False when a new epoch begins instead."""
        self.members.round = k
        for site in self._epoch.members - {self.post.me}:
            self.post.send(site, Letter(Kind.REPORT, self._epoch.number, k))
        last = time.monotonic()
        others = self._epoch.members - {self.post.me}
        while not others <= self._finished:
            letter = self.post.receive(min(1.0, self.settings.timeout))
            if letter is not None:
                self._take(letter)
                last = time.monotonic()
            missing = others - self._finished
            if self.members.disturbed() and missing & self.post.present():
                return False
            if not missing & self.post.present() or time.monotonic() - last > self.settings.wait:
                break
        return True

    def _answer(self, local: Any, k: int, outcome: Outcome, reason: str) -> Answer:
        x = price = None
        if local is not None:
            row = self._halves.estimate(self._program, local)
            x = ravel_pytree(self._program.problem.x0)[1](jnp.asarray(row))
            if hasattr(self.algorithm, "price"):
                first = jax.tree.map(lambda leaf: leaf[0], local.agents.state)
                price = np.asarray(self.algorithm.price(first))
        self.post.close()
        rejected = {why: int(count) for why, count in self.post.rejected.items()}
        return Answer(self.post.me, x, outcome, reason, k, self.history, self.ledger, rejected, price)
