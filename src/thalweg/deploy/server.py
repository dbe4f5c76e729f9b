"""A server as a process: it leads a run from its first round to its last, and goes on from its log after it was killed."""

import dataclasses
import json
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from thalweg.engine import Stop
from thalweg.engine.server import ServerProgram
from thalweg.message.payload import pack
from thalweg.observe import Outcome
from thalweg.problem import Coupled
from thalweg.problem.scattered import Scattered

from .among import among
from .buffered import Buffered
from .card import Card, layout
from .compiled import plain
from .desk import NUMBERS, Desk
from .federation import Plan
from .membership import TooFew
from .post import Kind, Letter, Post
from .purse import Spent
from .rest import Rest
from .rounds import BufferedRounds, ServerRounds
from .sealed_sum import Sums, Terms
from .secret import system_key
from .site import Answer, Settings, Site, Watch
from .synchronous import Synchronous


class Server(Site):
    """The server of a run, which leads it to its end.

    Args:
        problem: a problem of one agent of the clients' form; its data are not looked at, and may be zeros.
        plan: what all sites do alike.
        sites: the clients' names, in their order. post: this site's end of the network.
        stop: `progress` and `patience` of a `tw.Stop`, of the answer at records, and `bytes`, of all clients; None: all rounds
            are done. What a server does not see (losses, other columns) cannot end a run.
        columns, run, settings, simulated_secrets, every, watch: as for `Client`. A round needs
            `settings.quorum` answers, and as many as were asked where that is less; with a secure sum what that needs at least.

    Raises:
        TypeError, ValueError: an impossible combination, before anything is sent.
    """

    recorded = ()

    def __init__(
        self,
        problem: Scattered,
        plan: Plan,
        *,
        sites: Sequence[str],
        post: Post,
        stop: Stop | None = None,
        columns: Sequence[str] = (),
        run: str = "",
        settings: Settings | None = None,
        simulated_secrets: bool = False,
        every: int | None = None,
        watch: Watch | None = None,
    ):
        if post.me in sites:
            raise ValueError(f"the server and a client are both called {post.me!r}, expected names that differ")
        _check_stop(stop)
        super().__init__(post, settings, plan.rounds, every, watch)
        self.problem, self.plan, self.sites = problem, plan, tuple(sites)
        self.desk = Desk(post, Card(post.me, run, layout(problem), columns=list(columns)), self.sites, self.settings)
        self.ledger = self.desk.ledger
        self.stop, self._rest = stop, Rest(stop)
        self.warnings: tuple[str, ...] = ()
        self._run, self._secret = run, None if simulated_secrets else system_key()
        self._rounds: Any = None
        self._central: Any = None

    def ended(self, outcome: Outcome, reason: str) -> Answer:
        return self._answer(outcome, reason)

    @property
    def standing(self) -> tuple[int, frozenset[str]]:
        return (-1 if self._rounds is None else self.desk.epoch), frozenset({self.post.me, *self.desk.roster.here})

    def _lived(self) -> Answer:
        outcome, reason = Outcome.ROUND_LIMIT, f"all {self.plan.rounds} rounds were done"
        try:
            self._assemble()
            while self.desk.round < self.plan.rounds:
                self._log(self._central, self.desk.round)
                self._central, scalars, participants = self._lead.update(self._central, self.desk.round)
                self.desk.round += 1
                if (end := self._look(scalars, participants)) is not None:
                    outcome, reason = end
                    break
        except TooFew as few:
            return self._answer(Outcome.TOO_FEW_AGENTS, str(few))
        except Spent as spent:
            outcome, reason = Outcome.PRIVACY, str(spent)
        self._log(self._central, self.desk.round)
        self._part(outcome, reason)
        return self._answer(outcome, reason)

    def _assemble(self) -> None:
        """Wait until all clients are known, or go on from the log."""
        desk, notes = self.desk, self._logged_notes()
        if notes is not None:
            desk.roster.cards = {card["name"]: Card(**card) for card in notes["cards"]}
            self._begin()
            entry = self._journal.read((self._central.tree, self._lead.memory))
            self._central, self._lead.memory = jax.tree.map(jnp.asarray, entry.state[0]), entry.state[1]
            desk.epoch, desk.round = entry.epoch + 1, entry.round
            self._recall(desk.round)
            desk.begin()
            back = time.monotonic() + self.settings.timeout  # clients that are still there are to be in the first round
            while desk.roster.here != set(self.sites) and time.monotonic() < back:
                desk.receive(0.1)
            return
        since = time.monotonic()
        try:
            while missing := desk.roster.unknown():
                if time.monotonic() - since > self.settings.wait:
                    have = f"{len(self.sites) - len(missing)} of {len(self.sites)} clients have come"
                    raise TooFew(f"{have}, missing: {', '.join(missing)}", missing)
                desk.receive(0.2)
            self._begin()
        except (ValueError, TypeError) as why:  # nobody is to wait for a run that cannot be
            for site in self.post.present() & set(self.sites):
                self.post.send(site, Letter(Kind.REFUSED, body=f"ended the run: {why}".encode()))
            raise
        desk.begin()

    def _begin(self) -> None:
        """Make the program, of the cards of all clients."""
        cards = self.desk.roster.in_order()
        self._notes, problem = {"cards": [dataclasses.asdict(card) for card in cards]}, among(self.problem, cards, None)
        program, said = self.plan.program(problem, self._secret)
        self.warnings = tuple(said)
        if self.plan.engine is None:
            self._rounds = ServerRounds(program, self.plan.deterministic)
            self._lead: Any = Synchronous(self.desk, self._rounds, self._sums(program))
        else:
            self._rounds = BufferedRounds(program, self.plan.deterministic)
            self._lead = Buffered(self.desk, self._rounds, self._log)
        self._central = self._rounds.begin()

    def _sums(self, program: ServerProgram) -> Sums | None:
        identity = self.post.identity
        terms = Terms.of(program, self._rounds.specs, self.sites, self._run, identity is not None)
        return None if terms is None else Sums(self.desk, terms, None if identity is None else identity.authority)

    def _log(self, central: Any, k: int) -> None:
        """What a restart needs to do round k: a round is done, or it is done again."""
        if self._journal is not None:
            self._journal.write(self.desk.epoch, k, self._notes, (plain(central), self._lead.memory))

    def _look(self, scalars: dict[str, Any], participants: int) -> tuple[Outcome, str] | None:
        """(outcome, reason) where the run is to end now."""
        k = self.desk.round
        if k % self.every and k != self.plan.rounds:
            return None
        scalars = {name: float(value) for name, value in scalars.items()}
        known = {"participants": participants, "bytes": self.ledger.payload + self.ledger.received}
        self._record(k, known | scalars)
        x = np.asarray(self._rounds.answer(self._central))
        if not np.isfinite(x).all():
            return Outcome.NOT_FINITE, f"the answer is NaN or infinite after round {k - 1}"
        self._rest.look(x, k)
        if self._rest.calm:
            return Outcome.CONVERGED, f"no more progress at round {k}"
        sent = self.ledger.received
        if self.stop is not None and self.stop.bytes is not None and sent >= self.stop.bytes:
            return Outcome.BUDGET, f"{sent:,} of {self.stop.bytes:,} bytes sent by all clients at round {k}"
        return None

    def _part(self, outcome: Outcome, reason: str) -> None:
        """Tell everybody who is there, and who comes until the last has heard it."""
        told = json.dumps({"outcome": outcome.value, "reason": reason}).encode()
        last = len(told).to_bytes(4, "little") + told + pack(plain(self._central).state)
        roster, accepted = self.desk.roster, self._lead.accepted
        asked, heard, since = dict[str, float](), set[str](), time.monotonic()
        while (waiting := roster.here - heard) or roster.met - heard:
            now = time.monotonic()
            for site in waiting:
                if now - asked.get(site, -np.inf) > self.settings.timeout:
                    asked[site] = now
                    body = NUMBERS.pack(int(accepted[self.sites.index(site)]), 0) + last
                    self.post.send(site, Letter(Kind.DONE, self.desk.epoch, self.desk.round, body=body))
            letter = self.desk.receive(0.2)
            if letter is not None and letter.kind is Kind.DONE:
                heard.add(letter.sender)
            if now - since > self.settings.wait:
                return

    def _answer(self, outcome: Outcome, reason: str) -> Answer:
        x = None
        if self._rounds is not None:
            row = jnp.asarray(self._rounds.answer(self._central))
            market = isinstance(self.problem, Coupled)
            x = self.problem.at(self.desk.round).coupling.project(row) if market else ravel_pytree(self.problem.x0)[1](row)
        return self._answered(x, outcome, reason, self.desk.round, warnings=self.warnings)


def _check_stop(stop: Stop | None) -> None:
    """That a server can see what the rule asks for."""
    unseen = [name for name in ("above", "below", "no_better", "clock", "distributed") if stop and getattr(stop, name)]
    if unseen:
        raise ValueError(
            f"stop: got {', '.join(f'{name}=' for name in unseen)}, expected progress=, patience= and bytes= of a deployed server, "
            "which sees no more; leave it out, or simulate"
        )
