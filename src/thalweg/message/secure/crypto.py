"""The cryptography of the protocol: X25519, HKDF-SHA-256, AES-256 in counter mode, ChaCha20-Poly1305, Ed25519.

All of it is that of the package `cryptography` (extra "secure"), which is loaded when a client or a server is made.
"""

from collections.abc import Callable

import numpy as np

from thalweg._extras import require

KEY_BYTES, SIGNATURE_BYTES, TAG_BYTES = 32, 64, 16
# Keystream is made and added in pieces that stay in the processor's cache.
PIECE = 2**18

Source = Callable[[int], bytes]


def _primitives(name: str):
    return require(f"cryptography.hazmat.primitives.{name}", "secure")


def public_key(private: bytes) -> bytes:
    """The X25519 public key."""
    return _primitives("asymmetric.x25519").X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agree(private: bytes, public: bytes, session: bytes, purpose: bytes) -> bytes:
    """A key that only the owners of both X25519 keys know, for one purpose in one session.

    Raises:
        ValueError: the public key is of small order, so that anybody would know it.
    """
    x25519 = _primitives("asymmetric.x25519")
    secret = x25519.X25519PrivateKey.from_private_bytes(private).exchange(x25519.X25519PublicKey.from_public_bytes(public))
    return derive(secret, session, purpose)


def derive(secret: bytes, session: bytes, purpose: bytes) -> bytes:
    """HKDF with the session as its salt."""
    hashes, hkdf = _primitives("hashes"), _primitives("kdf.hkdf")
    return hkdf.HKDF(hashes.SHA256(), KEY_BYTES, salt=session, info=b"thalweg secure sum, " + purpose).derive(secret)


def seal(key: bytes, text: bytes, about: bytes) -> bytes:
    """`text` encrypted and authenticated together with `about`; a key is used once."""
    return _primitives("ciphers.aead").ChaCha20Poly1305(key).encrypt(bytes(12), text, about)


def unseal(key: bytes, sealed: bytes, about: bytes) -> bytes:
    """Inverse of `seal`.

    Raises:
        ValueError: it was not sealed with this key, or about something else.
    """
    try:
        return _primitives("ciphers.aead").ChaCha20Poly1305(key).decrypt(bytes(12), sealed, about)
    except require("cryptography.exceptions", "secure").InvalidTag:
        raise ValueError("it does not decrypt") from None


def signing_public(private: bytes) -> bytes:
    """The Ed25519 public key."""
    return _primitives("asymmetric.ed25519").Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def sign(private: bytes, text: bytes) -> bytes:
    """An Ed25519 signature."""
    return _primitives("asymmetric.ed25519").Ed25519PrivateKey.from_private_bytes(private).sign(text)


def signed(public: bytes, signature: bytes, text: bytes) -> bool:
    """Whether it is the owner's signature of `text`."""
    key = _primitives("asymmetric.ed25519").Ed25519PublicKey.from_public_bytes(public)
    try:
        key.verify(signature, text)
    except require("cryptography.exceptions", "secure").InvalidSignature:
        return False
    return True


class Masks:
    """Adds keystreams to vectors, in place; keeps the two small buffers that it takes."""

    def __init__(self):
        ciphers = _primitives("ciphers")
        self._cipher = lambda key: ciphers.Cipher(ciphers.algorithms.AES(key), ciphers.modes.CTR(bytes(16))).encryptor()
        self._zeros, self._stream = bytes(PIECE), np.empty(PIECE + 15, np.uint8)

    def add(self, vector: np.ndarray, key: bytes, times: int) -> None:
        """vector ← vector + times·(keystream of `key`) in the ring of its unsigned dtype; `times` is 1 or −1."""
        change = np.add if times == 1 else np.subtract
        cipher, per = self._cipher(key), PIECE // vector.itemsize
        whole = self._stream[:PIECE].view(vector.dtype.newbyteorder("<"))
        zeros = memoryview(self._zeros)
        for start in range(0, len(vector), per):
            part = vector[start : start + per]
            cipher.update_into(zeros[: part.nbytes], self._stream)
            change(part, whole[: len(part)], out=part)
