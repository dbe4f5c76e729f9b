"""What a server says at the beginning of a secure sum, behind its broadcast: who is in it, and with which keys."""

import hashlib
import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from thalweg.message.secure.crypto import KEY_BYTES
from thalweg.message.secure.setup import SESSION_BYTES

_PURPOSE = b"thalweg deployed sum 1"
_ENTRY = struct.Struct("<IH")


class Invitation(NamedTuple):
    """To one client, to one sum.

    Attributes:
        nonce: 16 bytes that no other sum has.
        slots: the place of the client in each slot of the cohort, −1 where there is none.
        keys: of those in slots that are taken, in order; none where sites have no certificates.
        proofs: place → what shows whose a key is (`signer`), of those that its reader has not been shown.
    """

    nonce: bytes
    slots: tuple[int, ...]
    keys: tuple[bytes, ...] = ()
    proofs: Mapping[int, bytes] = {}

    @property
    def members(self) -> list[int]:
        """The places of those in the sum, in order."""
        return [place for place in self.slots if place >= 0]

    def session(self, run: str, where: tuple[int, int, int], common: bytes) -> bytes:
        """The name of the sum: of the run, of (epoch, round, phase), of who is in it, and of what all of them were told alike.

        Masks and signatures are bound to it. So whoever was told something else is in another sum, and spoils this one instead of
        standing out in it.
        """
        parts = hashlib.sha256(run.encode()).digest(), struct.pack("<3I", *where), self.nonce, _packed(self.slots), common
        return hashlib.sha256(_PURPOSE + b"".join(parts)).digest()[:SESSION_BYTES]

    def pack(self) -> bytes:
        """As bytes: nonce, slots (i4 each), keys, and of each proof its place (u4), its size (u2) and itself."""
        proofs = (_ENTRY.pack(place, len(proof)) + proof for place, proof in self.proofs.items())
        return b"".join((self.nonce, _packed(self.slots), *self.keys, *proofs))

    @classmethod
    def read(cls, text: bytes, slots: int, clients: int, signed: bool) -> "Invitation":
        """An invitation to a cohort with so many slots, of so many clients there are.

        Raises:
            ValueError: it is none.
        """
        end = SESSION_BYTES + 4 * slots
        if len(text) < end:
            raise ValueError(f"got {len(text)} bytes, expected at least {end}")
        places = tuple(np.frombuffer(text, "<i4", slots, SESSION_BYTES).tolist())
        members = [place for place in places if place >= 0]
        if members != sorted(set(members)) or (members and members[-1] >= clients) or min(places) < -1:
            raise ValueError(f"got clients {places}, expected different ones of {clients}, in order")
        keys: list[bytes] = []
        if signed:
            start, end = end, end + KEY_BYTES * len(members)
            keys = [text[i : i + KEY_BYTES] for i in range(start, end, KEY_BYTES)]
        proofs: dict[int, bytes] = {}
        while len(text) > end:
            if not signed or len(text) < end + _ENTRY.size:
                raise ValueError(f"got {len(text) - end} bytes more than belong there")
            place, size = _ENTRY.unpack_from(text, end)
            end += _ENTRY.size + size
            if place >= clients or place in proofs:
                raise ValueError(f"got a proof for client {place} of {clients}, expected one for each at most")
            proofs[place] = text[end - size : end]
        if len(text) != end:
            raise ValueError("got less than belongs there")
        return cls(text[:SESSION_BYTES], places, tuple(keys), proofs)


def _packed(slots: Sequence[int]) -> bytes:
    return np.asarray(slots, "<i4").tobytes()
