"""A post that notes what goes through it, for status, metrics and logs, and through which a site can be told to end."""

import logging
import threading
import time
from collections import Counter
from typing import Any

from .post import Kind, Letter, Post

# Seconds after which a site that waits looks whether it is to end.
LOOK = 0.25


class Stopped(Exception):
    """The site was told to end; its log has what it needs to go on."""


class Watched(Post):
    """Another post, watched.

    Attributes:
        epoch, round: of the newest message that left; both −1 before the first.
        others: site → (epoch, round) of the newest message from it.
        here: who was connected when somebody looked last.
        timed, seconds: rounds that were timed, and how long they took together; the first, which compiles, is not among them.
    """

    def __init__(self, post: Post, log: logging.Logger):
        self.me, self._post, self._log = post.me, post, log
        self.epoch = self.round = -1
        self.others: dict[str, tuple[int, int]] = {}
        self.here = frozenset[str]()
        self.timed, self.seconds, self._since = 0, 0.0, 0.0
        self._told, self._why = threading.Event(), ""

    @property
    def rejected(self) -> Counter[str]:
        return self._post.rejected

    @property
    def sent(self) -> Counter[Kind]:
        return self._post.sent

    @property
    def received(self) -> Counter[Kind]:
        return self._post.received

    @property
    def overhead(self) -> int:
        return self._post.overhead

    @property
    def identity(self) -> Any:
        return self._post.identity

    def note(self, event: str, **fields: Any) -> None:
        self._log.info(event, extra={"fields": fields})

    def stop(self, why: str) -> None:
        """The site is to end: `receive` raises `Stopped`. From any thread."""
        self._why = why
        self._told.set()

    def send(self, to: str, letter: Letter) -> None:
        if letter.kind is Kind.MESSAGE and (letter.round != self.round or letter.epoch != self.epoch):
            self._next(letter)
        self._post.send(to, letter)

    def receive(self, timeout: float | None) -> Letter | None:
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            if self._told.is_set():
                raise Stopped(self._why)
            began = time.monotonic()
            wait = LOOK if end is None else max(0.0, min(LOOK, end - began))
            letter = self._post.receive(wait)
            if letter is not None:
                if letter.kind is Kind.MESSAGE:
                    self.others[letter.sender] = (letter.epoch, letter.round)
                return letter
            now = time.monotonic()
            if now - began < wait or (end is not None and now >= end):  # somebody came or left, or time is over
                return None

    def present(self) -> frozenset[str]:
        here = self._post.present()
        if here is not self.here and here != self.here:
            for event, sites in (("site came", here - self.here), ("site left", self.here - here)):
                for site in sorted(sites):
                    self._log.info(event, extra={"fields": {"other": site}})
            self.here = here
        return here

    def troubles(self) -> list[str]:
        """Why others cannot be reached, where the post can tell; may take some seconds."""
        return getattr(self._post, "troubles", list)()

    def close(self) -> None:
        self._post.close()

    def _next(self, letter: Letter) -> None:
        """A message of a round that is not the last one's leaves."""
        now = time.monotonic()
        if letter.epoch == self.epoch and letter.round == self.round + 1:
            if self.round != 0:
                self.timed, self.seconds = self.timed + 1, self.seconds + now - self._since
        else:
            self._log.info("epoch", extra={"fields": {"epoch": letter.epoch, "round": letter.round}})
        self.epoch, self.round, self._since = letter.epoch, letter.round, now
