"""The post over Eclipse Zenoh: between any two sites that can reach each other, or through routers.

Extra "net". How it is made safe: `thalweg.deploy.seal` (from end to end) and `thalweg.deploy.zenoh_config` (on every link).
"""

import queue
import threading
import weakref
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from thalweg._extras import require

from . import zenoh_config as net
from .circle import Circle
from .frame import HEADER_BYTES, Reason, Rejected
from .identity import Identity, check_name
from .post import Letter, Post
from .seal import Opening, SealedOpening
from .troubles import distrust, explain, probe
from .unsealed import UnsealedOpening

# What AES-GCM takes in one piece, with room for the header.
LIMIT: Final = 2**31 - 2**10
# In the mailbox: look at `present` and at `twin`.
_CHANGE: Final = object()
# Posts to be closed when the program ends; see `_close_at_the_end`.
_OPEN: Final = weakref.WeakSet()
_CLOSER: Final = "thalweg closer"


class ZenohPost(Post):
    """A site's end of the network, over Zenoh with mutual TLS, letters sealed from end to end.

    Args:
        identity: who this is: `Identity.load(folder, site)`. With `insecure`, just a name.
        sites: names of all sites that may take part, this one among them. Others, with a certificate or without, can neither read
            nor write.
        run: the run: the hash of the experiment. Sites of different runs do not see each other.
        listen: where others can connect to, as tls/host:port; "tls/0.0.0.0:7447" is port 7447 of all addresses of this machine.
        connect: where to connect to. Sites that are connected tell each other of third ones that listen, so one common acquaintance
            is enough; they may start in any order.
        routed: `connect` names routers (`keys.router`), through which everything goes: for sites that nobody can connect to. Of two
            sites that are not routed, one must listen.
        routers: names in the certificates of routers.
        timeout: seconds of silence after which a site is gone; also, how long one that is stuck may hold up who writes to it, and
            how long a router is tried to be reached. A process that dies is gone at once.
        most: bytes of the largest body. Larger ones are an error of who sends, and are thrown away by who receives (those beyond by
            more than 64 kB by Zenoh itself, uncounted).
        insecure: no TLS, no certificates, no seals, endpoints tcp/host:port. ANYBODY who can reach the ports reads, alters and
            forges every letter, models and data derived from patients among them. For a laboratory without a way in or out.

    Raises:
        ValueError: a name, an endpoint or a number is wrong, or who listens there is of another federation; or, from `send` and
            `receive`, two sites have one name.
        OSError: a port is taken, or the router cannot be reached.
        ImportError: the extra "net" is not installed.
    """

    def __init__(
        self,
        identity: Identity | str,
        sites: Sequence[str],
        *,
        run: str,
        listen: Sequence[str] = (),
        connect: Sequence[str] = (),
        routed: bool = False,
        routers: Sequence[str] = ("router",),
        timeout: float = 5.0,
        most: int = net.MOST,
        insecure: bool = False,
    ) -> None:
        listen, connect = net.check_endpoints(listen, insecure), net.check_endpoints(connect, insecure)
        opening: Opening = _opening(identity, run, insecure)
        _check(opening.name, sites, routed, listen, connect, timeout, most)
        self.me, self.timeout = opening.name, timeout
        self.rejected, self.sent, self.received, self.overhead = Counter(), Counter(), Counter(), 0
        self._run, self._most, self._connect, self._mailbox = net.run_key(run), most, connect, queue.SimpleQueue()
        self.identity = None if isinstance(identity, str) else identity
        zenoh, credentials, table = require("zenoh", "net"), None, None
        if self.identity is not None:
            credentials = net.from_folder(self.identity.folder)
            table = net.access(self._run, sites, [name for name in routers if name not in sites], opening.name)
            for endpoint in connect:
                if (why := distrust(endpoint, self.identity, min(1.0, timeout))) is not None:
                    raise ValueError(why)
        mode = "client" if routed else "peer"
        try:
            self._session = zenoh.open(net.config(net.settings(mode, listen, connect, timeout, most, credentials, table)))
        except zenoh.ZError as error:
            raise explain(error, listen, connect, self.identity, timeout) from None
        self._publishers: dict[str, Any] = {}
        self._lost, self._came = zenoh.ZError, zenoh.SampleKind.PUT
        self._options = {
            "congestion_control": zenoh.CongestionControl.BLOCK,
            "express": True,
            "reliability": zenoh.Reliability.RELIABLE,
            "allowed_destination": zenoh.Locality.REMOTE,
        }
        self._circle = Circle(
            opening, sites, most, self._put, lambda: self._mailbox.put(_CHANGE), self.rejected, patience=timeout + 1.0
        )
        # Zenoh calls back on one thread of Python's per subscriber, in order (`indirect`), so nothing here needs a lock.
        back = lambda function: zenoh.handlers.Callback(function, indirect=True)
        self._inbox = self._session.declare_subscriber(net.frames_key(self._run, self.me, "*"), back(self._arrived))
        alive = self._session.liveliness()
        self._watch = alive.declare_subscriber(net.alive_key(self._run, "*", "*"), back(self._seen), history=True)
        self._token = alive.declare_token(net.alive_key(self._run, self.me, opening.session.hex()))
        _close_at_the_end(self)

    def send(self, to: str, letter: Letter) -> None:
        self._fail_as_twin()
        body: Any = letter.body
        size = len(body) if isinstance(body, bytes) else memoryview(body).nbytes
        if size > self._most:
            raise ValueError(
                f"got a body of {size:,} bytes, expected at most {self._most:,}; give every site's post a larger `most`"
            )
        self.sent[letter.kind] += size
        if self._circle.send(to, letter):
            self.overhead -= size

    def receive(self, timeout: float | None) -> Letter | None:
        self._fail_as_twin()
        try:
            found = self._mailbox.get(timeout=timeout)
        except queue.Empty:
            return None
        if found is _CHANGE:
            self._fail_as_twin()
            return None
        self.received[found.kind] += len(found.body)
        return found

    def present(self) -> frozenset[str]:
        return self._circle.present

    def troubles(self) -> list[str]:
        """What may keep others away, each with the reason and the remedy in one line: an endpoint cannot be reached, or this site's
        certificate has expired.

        Tries each endpoint to connect to, for up to `timeout` seconds; for when a site is waited for in vain.
        """
        own = [] if self.identity is None else self.identity.expired()
        return own + [trouble for end in self._connect if (trouble := probe(end, self.identity, self.timeout)) is not None]

    def close(self) -> None:
        _OPEN.discard(self)
        self._circle.close()
        if not self._session.is_closed():
            self._token.undeclare()
            self._session.close()

    def _put(self, to: str, frame: bytes | bytearray) -> None:
        """Hand a frame over to Zenoh."""
        publisher = self._publishers.get(to)
        try:
            if publisher is None:
                key = net.frames_key(self._run, to, self.me)
                publisher = self._publishers[to] = self._session.declare_publisher(key, **self._options)
            publisher.put(frame)
        except self._lost:
            return  # closed meanwhile; letters to a site that is not there are lost
        self.overhead += len(frame)

    def _arrived(self, sample: Any) -> None:
        """A frame, in a thread of Zenoh's."""
        try:
            payload = sample.payload
            if len(payload) > self._most + HEADER_BYTES + 2**13:
                raise Rejected(Reason.OVERSIZED)  # before it is copied
            letter = self._circle.take(str(sample.key_expr).rpartition("/")[2], payload.to_bytes())
        except Rejected as rejected:
            self.rejected[rejected.reason] += 1
            return
        if letter is not None:
            self._mailbox.put(letter)

    def _seen(self, sample: Any) -> None:
        """A token of a session came or went, in a thread of Zenoh's."""
        *_, name, session = str(sample.key_expr).split("/")
        try:
            number = bytes.fromhex(session)
        except ValueError:
            self.rejected[Reason.MALFORMED] += 1
            return
        (self._circle.appeared if sample.kind == self._came else self._circle.left)(name, number)

    def _fail_as_twin(self) -> None:
        if self._circle.twin:
            raise ValueError(self._circle.twin)


