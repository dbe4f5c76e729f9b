"""The layout of the protocol's messages: everything has a fixed place and a length that is checked.

    header   "TWSA", version (u1), kind (u1), mark of the sum (16 bytes), sender (u4; the server is 2³² − 1)
    body     bytes of one length, or a count (u4) and so many entries: client (u4), bytes of one length

Numbers are little-endian. Decoders raise `ProtocolError` on anything else, whatever the bytes are.
"""

import enum
import struct

import numpy as np

from .crypto import KEY_BYTES, SIGNATURE_BYTES, TAG_BYTES
from .errors import ProtocolError
from .setup import Setup
from .shamir import SHARE_BYTES

_HEADER = struct.Struct("<4sBB16sI")
_MAGIC, _VERSION, SERVER = b"TWSA", 1, 2**32 - 1
HEADER_BYTES, ID_BYTES = _HEADER.size, 4


class Kind(enum.IntEnum):
    """What a message is."""

    KEYS = 1  # a client's public keys
    ROSTER = 2  # those of its neighbours
    SHARES = 3  # a client's sealed shares, one for each neighbour
    INBOX = 4  # those meant for a client
    MASKED = 5
    SURVIVORS = 6  # whose masked vectors arrived, one bit per client
    ATTEST = 7  # a signature of that
    PROOF = 8  # those of a client's neighbours
    REVEAL = 9  # one share of one secret of each neighbour


# Bytes of one entry, of what is a list of entries; of a SHARES message a commitment stands in front.
SEALED_BYTES = 2 * SHARE_BYTES + TAG_BYTES
COMMITMENT_BYTES = 32


def keys_bytes(setup: Setup) -> int:
    """Two public keys, with identities a signature of them."""
    return 2 * KEY_BYTES + (SIGNATURE_BYTES if setup.identities else 0)


def bitmap_bytes(setup: Setup) -> int:
    """One bit per client."""
    return -(-setup.clients // 8)


def pack(setup: Setup, kind: Kind, sender: int | None, body: bytes | memoryview) -> bytes:
    """A message."""
    return _HEADER.pack(_MAGIC, _VERSION, kind, setup.mark, SERVER if sender is None else sender) + body


def unpack(setup: Setup, kind: Kind, sender: int | None, message: bytes) -> memoryview:
    """The body of a message that is to be of this kind, from this sender (None: the server).

    Raises:
        ProtocolError: it is not.
    """
    if len(message) < HEADER_BYTES:
        raise ProtocolError(sender, f"got a message of {len(message)} bytes, expected a header of {HEADER_BYTES}")
    magic, version, found, mark, who = _HEADER.unpack_from(message)
    if magic != _MAGIC or version != _VERSION:
        raise ProtocolError(sender, f"got a message that begins {magic!r}, {version}, expected {_MAGIC!r}, {_VERSION}")
    if mark != setup.mark:
        raise ProtocolError(sender, "got a message of another sum (replayed?), or it was set up differently")
    if who != (SERVER if sender is None else sender):
        raise ProtocolError(sender, f"got a message that says it is from {'the server' if who == SERVER else f'client {who}'}")
    if found != kind:
        name = Kind(found).name if found in set(Kind) else found
        raise ProtocolError(sender, f"got {name}, expected {kind.name}: it is too early, too late or twice")
    return memoryview(message)[HEADER_BYTES:]


def exactly(sender: int | None, body: memoryview, length: int, what: str) -> memoryview:
    """The body, if it has this length."""
    if len(body) != length:
        raise ProtocolError(sender, f"got {what} of {len(body)} bytes, expected {length}")
    return body


def pack_entries(entries: dict[int, bytes]) -> bytes:
    """Entries in order of client."""
    rows = (who.to_bytes(ID_BYTES, "little") + entries[who] for who in sorted(entries))
    return len(entries).to_bytes(4, "little") + b"".join(rows)


def unpack_entries(sender: int | None, body: memoryview, size: int, allowed: frozenset[int]) -> dict[int, bytes]:
    """client → `size` bytes, of clients that are all `allowed`, each once and in order."""
    count = int.from_bytes(body[:4], "little") if len(body) >= 4 else -1
    if count < 0 or len(body) != 4 + count * (ID_BYTES + size):
        raise ProtocolError(sender, f"got a list of {len(body)} bytes, expected 4 + {ID_BYTES + size} for each of its entries")
    entries: dict[int, bytes] = {}
    last = -1
    for start in range(4, len(body), ID_BYTES + size):
        who = int.from_bytes(body[start : start + ID_BYTES], "little")
        if who not in allowed or who <= last:
            raise ProtocolError(
                sender, f"got an entry about client {who}, who is not to be in this list, or twice, or out of order"
            )
        entries[who], last = bytes(body[start + ID_BYTES : start + ID_BYTES + size]), who
    return entries


def pack_bitmap(setup: Setup, members: frozenset[int] | set[int]) -> bytes:
    """One bit per client."""
    bits = np.zeros(setup.clients, bool)
    bits[list(members)] = True
    return np.packbits(bits, bitorder="little").tobytes()


def unpack_bitmap(setup: Setup, sender: int | None, body: memoryview) -> frozenset[int]:
    """Whose bit is set."""
    data = np.frombuffer(exactly(sender, body, bitmap_bytes(setup), "a list of survivors"), np.uint8)
    bits = np.unpackbits(data, bitorder="little")
    if bits[setup.clients :].any():
        raise ProtocolError(sender, f"got a list of survivors with a client beyond {setup.clients - 1}")
    return frozenset(np.flatnonzero(bits).tolist())


def sent_bytes(setup: Setup) -> int:
    """What one client sends from the first step to the last, if nobody drops out."""
    others = setup.clients - 1 if setup.complete else setup.degree
    bodies = [
        keys_bytes(setup),
        COMMITMENT_BYTES + 4 + others * (ID_BYTES + SEALED_BYTES),
        setup.length * setup.bits // 8,
        4 + (others + 1) * (ID_BYTES + SHARE_BYTES),
    ]
    if setup.identities:
        bodies.append(SIGNATURE_BYTES)
    return sum(HEADER_BYTES + body for body in bodies)
