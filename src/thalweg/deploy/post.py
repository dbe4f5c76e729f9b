"""The post: how letters get from site to site. Runs that are deployed know nothing else of the network.

A letter that is handed over arrives whole, in order, and as its sender wrote it, while both ends live and are connected; else it
does not arrive at all. Who sent it is proved by the post, not by what is written in it.
"""

import abc
import enum
from collections import Counter
from typing import Any, NamedTuple

# Of a text for people, in bytes.
LONGEST = 1000


class Kind(enum.IntEnum):
    """What a letter is about."""

    MESSAGE = 1  # what an algorithm's role sends, encoded
    AGAIN = 2  # asks for a message that did not come
    JOIN = 3  # a site is there: what it runs, what it knows of its own data and of the others'
    SEES = 4  # to the leader: which sites its sender is connected with
    VIEW = 5  # who is to take part in an epoch, by whoever leads
    READY = 6  # a site has read the view, and is at this round
    START = 7  # the epoch begins
    REFUSED = 8  # its sender takes no part with its receiver, and why
    DONE = 9  # a site has done its last round
    SUM = 10  # of a secure sum, after its first step


class Letter(NamedTuple):
    """One message between two sites.

    Attributes:
        kind: what it is about.
        epoch, round, phase: where in the run it belongs (0 where it belongs nowhere).
        body: the payload; of `MESSAGE` as `thalweg.message.payload.pack` lays it out, else of the kind's own.
        sender: who wrote it, filled in by the post of the receiver.
    """

    kind: Kind
    epoch: int = 0
    round: int = 0
    phase: int = 0
    body: bytes | memoryview = b""
    sender: str = ""

    @property
    def text(self) -> str:
        """What its body says to people: the beginning, without what cannot be printed."""
        text = bytes(self.body[:LONGEST]).decode(errors="replace")
        return "".join(c if c.isprintable() else "?" for c in text)


class Post(abc.ABC):
    """A site's end of the network.

    Attributes:
        me: the site's name.
        rejected: reason → number of letters that were thrown away (forged, replayed, malformed, …).
        sent, received: bytes of bodies so far, by kind; `overhead` is what came on top of them on the wire (headers, seals).
        identity: the site's certificate and key (`deploy.Identity`); None where sites have none.
    """

    me: str
    rejected: Counter[str]
    sent: Counter[Kind]
    received: Counter[Kind]
    overhead: int
    identity: Any = None

    @abc.abstractmethod
    def send(self, to: str, letter: Letter) -> None:
        """Hand over a letter. To a site that is not there it is lost, without an error."""

    @abc.abstractmethod
    def receive(self, timeout: float | None) -> Letter | None:
        """The next letter; None after `timeout` seconds, or at once when `present` has changed."""

    @abc.abstractmethod
    def present(self) -> frozenset[str]:
        """The other sites that are connected now."""

    def note(self, event: str, **fields: Any) -> None:  # noqa: B027 (most posts have no log)
        """Something for the site's log, if it has one."""

    @abc.abstractmethod
    def close(self) -> None:
        """Leave the network: the others see it at once."""
