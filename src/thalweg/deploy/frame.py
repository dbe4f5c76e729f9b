"""The frame of a letter: a header of fixed size in front of a body, as bytes.

What arrives may have been written by anybody. `read` believes nothing: it raises `Rejected` for whatever is not a frame, and
nothing else, ever. That a frame is well-formed says nothing of who wrote it: see `thalweg.deploy.seal`.

    offset  bytes  field
         0      4  magic, "tlwg"
         4      1  version of this layout
         5      1  what the frame is (`What`)
         6      1  kind of the letter (`Kind`); 0 in other frames
         7      1  flags, all 0
         8      4  epoch
        12      4  round
        16      2  phase
        18      2  size of what follows the body (the seal's tag)
        20      8  counter
        28      8  run: the beginning of its hash
        36     16  session of the sender
        52      8  session of the receiver: its last bytes; 0 where it is not known yet
        60      8  size of the body
        68         body, then the tag

Numbers are unsigned and little-endian.
"""

import enum
import hashlib
import struct
from typing import NamedTuple

from .post import Kind, Letter

_LAYOUT = struct.Struct("<4sBBBBIIHHQ8s16s8sQ")
HEADER_BYTES = _LAYOUT.size
MAGIC, VERSION = b"tlwg", 1
RUN_BYTES, SESSION_BYTES, TO_BYTES, TAG_BYTES = 8, 16, 8, 16
ANYBODY = bytes(TO_BYTES)
# Hellos are a certificate, a key and a signature: about 700 bytes.
GREETING_BYTES = 8192


class Reason(enum.StrEnum):
    """Why a frame was thrown away; counted in `Post.rejected`."""

    MALFORMED = "malformed"  # not a frame
    OVERSIZED = "oversized"  # a body beyond the limit
    FORGED = "forged"  # the seal is broken: altered on the way, or by somebody who has not the key, or for somebody else
    REPLAYED = "replayed"  # came before, or after a later one
    SESSION = "other session"  # of a process that is over, or that never said who it is
    RUN = "other run"
    SITE = "unknown site"  # by a name that does not take part
    TAKEN = "name taken"  # a hello in a name whose owner is here
    CERTIFICATE = "bad certificate"  # a hello whose certificate is not valid here, or is of another name


class Rejected(Exception):
    """A frame that is thrown away.

    Attributes:
        reason: why.
    """

    def __init__(self, reason: Reason) -> None:
        super().__init__(str(reason))
        self.reason = reason


class What(enum.IntEnum):
    """What a frame is."""

    HELLO = 1  # who a site is; asks for an ANSWER
    ANSWER = 2  # who a site is; asks for nothing
    CONFIRM = 3  # sealed and empty: whoever said hello has the key that it spoke of
    LETTER = 4
    TAKEN = 5  # sealed: another session has the name of the receiver, the one in the body


class Header(NamedTuple):
    """What is in front of a body."""

    what: What
    kind: int
    epoch: int
    round: int
    phase: int
    tag: int
    counter: int
    run: bytes
    session: bytes
    to: bytes
    size: int


# Enumerations' own look-up is slow; this is done for every letter.
_WHAT = {int(what): what for what in What}
_KINDS = {int(kind): kind for kind in Kind}
_SIZES = {What.CONFIRM: 0, What.TAKEN: SESSION_BYTES}


def run_bytes(run: str) -> bytes:
    """A run, as headers have it."""
    return hashlib.sha256(run.encode()).digest()[:RUN_BYTES]


class Ends(NamedTuple):
    """Between whom a frame goes: `run` and the two sessions, as `Header` has them."""

    run: bytes
    session: bytes
    to: bytes = ANYBODY


def header(what: What, ends: Ends, counter: int = 0, letter: Letter | None = None, size: int = 0, tag: int = 0) -> bytes:
    """The header of a frame.

    Raises:
        ValueError: epoch, round or phase do not fit.
    """
    kind, epoch, round_, phase = (0, 0, 0, 0) if letter is None else (letter.kind, letter.epoch, letter.round, letter.phase)
    try:
        return _LAYOUT.pack(MAGIC, VERSION, what, kind, 0, epoch, round_, phase, tag, counter, *ends, size)
    except struct.error:
        limits = "expected whole numbers from 0 to 2³²−1 (phase: to 65,535)"
        raise ValueError(f"got epoch {epoch}, round {round_}, phase {phase}, {limits}; number them from 0") from None


def read(frame: bytes, limit: int) -> Header:
    """The header of a frame whose body has at most `limit` bytes.

    Raises:
        Rejected: it is not a frame.
    """
    if len(frame) < HEADER_BYTES:
        raise Rejected(Reason.MALFORMED)
    magic, version, what, kind, flags, epoch, round_, phase, tag, *rest, size = _LAYOUT.unpack_from(frame)
    if magic != MAGIC or version != VERSION or flags or what not in _WHAT or tag not in (0, TAG_BYTES):
        raise Rejected(Reason.MALFORMED)
    if len(frame) != HEADER_BYTES + size + tag:
        raise Rejected(Reason.MALFORMED)
    if what == What.LETTER:
        if kind not in _KINDS:
            raise Rejected(Reason.MALFORMED)
    elif kind or epoch or round_ or phase or _SIZES.get(what, size) != size:
        raise Rejected(Reason.MALFORMED)
    if size > (limit if what == What.LETTER else GREETING_BYTES):
        raise Rejected(Reason.OVERSIZED)
    return Header(_WHAT[what], kind, epoch, round_, phase, tag, *rest, size)


def letter(head: Header, body: bytes | memoryview, sender: str) -> Letter:
    """The letter of a frame that is believed."""
    return Letter(_KINDS[head.kind], head.epoch, head.round, head.phase, body, sender)
