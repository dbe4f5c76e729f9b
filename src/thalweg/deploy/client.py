"""A client as a process: it works when the server asks, and keeps what it has learnt once the server has accepted its message."""

import dataclasses
import json
import secrets
import struct
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from thalweg.message.payload import unpack
from thalweg.message.secure import ProtocolError
from thalweg.observe import Outcome
from thalweg.problem.scattered import Scattered

from .among import among
from .card import Card, card_of, read_cards, read_json
from .compiled import plain
from .desk import NEVER, NUMBERS
from .federation import Plan, alone
from .membership import Refused, logged
from .post import Kind, Letter, Post
from .purse import Spent
from .rounds import ClientRounds
from .sealed_sum import Declined, Parts, Terms
from .secret import system_key
from .signer import Signer
from .site import Answer, Settings, Site, Watch


class Client(Site):
    """One site of a run under a server.

    Args:
        problem: what this site holds, a problem of one agent; its x0 must be the same on all sites.
        plan: what all sites do alike.
        server: the server's name. sites: the clients' names, in their order. post: this site's end of the network.
        weight: w_i up to a common factor; None: its number of examples, or 1.
        columns: names of the features, which must be the same on all sites.
        run: what all sites must have in common, for example the experiment's hash.
        simulated_secrets: draw noise for privacy from the seed, as the simulation does, not from the operating system. Then
            nothing is private.
        allowance: rounds in which it works, at most, counted in `settings.folder` if there is one; then it waits for the end. None:
            any number.
        every: record every so many rounds. watch: told of (round, history) at every record.

    Raises:
        TypeError, ValueError: an impossible combination, before anything is sent.
    """

    def __init__(
        self,
        problem: Scattered,
        plan: Plan,
        *,
        server: str,
        sites: Sequence[str],
        post: Post,
        weight: float | None = None,
        columns: Sequence[str] = (),
        run: str = "",
        settings: Settings | None = None,
        simulated_secrets: bool = False,
        allowance: int | None = None,
        every: int | None = None,
        watch: Watch | None = None,
    ):
        if post.me not in sites:
            raise ValueError(f"got site {post.me!r}, expected one of {', '.join(sites)}")
        if server in sites:
            raise ValueError(f"the server and a client are both called {server!r}, expected names that differ")
        card = card_of(post.me, run, problem, weight, plan.constants, columns)
        super().__init__(post, settings, plan.rounds, every, watch, allowance)
        self.problem, self.plan, self.server, self.sites = problem, plan, server, tuple(sites)
        self.place = self.sites.index(post.me)
        self.card = card
        self._secret = None if simulated_secrets else system_key()
        self._rounds: ClientRounds | None = None
        self._life, self._epoch, self._round, self.warnings = secrets.token_hex(8), -1, 0, ()
        # What was accepted; what the last message made of it, and by which number that went; what a round is at.
        self._kept = self._provisional = self._under_way = None
        self._worked = NEVER
        self._reply: tuple[tuple[int, int, int], bytes] | None = None
        # The server's life, and in it epoch and number of the last work.
        self._led_by, self._asked = "", None
        # This process's key for secure sums, and its side of them.
        self._signer = Signer(post.identity, run) if post.identity is not None and plan.sealed else None
        self._parts: Parts | None = None

    def ended(self, outcome: Outcome, reason: str) -> Answer:
        return self._answer(None, outcome, reason)

    @property
    def standing(self) -> tuple[int, frozenset[str]]:
        return self._epoch, frozenset({self.post.me, self.server} if self._epoch >= 0 else ())

    def _lived(self) -> Answer:
        self._restore()
        joined, seen = False, time.monotonic()
        while True:
            there = self.server in self.post.present()
            if there and not joined:
                self._join()
            joined, seen = there, time.monotonic() if there else seen
            if time.monotonic() - seen > self.settings.wait:
                return self._answer(None, Outcome.TOO_FEW_AGENTS, f"the server {self.server!r} is missing")
            letter = self.post.receive(min(1.0, self.settings.timeout))
            if letter is None:
                continue
            if letter.sender != self.server:
                self.post.rejected["not the server"] += 1
            elif letter.kind is Kind.JOIN:
                self._join()
            elif letter.kind is Kind.REFUSED:
                raise Refused(f"{letter.sender!r} {letter.text}")
            elif letter.kind is Kind.START:
                self._start(letter)
            elif self._rounds is None or letter.epoch < self._epoch:
                self.post.rejected["stale"] += 1
            elif letter.kind is Kind.MESSAGE:
                self._work(letter)
            elif letter.kind is Kind.SUM:
                self._go_on(letter)
            elif letter.kind is Kind.DONE and (answer := self._ended(letter)) is not None:
                self.post.send(self.server, Letter(Kind.DONE, letter.epoch, letter.round))
                return answer

    def _join(self) -> None:
        told = {"life": self._life, "card": dataclasses.asdict(self.card)}
        if self._signer is not None:
            told["proof"] = self._signer.proof.hex()
        self.post.send(self.server, Letter(Kind.JOIN, body=json.dumps(told).encode()))

    def _start(self, letter: Letter) -> None:
        """Who takes part."""
        try:
            told = read_json(letter.body)
            life, cards = str(told["life"]), read_cards(told["cards"], self.sites)
        except (ValueError, TypeError, KeyError):
            self.post.rejected["malformed"] += 1
            return
        self._sit(cards)
        if life != self._led_by:
            self._led_by, self._asked, self._reply, self._under_way = life, None, None, None
            self._epoch = letter.epoch

    def _sit(self, cards: Sequence[Card]) -> None:
        """Take this client's place, once all are known."""
        if self._rounds is not None:
            return
        program, said = self.plan.program(among(self.problem, cards, self.place), self._secret)
        self._rounds, self.warnings = ClientRounds(alone(program, self.place), self.plan.deterministic), tuple(said)
        identity = self.post.identity
        terms = Terms.of(program, self._rounds.specs, self.sites, self.card.run, identity is not None)
        if terms is not None:
            authority = None if identity is None else identity.authority
            self._parts = Parts(terms, self.place, self._signer, authority, exact=self._secret is not None)
        self._cards = [dataclasses.asdict(card) for card in cards]
        if self._kept is None:
            self._kept = self._provisional = self._rounds.begin()

    def _restore(self) -> None:
        notes = self._logged_notes()
        if notes is None:
            return
        cards = [Card(**card) for card in notes["cards"]]
        logged(self.card, cards)  # raises where this site has other data than it had
        self._sit(cards)
        entry = self._journal.read((self._kept.tree, self._kept.tree))
        self._kept, self._provisional = jax.tree.map(jnp.asarray, entry.state)
        self._worked, self._epoch, self._round = notes["worked"], entry.epoch, entry.round
        self._recall(self._round)

    def _work(self, letter: Letter) -> None:
        """Answer one message of the server."""
        rounds = self._rounds
        size = rounds.specs[letter.phase].told_as.size if letter.phase < len(rounds.specs) else -1
        beside = len(letter.body) - NUMBERS.size - size
        if size < 0 or beside < 0 or (beside > 0 and self._parts is None):
            self.post.rejected["wrong size"] += 1
            return
        accepted, number = NUMBERS.unpack_from(letter.body)
        if letter.round >= self.plan.rounds or number < 0:
            self.post.rejected["no such round"] += 1
            return
        key, self._epoch = (letter.epoch, number, letter.phase), letter.epoch
        if self._reply is not None and self._reply[0] == key:
            self.ledger.again += 1
            self.post.send(self.server, Letter(Kind.MESSAGE, *key, self._reply[1]))
            return
        if letter.phase == 0:
            if self._asked is not None and self._asked >= (letter.epoch, number):
                self.post.rejected["stale"] += 1
                return
            try:
                self._purse.pay()
            except Spent as spent:  # it stays for the end of the run
                self.post.send(self.server, Letter(Kind.REFUSED, *key, str(spent).encode()))
                return
            self._begin_work(letter.epoch, number)
            self._settle(accepted)
            record = self._kept
        elif self._under_way is not None and self._under_way[0] == (letter.epoch, number, letter.phase - 1):
            record = self._under_way[1]
        else:
            self.post.rejected["out of order"] += 1  # this site began anew in the middle of a round
            return
        body = np.frombuffer(letter.body, np.uint8, size, NUMBERS.size)
        try:
            if self._parts is None:
                record, reply, loss = rounds.respond(record, body, letter.round, letter.phase, number)
            else:
                record, reply, loss = self._parts.begin(rounds, record, body, key, bytes(letter.body[NUMBERS.size + size :]))
        except Declined as declined:
            self._note("invitation declined", letter, str(declined))
            self._send_reply(key, b"")
            return
        self._under_way = key, record
        if letter.phase + 1 == len(rounds.specs):
            self._provisional, self._worked, self._round = record, number, letter.round + 1
            self._log(letter)
            self._look(loss)
        if self._parts is not None and not reply:
            self._note("not finite", letter, "its own message is not a number, and is kept out of the sum")
        self._send_reply(key, reply)

    def _begin_work(self, epoch: int, number: int) -> None:
        """Numbers grow within a life of the server. Each life has its key: what a client says again hides nothing under noise that
        is known from before."""
        if self._secret is not None and (self._asked is None or self._asked[0] != epoch):
            self._rounds.renew(system_key())
        self._asked = epoch, number

    def _send_reply(self, key: tuple[int, int, int], reply: bytes) -> None:
        self._reply = key, reply
        self.ledger.messages += key[2] == 0
        self.ledger.payload += len(reply)
        self.post.send(self.server, Letter(Kind.MESSAGE, *key, reply))

    def _go_on(self, letter: Letter) -> None:
        """Answer one message of a secure sum that this client has a part in."""
        key = letter.epoch, letter.round, letter.phase
        if self._parts is None or self._parts.key != key:
            self.post.rejected["out of order"] += 1  # this site began anew in the middle of it
            return
        again, reply = self._parts.asked(letter.body), b""
        try:
            reply = self._parts.answer(letter.body)
        except ProtocolError as error:
            self._note("left the sum", letter, str(error))
        self.ledger.again += again
        self.ledger.payload += 0 if again else len(reply)
        self.post.send(self.server, Letter(Kind.SUM, *key, reply))

    def _note(self, what: str, letter: Letter, reason: str) -> None:
        """Why this client is not in a secure sum."""
        self.post.rejected[what] += 1
        self.post.note(what, round=letter.round, phase=letter.phase, reason=reason)

    def _settle(self, accepted: int) -> None:
        """Keep what the last message made of this client if the server accepted it, else forget it."""
        if self._worked != NEVER and self._worked == accepted:
            self._kept = self._provisional
        self._worked = NEVER

    def _log(self, letter: Letter) -> None:
        if self._journal is not None:
            notes = {"cards": self._cards, "worked": self._worked}
            self._journal.write(letter.epoch, letter.round, notes, (plain(self._kept), plain(self._provisional)))

    def _look(self, loss: jax.Array) -> None:
        if self._round % self.every == 0 or self._round == self.plan.rounds:
            self._record(self._round, {"loss": float(loss), "bytes": self.ledger.payload})

    def _ended(self, letter: Letter) -> Answer | None:
        """After the server's last word: whether the last message was accepted, how the run ended, and its state."""
        body, start = bytes(letter.body), NUMBERS.size + 4
        try:
            accepted, _ = NUMBERS.unpack_from(body)
            length = int.from_bytes(body[NUMBERS.size : start], "little")
            told = read_json(body[start : start + length])
            outcome, reason = Outcome(told["outcome"]), str(told["reason"])
            state = unpack(body[start + length :], self._rounds.server_state)
        except (ValueError, TypeError, KeyError, struct.error):  # what numbers, JSON or arrays cannot be made of
            self.post.rejected["malformed"] += 1
            return None
        self._settle(accepted)
        self._round = letter.round
        return self._answer(self._rounds.own(self._kept, jax.tree.map(jnp.asarray, state)), outcome, reason)

    def _answer(self, row: Any, outcome: Outcome, reason: str) -> Answer:
        x = None if row is None else ravel_pytree(self.problem.x0)[1](jnp.asarray(row))
        return self._answered(x, outcome, reason, self._round, warnings=self.warnings)
