"""Sealed channels: only the two sites at its ends can write a letter, read it, or tell one from another.

Each process makes a key pair for key agreement (X25519) when it starts, and says hello with its certificate, that public key, a
fresh session number and the hash of the run, all signed with its certificate's key. Two sites that have each other's hello derive
two keys, one per direction (HKDF-SHA-256 over the shared secret, both hellos, the run, sender and receiver), and seal every letter
with AES-256-GCM. A channel's counter goes up with every frame and is the nonce; the header (kind, epoch, round, phase, counter,
session) is authenticated with the body. Hence

- a router, or a site in between, can neither read nor alter letters, nor write any in another's name;
- a letter of another run, epoch, round, phase or sender, or for another receiver, does not open;
- one that came before, or is overtaken, is refused (`Reason.REPLAYED`); one that got lost is not missed;
- recorded letters stay closed when a certificate's key is stolen later (the agreed keys are never stored);
- a process that starts again has a new session and new keys: the old session is over for good.

A hello alone proves that its owner once signed it. It may be old, and sent again by anybody; so a channel counts only when a frame
came that was sealed with its keys: `CONFIRM` is there to be the first.

Why not a signature per letter? A signature costs tens of microseconds at each end against two, hides nothing from the router, and
proves to third parties what a site said, which hospitals would rather avoid. What is lost is just that: nobody can show others a
letter and prove who wrote it.
"""

import hashlib
import os
import struct
import threading
import time
from typing import Any, Protocol

from thalweg._extras import require

from .frame import HEADER_BYTES, SESSION_BYTES, TAG_BYTES, TO_BYTES, Ends, Header, Reason, Rejected, What, header, run_bytes
from .identity import Identity, parse_certificate, signed
from .post import Letter

_KEY_BYTES = 32
_HELLO = struct.Struct(f"<H{_KEY_BYTES}s{SESSION_BYTES}s")
_PURPOSE = b"thalweg letters 1"
LARGE = 2**16


class Channel(Protocol):
    """A way to one session of one other site.

    Attributes:
        name: the other site's.
        session: the other's.
        lock: to be held from sealing a frame until it is handed over, so that frames leave in the order of their counters.
        over: no frame of it is believed any more.
    """

    name: str
    session: bytes
    lock: threading.Lock
    over: bool

    def seal(self, what: What, letter: Letter | None = None, body: bytes = b"") -> bytes | bytearray:
        """The frame to send, with the letter or the body in it. It is good until this thread seals another."""
        ...

    def unseal(self, head: Header, frame: bytes) -> bytes:
        """The body of a frame with the header `head`.

        Raises:
            Rejected: it is not what the other site sealed for this one, or came before.
        """
        ...


class Opening(Protocol):
    """A site's side of all its channels: who it is, in this process.

    Attributes:
        name: the site's.
        run: the run, as headers have it.
        session: number of this process; later ones are larger.
        hello: what it says of itself to make channels.
    """

    name: str
    run: bytes
    session: bytes
    hello: bytes

    def channel(self, name: str, session: bytes, hello: bytes) -> Channel:
        """The channel to the site that said `hello`. Never make two of one session: their counters would begin again.

        Raises:
            Rejected: `hello` is not one of `name`, for this run.
        """
        ...


def new_session() -> bytes:
    """A number for a process: when it started, and chance."""
    return time.time_ns().to_bytes(8, "big") + os.urandom(SESSION_BYTES - 8)


