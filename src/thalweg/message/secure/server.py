"""The server's side of the protocol."""

import hashlib

import numpy as np

from . import crypto, shamir, wire
from .client import pair_key
from .errors import ProtocolError, TooFewClients
from .setup import Setup
from .wire import Kind


class Server:
    """The server of one secure sum. It learns Σ_{u survived} x_u, and of single vectors nothing but what follows from that.

        receive(sender, message)        as they come in; a wrong one is refused, and as if it had not come
        advance() → {client: message}   when enough have come, or it has waited long enough: the next step
        total                           the sum `[length]`, after the last step

    Steps: keys, shares, masked vectors, (with identities) signatures of who survived, shares of masks. Whoever is missing at a step
    has dropped out. Who sent a message is for the transport to say (mutual TLS); the header must agree.

    Attributes:
        survivors: whose vectors are in the sum.
        waiting: who may still send in this step.
        total: the sum in Z_{2^bits}; None before the end.

    Raises:
        ProtocolError: (`receive`) the message is wrong, forged, replayed or too late; the error names its client.
        TooFewClients: (`advance`) fewer than the threshold are left; the error names who is missing.
    """

    _STEPS = (Kind.KEYS, Kind.SHARES, Kind.MASKED, Kind.ATTEST, Kind.REVEAL)

    def __init__(self, setup: Setup):
        self.setup, self.total = setup, None
        self.survivors: frozenset[int] = frozenset()
        self.waiting = set(range(setup.clients))
        self._steps = [kind for kind in self._STEPS if setup.identities or kind is not Kind.ATTEST]
        self._got: dict[Kind, dict[int, object]] = {kind: {} for kind in self._steps}
        self._running = np.zeros(setup.length, setup.dtype)

    def receive(self, sender: int, message: bytes) -> None:
        """Take one client's message of this step."""
        kind = self._kind(sender)
        body = wire.unpack(self.setup, kind, sender, message)
        if sender not in self.waiting:
            raise ProtocolError(sender, f"got {kind.name} too late or twice: it has dropped out, or has sent one already")
        self._got[kind][sender] = getattr(self, f"_take_{kind.name.lower()}")(sender, body)
        self.waiting.discard(sender)

    def advance(self) -> dict[int, bytes]:
        """End this step without those who are missing. The messages of the next step, or nothing after the last."""
        kind = self._kind(None)
        present = frozenset(self._got[kind])
        if len(present) < self.setup.threshold:
            missing = tuple(sorted(self.waiting))
            raise TooFewClients(f"waiting for {kind.name}", len(present), self.setup.threshold, missing)
        messages = getattr(self, f"_after_{kind.name.lower()}")(present)
        self._steps.pop(0)
        self.waiting = set(messages)
        return messages

    def _kind(self, sender: int | None) -> Kind:
        if not self._steps:
            raise ProtocolError(sender, "the sum is over")
        return self._steps[0]

    def _take_keys(self, sender, body):
        return bytes(wire.exactly(sender, body, wire.keys_bytes(self.setup), "keys"))

    def _after_keys(self, present):
        keys = self._got[Kind.KEYS]
        return self._lists(Kind.ROSTER, present, lambda to: {who: keys[who] for who in self.setup.neighbours[to] & present})

    def _take_shares(self, sender, body):
        wanted = self.setup.neighbours[sender] & frozenset(self._got[Kind.KEYS])
        sealed = wire.unpack_entries(sender, body[wire.COMMITMENT_BYTES :], wire.SEALED_BYTES, wanted)
        if lacking := wanted - frozenset(sealed):
            raise ProtocolError(sender, f"got no share for client {min(lacking)}")
        return bytes(body[: wire.COMMITMENT_BYTES]), sealed

    def _after_shares(self, present):
        got = self._got[Kind.SHARES]
        inbox = lambda to: {who: got[who][1].pop(to) for who in self.setup.neighbours[to] & present}
        return self._lists(Kind.INBOX, present, inbox)

    def _take_masked(self, sender, body):
        size = self.setup.length * self.setup.dtype.itemsize
        self._running += np.frombuffer(wire.exactly(sender, body, size, "a masked vector"), self.setup.dtype)

    def _after_masked(self, present):
        self.survivors = present
        message = wire.pack(self.setup, Kind.SURVIVORS, None, wire.pack_bitmap(self.setup, present))
        return dict.fromkeys(present, message)

    def _take_attest(self, sender, body):
        return bytes(wire.exactly(sender, body, crypto.SIGNATURE_BYTES, "a signature"))

    def _after_attest(self, present):
        signatures = self._got[Kind.ATTEST]
        return self._lists(
            Kind.PROOF, present, lambda to: {who: signatures[who] for who in self.setup.neighbours[to] & present}
        )

    def _take_reveal(self, sender, body):
        shared = frozenset(self._got[Kind.SHARES])
        wanted = (self.setup.neighbours[sender] | {sender}) & shared
        shares = wire.unpack_entries(sender, body, shamir.SHARE_BYTES, wanted)
        if lacking := wanted - frozenset(shares):
            raise ProtocolError(sender, f"got no share about client {min(lacking)}")
        rows = {who: np.frombuffer(row, "<u4") for who, row in shares.items()}
        if any((row >= shamir.PRIME).any() for row in rows.values()):
            raise ProtocolError(sender, "got a share with a number that is not of the field")
        return rows

    def _after_reveal(self, present):
        shared, keys, lagrange = self._got[Kind.SHARES], self._got[Kind.KEYS], {}
        public = lambda who: keys[who][crypto.KEY_BYTES : 2 * crypto.KEY_BYTES]
        undo = []  # (key of a mask, how often the running sum has it)
        for who in sorted(self.survivors):
            secret = self._secret(who, present, lagrange)
            if hashlib.sha256(self.setup.mark + secret).digest() != shared[who][0]:
                raise ProtocolError(
                    who, "the shares of its mask give another secret than it committed to: a holder of them lied"
                )
            undo.append((crypto.derive(secret, self.setup.session, b"self"), 1))
        for who in sorted(frozenset(shared) - self.survivors):
            partners = sorted(self.setup.neighbours[who] & self.survivors)
            secret = self._secret(who, present, lagrange) if partners else b""
            if partners and crypto.public_key(secret) != public(who):
                raise ProtocolError(who, "the shares of its key give another key than it advertised: a holder of them lied")
            undo += [(pair_key(self.setup, secret, public(v), v), 1 if v < who else -1) for v in partners]
        masks = crypto.Masks()
        for key, times in undo:
            masks.add(self._running, key, -times)
        self.total = self._running
        return {}

    def _secret(self, who: int, present: frozenset[int], lagrange: dict) -> bytes:
        """What the shares about `who` add up to; weights of the same holders are computed once."""
        reveal, need = self._got[Kind.REVEAL], self.setup.shares
        holders = sorted((self.setup.neighbours[who] | {who}) & present)
        if len(holders) < need:
            missing = (self.setup.neighbours[who] | {who}) - present
            raise TooFewClients(f"unmasking client {who}", len(holders), need, tuple(sorted(missing)))
        points = tuple(holder + 1 for holder in holders[:need])
        if points not in lagrange:
            lagrange[points] = shamir.weights(points)
        try:
            return shamir.reveal(np.stack([reveal[holder][who] for holder in holders[:need]]), lagrange[points])
        except ValueError:
            raise ProtocolError(who, "the shares about it are not shares of one secret: a holder of them lied") from None

    def _lists(self, kind: Kind, receivers, entries) -> dict[int, bytes]:
        return {to: wire.pack(self.setup, kind, None, wire.pack_entries(entries(to))) for to in sorted(receivers)}
