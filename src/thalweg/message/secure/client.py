"""A client's side of the protocol."""

import hashlib
import os

import numpy as np

from . import crypto, shamir, wire
from .crypto import Source
from .errors import ProtocolError
from .setup import Setup
from .wire import Kind


class Client:
    """One client in one secure sum; it does what it is told once, in this order:

        advertise() → public keys                                KEYS
        share(roster) → sealed shares of its two secrets         SHARES
        mask(inbox, vector) → the masked vector                  MASKED
        attest(survivors) → its signature of who survived        ATTEST   (with identities)
        unmask(survivors or proof) → shares of others            REVEAL

    It sends y = x + G(b) + Σ_{v > u} G(s_uv) − Σ_{v < u} G(s_uv) in Z_{2^bits} over its neighbours v that shared: G is a stream
    cipher, b a secret of its own, s_uv a key agreed with v. Shares of b are revealed if it survives, of its part in the s_uv if it
    does not, and never both: then its vector would lie open.

    Args:
        setup: of the sum.
        index: its number.
        identity: its Ed25519 private key, where the setup has identities.
        source: n → n random bytes that nobody else knows; the operating system's unless a test needs others.

    Every method raises `ProtocolError` where the server's message is wrong, and from then on for whatever it is asked: a client
    that was lied to says nothing more.

    Keith Bonawitz et al., *Practical secure aggregation for privacy-preserving machine learning*, CCS 2017, figure 4.
    """

    def __init__(self, setup: Setup, index: int, *, identity: bytes | None = None, source: Source = os.urandom):
        if not 0 <= index < setup.clients:
            raise ValueError(f"secure client: got index {index}, expected 0 to {setup.clients - 1}")
        if (identity is None) != (setup.identities is None):
            raise ValueError(
                "secure client: a setup with identities needs identity=, its Ed25519 private key, and no other does"
            )
        if setup.identities and crypto.signing_public(identity) != setup.identities[index]:
            raise ValueError(f"secure client {index}: got an identity that is not the one in the setup")
        self.setup, self.index, self._identity, self._source = setup, index, identity, source
        self._near = setup.neighbours[index]
        self._next = "advertise"
        self._channel, self._pair, self._self = (source(crypto.KEY_BYTES) for _ in range(3))

    def advertise(self) -> bytes:
        """Its public keys."""
        self._begin("advertise")
        keys = crypto.public_key(self._channel) + crypto.public_key(self._pair)
        if self._identity:
            keys += crypto.sign(self._identity, self._about_keys(self.index, keys))
        return self._done("share", Kind.KEYS, keys)

    def share(self, roster: bytes) -> bytes:
        """Shares of its two secrets, each sealed for the neighbour that is to hold it."""
        self._begin("share")
        body = wire.unpack(self.setup, Kind.ROSTER, None, roster)
        entries = wire.unpack_entries(None, body, wire.keys_bytes(self.setup), self._near)
        self._enough(len(entries) + 1, "neighbours with keys")
        self._keys, self._channels = {}, {}
        for who, keys in entries.items():
            own, signature = keys[: 2 * crypto.KEY_BYTES], keys[2 * crypto.KEY_BYTES :]
            if self._identity and not crypto.signed(self.setup.identities[who], signature, self._about_keys(who, own)):
                raise ProtocolError(who, "its keys are not signed by it: the server, or somebody between, replaced them")
            self._keys[who] = own[: crypto.KEY_BYTES], own[crypto.KEY_BYTES :]
        holders = sorted({*entries, self.index})
        points, need = [who + 1 for who in holders], self.setup.shares
        parts = [shamir.share(secret, need, points, self._source).astype("<u4") for secret in (self._self, self._pair)]
        texts = {who: b"".join(part[i].tobytes() for part in parts) for i, who in enumerate(holders)}
        self._held = {self.index: texts.pop(self.index)}
        sealed = {
            who: crypto.seal(self._channel_key(who, self.index, who), text, self._about(self.index, who))
            for who, text in texts.items()
        }
        commitment = hashlib.sha256(self.setup.mark + self._self).digest()
        return self._done("mask", Kind.SHARES, commitment + wire.pack_entries(sealed))

    def mask(self, inbox: bytes, vector: np.ndarray) -> bytes:
        """Its vector `[length]` of the ring, masked."""
        self._begin("mask")
        if vector.shape != (self.setup.length,) or vector.dtype != self.setup.dtype:
            raise ValueError(
                f"secure client {self.index}: got a vector {vector.dtype}{list(vector.shape)}, "
                f"expected {self.setup.dtype}[{self.setup.length}]"
            )
        body = wire.unpack(self.setup, Kind.INBOX, None, inbox)
        entries = wire.unpack_entries(None, body, wire.SEALED_BYTES, frozenset(self._keys))
        self._enough(len(entries) + 1, "neighbours that shared")
        for who, sealed in entries.items():
            try:
                self._held[who] = crypto.unseal(self._channel_key(who, who, self.index), sealed, self._about(who, self.index))
            except ValueError:
                raise ProtocolError(
                    who, f"its shares for client {self.index} do not decrypt: they were forged, or are another's"
                ) from None
        masked, masks = vector.copy(), crypto.Masks()
        masks.add(masked, crypto.derive(self._self, self.setup.session, b"self"), 1)
        for who in entries:
            masks.add(masked, pair_key(self.setup, self._pair, self._keys[who][1], who), 1 if self.index < who else -1)
        return self._done("attest" if self._identity else "unmask", Kind.MASKED, masked.tobytes())

    def attest(self, survivors: bytes) -> bytes:
        """Its signature of the list of survivors that it was given."""
        self._begin("attest")
        self._survivors = self._checked_survivors(survivors)
        return self._done("unmask", Kind.ATTEST, crypto.sign(self._identity, self._about_survivors()))

    def unmask(self, message: bytes) -> bytes:
        """One share for each neighbour that shared: of its own mask if it survived, of its part in the masks of pairs if not.

        Args:
            message: the list of survivors; with identities the proof that enough neighbours were given the same one.
        """
        self._begin("unmask")
        if self._identity:
            body = wire.unpack(self.setup, Kind.PROOF, None, message)
            for who, signature in wire.unpack_entries(None, body, crypto.SIGNATURE_BYTES, self._near & self._survivors).items():
                if not crypto.signed(self.setup.identities[who], signature, self._about_survivors()):
                    raise ProtocolError(who, "it did not sign the survivors that I was told of: the server tells clients apart")
            self._enough(
                1 + (len(body) - 4) // (wire.ID_BYTES + crypto.SIGNATURE_BYTES), "neighbours that signed the same survivors"
            )
        else:
            self._survivors = self._checked_survivors(message)
        own, size = self._survivors, shamir.SHARE_BYTES
        shares = {who: text[:size] if who in own else text[size:] for who, text in self._held.items()}
        return self._done("nothing: it is over", Kind.REVEAL, wire.pack_entries(shares))

    def _checked_survivors(self, message: bytes) -> frozenset[int]:
        body = wire.unpack(self.setup, Kind.SURVIVORS, None, message)
        survivors = wire.unpack_bitmap(self.setup, None, body)
        if self.index not in survivors:
            raise ProtocolError(None, f"got survivors without client {self.index}, who is asked to unmask")
        if len(survivors) < self.setup.threshold:
            raise ProtocolError(
                None, f"got {len(survivors)} survivors, expected at least {self.setup.threshold}, the threshold"
            )
        if strange := survivors & self._near - frozenset(self._held):
            raise ProtocolError(None, f"got survivors who shared nothing: client {min(strange)}")
        self._enough(len(survivors & frozenset(self._held)), "neighbours that survived")
        return survivors

    def _begin(self, step: str) -> None:
        if self._next != step:
            raise ProtocolError(None, f"client {self.index} was asked to {step}, expected {self._next}")
        self._next = "nothing: it was told something wrong"  # until this step is done

    def _done(self, following: str, kind: Kind, body: bytes) -> bytes:
        self._next = following
        return wire.pack(self.setup, kind, self.index, body)

    def _enough(self, count: int, what: str) -> None:
        if count < self.setup.shares:
            raise ProtocolError(
                None, f"got {count} {what}, client {self.index} included, expected at least {self.setup.shares}"
            )

    def _channel_key(self, other: int, sender: int, receiver: int) -> bytes:
        if other not in self._channels:
            self._channels[other] = agreed(self.setup, self._channel, self._keys[other][0], b"channel", other)
        return crypto.derive(self._channels[other], self.setup.session, b"from %d to %d" % (sender, receiver))

    def _about(self, sender: int, receiver: int) -> bytes:
        return self.setup.mark + sender.to_bytes(4, "little") + receiver.to_bytes(4, "little")

    def _about_keys(self, who: int, keys: bytes) -> bytes:
        return b"keys" + self.setup.mark + who.to_bytes(4, "little") + keys

    def _about_survivors(self) -> bytes:
        return b"survivors" + self.setup.mark + wire.pack_bitmap(self.setup, self._survivors)


def agreed(setup: Setup, private: bytes, public: bytes, purpose: bytes, other: int) -> bytes:
    """A key agreed with client `other`."""
    try:
        return crypto.agree(private, public, setup.session, purpose)
    except ValueError:
        raise ProtocolError(other, "its public key is of small order: the key agreed with it would be no secret") from None


def pair_key(setup: Setup, private: bytes, public: bytes, other: int) -> bytes:
    """The key of the mask that two clients share."""
    return agreed(setup, private, public, b"mask of a pair", other)