def _close_at_the_end(post: ZenohPost) -> None:
    """See to it that a post is closed when the program ends, even by an error.

    Python waits for Zenoh's threads, which end with their session, before it calls what `atexit` knows. So a thread of our own
    waits for the main one. Not a daemon: Python would cut it off within Zenoh's code, which then aborts.
    """

    def watch() -> None:
        threading.main_thread().join()
        for open_post in list(_OPEN):
            open_post.close()

    _OPEN.add(post)
    if all(thread.name != _CLOSER for thread in threading.enumerate()):
        threading.Thread(target=watch, name=_CLOSER).start()


def _opening(identity: Identity | str, run: str, insecure: bool) -> Opening:
    if isinstance(identity, str) != insecure:
        raise ValueError("got a name and keys both, or neither; give Identity.load(folder, site), or a name with insecure=True")
    return UnsealedOpening(identity, run) if isinstance(identity, str) else SealedOpening(identity, run)


def _check(
    me: str, sites: Sequence[str], routed: bool, listen: list[str], connect: list[str], timeout: float, most: int
) -> None:
    for name in sites:
        check_name(name)
    if me not in sites:
        raise ValueError(f"{me!r} is not among the sites {', '.join(sites)}; add it to those that may take part")
    if routed and (listen or not connect):
        raise ValueError("a site that is routed connects to a router and listens nowhere; give connect=, and leave listen= out")
    if not (listen or connect):
        raise ValueError("got neither listen= nor connect=, expected one of them; else nobody can be reached")
    if not timeout >= 0.2:
        raise ValueError(f"got the timeout {timeout}, expected at least 0.2 s")
    if not 0 < most <= LIMIT:
        raise ValueError(f"most: got {most}, expected 1 to {LIMIT:,} bytes; send larger messages in pieces")
