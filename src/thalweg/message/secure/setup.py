"""What everybody knows of one secure sum before it begins."""

import dataclasses
import functools
import hashlib

import numpy as np

from .graph import majority, neighbourhoods

SESSION_BYTES = 16


@dataclasses.dataclass(frozen=True)
class Setup:
    """One secure sum of vectors over the ring Z_{2^bits}.

    Args:
        session: 16 bytes that name it and are never used again; with `degree` they place clients in the graph, so that they must
            not be the choice of one who knows which clients are whose.
        clients: n, numbered from 0.
        length: numbers of a vector.
        threshold: the least number of clients that a sum may have; more than n/2, with `identities` more than 2n/3.
        bits: of the ring, 16 or 32.
        degree: with how many others a client masks; None: with all of them. Even; `secure.degree(n)` says how many are enough.
        identities: Ed25519 public keys of the clients, known from elsewhere. With them keys are signed, and survivors sign who they
            are told survived: what a server needs to be malicious is then more than a third of the clients.

    Raises:
        ValueError: a number is out of its range.
    """

    session: bytes
    clients: int
    length: int
    threshold: int
    bits: int = 32
    degree: int | None = None
    identities: tuple[bytes, ...] | None = None

    def __post_init__(self):
        n = self.clients
        if len(self.session) != SESSION_BYTES:
            raise ValueError(
                f"secure sum: got a session of {len(self.session)} bytes, expected {SESSION_BYTES}; use os.urandom(16)"
            )
        if n < 2 or self.length < 1:
            raise ValueError(f"secure sum: got {n} clients and vectors of length {self.length}, expected at least 2 and 1")
        if self.bits not in (16, 32):
            raise ValueError(f"secure sum: got bits={self.bits}, expected 16 or 32")
        least = 2 * n // 3 + 1 if self.identities else n // 2 + 1
        if not least <= self.threshold <= n:
            why = "2n/3, so that a third of the clients can lie" if self.identities else "n/2, so that there is one sum"
            raise ValueError(
                f"secure sum of {n} clients: got threshold={self.threshold}, expected {least} to {n}: more than {why}"
            )
        if self.degree is not None and (self.degree < 2 or self.degree % 2):
            raise ValueError(f"secure sum: got degree={self.degree}, expected an even number ≥ 2; use secure.degree({n})")
        if self.identities is not None and (len(self.identities) != n or any(len(key) != 32 for key in self.identities)):
            raise ValueError(f"secure sum: got {len(self.identities)} identities, expected {n} Ed25519 public keys of 32 bytes")

    @property
    def dtype(self) -> np.dtype:
        """Of the ring: unsigned, little-endian."""
        return np.dtype(f"<u{self.bits // 8}")

    @property
    def complete(self) -> bool:
        """Whether everybody masks with everybody."""
        return self.degree is None or self.degree >= self.clients - 1

    @property
    def shares(self) -> int:
        """Shares that reveal a secret."""
        return self.threshold if self.complete else majority(self.degree + 1)

    @functools.cached_property
    def neighbours(self) -> list[frozenset[int]]:
        """With whom each client masks."""
        return [frozenset(row.tolist()) for row in neighbourhoods(self.clients, self.degree, self.session)]

    @functools.cached_property
    def mark(self) -> bytes:
        """What every message begins with: a digest of all of this, so that a message fits no other sum."""
        text = f"{self.session.hex()} {self.clients} {self.length} {self.threshold} {self.bits} {self.degree} "
        return hashlib.sha256(text.encode() + b"".join(self.identities or ())).digest()[:16]