class SealedOpening:
    """The side of a site with an identity.

    Args:
        identity: the site's.
        run: what all its letters are bound to; the hash of the experiment.
    """

    def __init__(self, identity: Identity, run: str) -> None:
        self.name, self.session, self._identity = identity.name, new_session(), identity
        self._whole_run = hashlib.sha256(run.encode()).digest()
        self.run = run_bytes(run)
        self._buffers = threading.local()
        self._private = _primitives("asymmetric.x25519").X25519PrivateKey.generate()
        public = self._private.public_key().public_bytes_raw()
        self._said = self._statement(identity.certificate, public, self.session)
        start = _HELLO.pack(len(identity.certificate), public, self.session)
        self.hello = start + identity.certificate + identity.sign(self._said)

    def channel(self, name: str, session: bytes, hello: bytes) -> "SealedChannel":
        if len(hello) < _HELLO.size:
            raise Rejected(Reason.MALFORMED)
        size, public, number = _HELLO.unpack_from(hello)
        text, signature = hello[_HELLO.size : _HELLO.size + size], hello[_HELLO.size + size :]
        if number != session or len(text) != size:
            raise Rejected(Reason.MALFORMED)
        try:
            certificate = parse_certificate(text)
            owner, role = self._identity.authority.check(certificate)
        except ValueError:
            raise Rejected(Reason.CERTIFICATE) from None
        if owner != name or role != "site":
            raise Rejected(Reason.CERTIFICATE)
        said = self._statement(text, public, session)
        if not signed(certificate, signature, said):
            raise Rejected(Reason.FORGED)
        x25519 = _primitives("asymmetric.x25519")
        try:
            secret = self._private.exchange(x25519.X25519PublicKey.from_public_bytes(public))
        except ValueError:  # a public key of small order, with which anybody would know the secret
            raise Rejected(Reason.FORGED) from None
        to = self._key(secret, self.name, name, self._said + said)
        back = self._key(secret, name, self.name, said + self._said)
        return SealedChannel(name, Ends(self.run, self.session, session[-TO_BYTES:]), session, to, back, self._buffers)

    def _statement(self, certificate: bytes, public: bytes, session: bytes) -> bytes:
        """What a hello signs; of fixed size."""
        return _PURPOSE + self._whole_run + hashlib.sha256(certificate).digest() + public + session

    def _key(self, secret: bytes, sender: str, receiver: str, said: bytes) -> bytes:
        hashes, hkdf = _primitives("hashes"), _primitives("kdf.hkdf")
        info = b"\0".join((_PURPOSE, sender.encode(), receiver.encode(), hashlib.sha256(said).digest()))
        return hkdf.HKDF(hashes.SHA256(), _KEY_BYTES, salt=self._whole_run, info=info).derive(secret)


class SealedChannel:
    """AES-256-GCM with a counter, one key per direction.

    Args:
        name, session: of the other site.
        ends: of what is sent.
        to, back: keys of what is sent, and of what is received.
        buffers: what each thread seals in, common to all channels of a site.
    """

    def __init__(self, name: str, ends: Ends, session: bytes, to: bytes, back: bytes, buffers: threading.local) -> None:
        aead = _primitives("ciphers.aead")
        self.name, self.session, self.lock, self.over = name, session, threading.Lock(), False
        self._ends = ends
        self._to, self._back = aead.AESGCM(to), aead.AESGCM(back)
        self._invalid = require("cryptography.exceptions", "net").InvalidTag
        self._sent = self._seen = 0
        self._buffers = buffers

    def seal(self, what: What, letter: Letter | None = None, body: Any = b"") -> bytearray:
        body = body if letter is None else letter.body
        size = len(body) if isinstance(body, bytes) else memoryview(body).nbytes
        start = header(what, self._ends, self._sent + 1, letter, size, TAG_BYTES)
        self._sent += 1
        buffer = self._buffer(HEADER_BYTES + size + TAG_BYTES)
        buffer[:HEADER_BYTES] = start
        with memoryview(buffer) as whole:
            self._to.encrypt_into(_nonce(self._sent), body, start, whole[HEADER_BYTES:])
        return buffer

    def _buffer(self, size: int) -> bytearray:
        """Large letters of one size follow each other: a buffer that stays spares 20,000 page faults at 80 MB, half the time."""
        if size < LARGE:
            return bytearray(size)
        latest = getattr(self._buffers, "latest", b"")
        if len(latest) != size:
            latest = self._buffers.latest = bytearray(size)
        return latest

    def unseal(self, head: Header, frame: bytes) -> bytes:
        if head.session != self.session or head.to != self._ends.session[-TO_BYTES:]:
            raise Rejected(Reason.SESSION)
        if head.tag != TAG_BYTES:
            raise Rejected(Reason.FORGED)
        if head.counter <= self._seen:
            raise Rejected(Reason.REPLAYED)
        view = memoryview(frame)
        try:
            body = self._back.decrypt(_nonce(head.counter), view[HEADER_BYTES:], view[:HEADER_BYTES])
        except self._invalid:
            raise Rejected(Reason.FORGED) from None
        self._seen = head.counter  # not before the seal is checked: else a forged frame would shut out the letters to come
        return body


def _nonce(counter: int) -> bytes:
    return counter.to_bytes(12, "big")


def _primitives(name: str):
    return require(f"cryptography.hazmat.primitives.{name}", "net")
