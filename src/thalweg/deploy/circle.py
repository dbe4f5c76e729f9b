"""Who is there, and the channel to each: hellos are exchanged, sessions begin and end. Knows nothing of the network below.

The network tells which sessions are alive (`appeared`, `left`) and brings frames (`take`); `put` is how frames get out. To each
session alive that is not present yet, `HELLO` is sent until it is: the order in which sites start does not matter, nor does a frame
that got lost. A site is present when its session is alive and a frame sealed for this process has come from it since it appeared:
then letters go both ways, for only an answer is sealed.

While a session is alive and present, no other of its name is let in: a second process that was started by mistake is told that its
name is taken, and does not disturb the first.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final

from .frame import SESSION_BYTES, TO_BYTES, Ends, Header, Reason, Rejected, What, header, letter, read
from .post import Letter
from .seal import Channel, Opening

# Seconds until HELLO is sent again: at first, and at most.
AGAIN: Final = (0.1, 1.0)


class Circle:
    """All sessions of a run, as one site sees them.

    Args:
        opening: the site's own side.
        sites: names of all that may take part.
        most: bytes of the largest body.
        put: hands a frame to the network, for a site; lost if the site is not there.
        changed: called when `present` or `twin` has changed.
        rejected: reason → how many frames were thrown away; counted here.
        patience: seconds after which a session that is not there any more is taken to be gone.

    Attributes:
        present: the other sites that are there.
        twin: what to tell the user when another process has this site's name and this one gives way, else empty.
    """

    def __init__(
        self,
        opening: Opening,
        sites: Iterable[str],
        most: int,
        put: Callable[[str, Any], None],
        changed: Callable[[], None],
        rejected: Counter[str],
        patience: float,
    ) -> None:
        self.present, self.twin = frozenset[str](), ""
        self._opening, self._sites, self._most = opening, frozenset(sites), most
        self._put, self._changed, self._rejected, self._patience = put, changed, rejected, patience
        self._alive: dict[str, set[bytes]] = {name: set() for name in self._sites}
        # Every channel that was ever made, by session. A second one of a session would begin its counters again.
        self._made: dict[bytes, Channel] = {}
        self._holders: dict[str, Channel] = {}  # whoever of a name was let in last
        self._heard = set[bytes]()  # sessions that something sealed came from since they appeared
        self._refusals: dict[str, tuple[bytes, float]] = {}  # by whom this site is not let in: for which session, since when
        self._began = time.monotonic()
        self._lock, self._wake, self._closed = threading.Lock(), threading.Event(), False
        self._greeter = threading.Thread(target=self._greet, name="thalweg greeter", daemon=True)
        self._greeter.start()

    def send(self, name: str, letter: Letter) -> bool:
        """Seal a letter for a site and put it; False where the site is not present."""
        channel = self._holders.get(name)
        if channel is None or name not in self.present:
            return False
        with channel.lock:
            self._put(name, channel.seal(What.LETTER, letter))
        return True

    def appeared(self, name: str, session: bytes) -> None:
        """A session is alive."""
        if name not in self._sites:
            self._rejected[Reason.SITE] += 1
        elif name != self._opening.name:
            with self._lock:
                self._alive[name].add(session)
                self._update()
            self._wake.set()

    def left(self, name: str, session: bytes) -> None:
        """A session is alive no more."""
        if name in self._sites:
            with self._lock:
                self._alive[name].discard(session)
                self._heard.discard(session)
                self._refusals.pop(name, None)
                self._update()
            self._wake.set()

    def take(self, name: str, frame: bytes) -> Letter | None:
        """The letter in a frame that came in the name of a site; None where it is no letter.

        Raises:
            Rejected: the frame is to be thrown away.
        """
        head = read(frame, self._most)
        if name not in self._sites or name == self._opening.name:
            raise Rejected(Reason.SITE)
        if head.run != self._opening.run:
            raise Rejected(Reason.RUN)
        if head.what in (What.HELLO, What.ANSWER):
            self._met(name, head, frame)
            return None
        channel = self._made.get(head.session)
        if channel is None or channel.name != name or channel.over:
            raise Rejected(Reason.SESSION)
        body = channel.unseal(head, frame)
        if head.what == What.TAKEN:
            with self._lock:
                since = self._refusals.get(name, (b"", time.monotonic()))[1]
                self._refusals[name] = bytes(body), since
            return None
        if head.session not in self._heard or self._holders.get(name) is not channel:
            self._let_in(channel)
        return letter(head, body, name) if head.what == What.LETTER else None

    def close(self) -> None:
        """Say hello no more."""
        self._closed = True
        self._wake.set()
        if threading.current_thread() is not self._greeter:
            self._greeter.join(self._patience)

    def _met(self, name: str, head: Header, frame: bytes) -> None:
        """A session has said who it is."""
        with self._lock:
            channel = self._made.get(head.session)
            if channel is None:
                hello = bytes(frame[len(frame) - head.size - head.tag :])
                channel = self._made[head.session] = self._opening.channel(name, head.session, hello)
            if channel.name != name or channel.over:
                raise Rejected(Reason.SESSION)
            holder = self._in_the_way(channel)
        if head.what == What.HELLO:
            self._say(name, What.ANSWER, head.session)
        with channel.lock:
            sealed = channel.seal(What.CONFIRM) if holder is None else channel.seal(What.TAKEN, body=holder.session)
            self._put(name, sealed)
        if holder is not None:
            raise Rejected(Reason.TAKEN)

    def _in_the_way(self, channel: Channel) -> Channel | None:
        """Whoever else is present under the name of a channel; in the lock."""
        holder = self._holders.get(channel.name)
        there = holder is not None and holder is not channel and holder.session in self._alive[channel.name]
        return holder if there else None

    def _let_in(self, channel: Channel) -> None:
        with self._lock:
            if self._in_the_way(channel) is not None:
                raise Rejected(Reason.TAKEN)
            if (old := self._holders.get(channel.name)) is not None and old is not channel:
                old.over = True
            self._holders[channel.name] = channel
            self._heard.add(channel.session)
            self._refusals.pop(channel.name, None)
            self._update()

    def _update(self) -> None:
        """`present` from what is alive and was let in; in the lock."""
        there = frozenset(name for name, channel in self._holders.items() if channel.session in self._alive[name] & self._heard)
        if there != self.present:
            self.present = there
            self._changed()

    def _say(self, name: str, what: What, to: bytes = bytes(SESSION_BYTES)) -> None:
        hello, ends = self._opening.hello, Ends(self._opening.run, self._opening.session, to[-TO_BYTES:])
        self._put(name, header(what, ends, size=len(hello)) + hello)

    def _greet(self) -> None:
        """Until it is closed: say hello to those who are alive and not present, first soon, then at longer intervals."""
        wait = AGAIN[0]
        while not self._closed:
            with self._lock:
                missing = [name for name, sessions in self._alive.items() if sessions and name not in self.present]
            for name in missing:
                self._say(name, What.HELLO)
            self._judge()
            if self._wake.wait(wait if missing else None):
                self._wake.clear()
                wait = AGAIN[0]
            else:
                wait = min(2 * wait, AGAIN[1])

    def _judge(self) -> None:
        """Of two processes with one name that both stay, the one that is new gives way; see `_patient`."""
        with self._lock:
            for other, since in self._refusals.values():
                if not self.twin and time.monotonic() - since > self._patient(other, since):
                    self.twin = (
                        f"two sites are called {self._opening.name!r}; this one stops: "
                        "give each site its own folder of `thalweg keys`, and start it once"
                    )
                    self._changed()

    def _patient(self, other: bytes, since: float) -> float:
        """How long to bear that another session has this one's name.

        What is left of a process that was killed is gone after `patience`: a process that has just started waits for that, and
        gives way if the other stays. One that has long been running does not, unless the other started later and stays all the
        same: then this one was itself away, paused or cut off, and was replaced. The older waits longer, so that one is left.
        """
        newer = self._opening.session > other
        if newer and since - self._began > 4 * self._patience:
            return float("inf")
        return self._patience if newer else 3 * self._patience
