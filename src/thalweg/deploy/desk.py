"""Where a server deals with its clients: who is there, what is asked, what comes back."""

import dataclasses
import json
import secrets
import struct

from .card import Card
from .post import Kind, Letter, Post
from .roster import Roster
from .site import Ledger, Settings

# In front of every message to a client: by which number its last accepted message went, −1 for none; by which this one goes. The
# number is the round, or, where a server does not wait for rounds, how often the client was asked before.
NUMBERS = struct.Struct("<ii")
NEVER = -1


class Desk:
    """A server's dealings with its clients.

    Attributes:
        sites: the clients, in their order; roster: which of them are there.
        epoch: number of the server's life, in every letter; round: where the run is.
        ledger: what was sent and received.
    """

    def __init__(self, post: Post, card: Card, sites: tuple[str, ...], settings: Settings):
        self.post, self.sites, self.settings = post, sites, settings
        self.roster, self.ledger = Roster(post, sites, card), Ledger()
        self.epoch = self.round = 0
        self.begun = False
        self._life = secrets.token_hex(8)  # without a log epochs are those of the life before

    def begin(self) -> None:
        """All clients are known, and the run is ready: give it to those who are there, and from now on to whoever joins."""
        self.begun = True
        self._start_joined()

    def receive(self, timeout: float) -> Letter | None:
        """The next letter of a client that is not about joining; None when none came.

        Raises:
            Refused: before the run has begun, of a client that does not fit.
        """
        letter = self.roster.receive(timeout, self.begun)
        if self.begun:
            self._start_joined()
        return letter

    def answer(self, letter: Letter, kind: Kind, size: int | None = None) -> bool:
        """Whether the letter is one of this life of the server and has the `size` of an answer (None: any); others are counted."""
        if letter.kind is not kind:
            return False
        if letter.epoch != self.epoch:
            return self.reject("stale")
        if size is not None and len(letter.body) != size:
            return self.reject("wrong size")
        return True

    def take(self, letter: Letter) -> None:
        """Count an answer that is used."""
        self.ledger.received += len(letter.body)
        if letter.sender in self.roster.here:
            self.roster.proved.add(letter.sender)

    def reject(self, why: str) -> bool:
        """Count a letter that is thrown away; False."""
        self.post.rejected[why] += 1
        return False

    def ask(
        self, site: str, k: int, index: int, numbers: tuple[int, int], body: bytes, again: bool = False, beside: bytes = b""
    ) -> None:
        """Send a client its part of phase `index` of round k, once more or for the first time; `beside` is no payload."""
        self.ledger.again += again
        if not again:
            self.ledger.payload += len(body)
            self.ledger.headers += NUMBERS.size
            self.ledger.messages += index == 0
            self.ledger.relayed += len(beside)
        self.post.send(site, Letter(Kind.MESSAGE, self.epoch, k, index, NUMBERS.pack(*numbers) + body + beside))

    def relay(self, site: str, k: int, index: int, body: bytes, again: bool = False) -> None:
        """Send a client a message of a secure sum."""
        self.ledger.again += again
        self.ledger.relayed += 0 if again else len(body)
        self.post.send(site, Letter(Kind.SUM, self.epoch, k, index, body))

    def _start_joined(self) -> None:
        for site in self.roster.joined():
            cards = [dataclasses.asdict(card) for card in self.roster.in_order()]
            body = json.dumps({"life": self._life, "cards": cards}).encode()
            self.post.send(site, Letter(Kind.START, self.epoch, self.round, body=body))
