"""The whole protocol in one process, for a round's vectors.

Axes: `n` clients, `d` numbers of a vector.
"""

import dataclasses
import os
import time
from collections.abc import Collection, Mapping

import numpy as np

from . import crypto
from .client import Client
from .crypto import Source
from .server import Server
from .setup import SESSION_BYTES, Setup
from .wire import Kind

# What a client that drops out does not send any more.
STEPS = ("keys", "shares", "masked", "attest", "reveal")


@dataclasses.dataclass(frozen=True)
class Transcript:
    """What came of one secure sum.

    Attributes:
        total: `[d]` the sum over the survivors, in the ring.
        survivors: whose vectors are in it.
        sent, received: `[n]` bytes of each client's messages.
        client_seconds: `[n]`; server_seconds: what each computed for.
    """

    total: np.ndarray
    survivors: frozenset[int]
    sent: np.ndarray
    received: np.ndarray
    client_seconds: np.ndarray
    server_seconds: float


def simulate(
    vectors: np.ndarray,
    *,
    threshold: int,
    degree: int | None = None,
    signed: bool = False,
    drops: Mapping[str, Collection[int]] | None = None,
    source: Source = os.urandom,
) -> Transcript:
    """The protocol with a client for every row, a server, and every message packed and unpacked.

    Args:
        vectors: `[n, d]` of the ring: uint16 or uint32.
        threshold, degree: as in `Setup`.
        signed: with identities, signatures and the round that makes sure that all were told the same.
        drops: step ("keys", "shares", "masked", "attest", "reveal") → clients that send nothing from that step on.
        source: of random bytes.

    Raises:
        ValueError: a number is out of its range, or a step or a client of `drops` does not exist.
        TooFewClients: fewer than the threshold are left.
        ImportError: the package cryptography is not installed (extra "secure").
    """
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or vectors.dtype not in (np.uint16, np.uint32):
        raise ValueError(f"secure simulate: got vectors {vectors.dtype}{list(vectors.shape)}, expected uint16 or uint32 [n, d]")
    n, d = vectors.shape
    drops = _gone(drops or {}, n)
    private = [source(crypto.KEY_BYTES) for _ in range(n)] if signed else [None] * n
    known = tuple(map(crypto.signing_public, private)) if signed else None
    setup = Setup(source(SESSION_BYTES), n, d, threshold, 8 * vectors.dtype.itemsize, degree, known)
    clients = [Client(setup, i, identity=private[i], source=source) for i in range(n)]
    server, seconds = Server(setup), np.zeros(n)
    sent, received, server_seconds = np.zeros(n, np.int64), np.zeros(n, np.int64), 0.0
    respond = {
        Kind.KEYS: lambda client, message: client.advertise(),
        Kind.SHARES: lambda client, message: client.share(message),
        Kind.MASKED: lambda client, message: client.mask(message, vectors[client.index].astype(setup.dtype)),
        Kind.ATTEST: lambda client, message: client.attest(message),
        Kind.REVEAL: lambda client, message: client.unmask(message),
    }
    inbox: dict[int, bytes] = dict.fromkeys(range(n), b"")
    for step in (Kind[name.upper()] for name in STEPS if signed or name != "attest"):
        for i, message in inbox.items():
            received[i] += len(message)
            if i in drops[step.name.lower()]:
                continue
            began = time.perf_counter()
            answer = respond[step](clients[i], message)
            seconds[i] += time.perf_counter() - began
            sent[i] += len(answer)
            began = time.perf_counter()
            server.receive(i, answer)
            server_seconds += time.perf_counter() - began
        began = time.perf_counter()
        inbox = server.advance()
        server_seconds += time.perf_counter() - began
    return Transcript(server.total, server.survivors, sent, received, seconds, server_seconds)


def _gone(drops: Mapping[str, Collection[int]], n: int) -> dict[str, frozenset[int]]:
    """Who sends nothing at each step."""
    if unknown := set(drops) - set(STEPS):
        raise ValueError(f"secure simulate: got drops at {sorted(unknown)}, expected steps among {STEPS}")
    if strange := {i for who in drops.values() for i in who if not 0 <= i < n}:
        raise ValueError(f"secure simulate: got drops of clients {sorted(strange)}, expected 0 to {n - 1}")
    found, gone = {}, frozenset()
    for step in STEPS:
        gone |= frozenset(drops.get(step, ()))
        found[step] = gone
    return found
