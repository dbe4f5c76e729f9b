"""Channels without keys, for `insecure=True`: anybody who reaches the network can read, alter and forge every letter."""

import threading
from typing import Any

from .frame import HEADER_BYTES, TO_BYTES, Ends, Header, Reason, Rejected, What, header, run_bytes
from .post import Letter
from .seal import new_session


class UnsealedOpening:
    """The side of a site that proves nothing."""

    hello = b""

    def __init__(self, name: str, run: str) -> None:
        self.name, self.run, self.session = name, run_bytes(run), new_session()

    def channel(self, name: str, session: bytes, hello: bytes) -> "UnsealedChannel":
        if hello:
            raise Rejected(Reason.CERTIFICATE)  # of a site that is secure, whose letters nobody here can open
        return UnsealedChannel(name, Ends(self.run, self.session, session[-TO_BYTES:]), session)


class UnsealedChannel:
    """Headers and bodies as they are. Counters still tell what came twice."""

    def __init__(self, name: str, ends: Ends, session: bytes) -> None:
        self.name, self.session, self.lock, self.over = name, session, threading.Lock(), False
        self._ends = ends
        self._sent = self._seen = 0

    def seal(self, what: What, letter: Letter | None = None, body: Any = b"") -> bytes:
        self._sent += 1
        body = body if letter is None else letter.body
        start = header(what, self._ends, self._sent, letter, memoryview(body).nbytes)
        return b"".join((start, body))

    def unseal(self, head: Header, frame: bytes) -> bytes:
        if head.session != self.session or head.to != self._ends.session[-TO_BYTES:]:
            raise Rejected(Reason.SESSION)
        if head.tag:
            raise Rejected(Reason.FORGED)
        if head.counter <= self._seen:
            raise Rejected(Reason.REPLAYED)
        self._seen = head.counter
        return frame[HEADER_BYTES:]
