"""Sums of encrypted vectors: CKKS, by the package TenSEAL (extra "ckks").

    clients share a key that the server has not → each sends Enc(v_i) → the server adds → whoever has the key decrypts Σ v_i

One step, and no drop-outs to mend: a sum over those that arrived is as good as any. But a vector becomes eight times as long as in
single precision, arithmetic is approximate, and one client that works with the server shows it everything: the key is all clients'.

Axes: `n` clients, `d` numbers of a vector.

Jung Hee Cheon, Andrey Kim, Miran Kim, Yongsoo Song, *Homomorphic encryption for arithmetic of approximate numbers*, ASIACRYPT 2017.
"""

import math

import numpy as np

from thalweg._extras import require

from .errors import ProtocolError

__all__ = ["Adder", "KeyHolder", "error_bound"]

# 128 bits of security for polynomials of degree below 4096 (homomorphicencryption.org, 2018): the moduli have 108 ≤ 109 bits.
DEGREE, MODULI, DEVIATION = 4096, (54, 54), 3.2
SLOTS = DEGREE // 2
# A sum and its noise must stay below half of the first modulus.
ROOM_BITS = MODULI[0] - 2


def error_bound(clients: int, largest: float) -> float:
    """Most that an entry of Σ v_i is off, |v_i| ≤ largest, but for a probability below 2⁻⁴⁰ (Cheon et al., lemma 1)."""
    weight = 2 * DEGREE / 3
    fresh = DEVIATION * (8 * math.sqrt(2) * DEGREE + 6 * math.sqrt(DEGREE) + 16 * math.sqrt(weight * DEGREE))
    return clients * (fresh / _scale(clients, largest) + 2.0**-50 * largest)


def _scale(clients: int, largest: float) -> float:
    bits = ROOM_BITS - math.ceil(math.log2(clients * largest))
    if bits < 20:
        raise ValueError(
            f"ckks: got {clients} clients with numbers up to {largest:g}, expected a product below 2^{ROOM_BITS - 20}"
        )
    return 2.0**bits


class KeyHolder:
    """What every client has: it encrypts its own vector and decrypts the sum.

    Args:
        clients: the most that are added; largest: the largest entry of a vector.
        context: of another client, with the secret key; None: a fresh one.
    """

    def __init__(self, clients: int, largest: float, context: bytes | None = None):
        self._tenseal, self._scale, self._largest = require("tenseal", "ckks"), _scale(clients, largest), largest
        if context is None:
            made = self._tenseal.context(self._tenseal.SCHEME_TYPE.CKKS, DEGREE, coeff_mod_bit_sizes=list(MODULI))
        else:
            made = self._tenseal.context_from(context)
        self._context = made

    def context(self, secret: bool) -> bytes:
        """The keys: with the `secret` one for other clients, without it for the server."""
        return self._context.serialize(save_secret_key=secret, save_galois_keys=False, save_relin_keys=False)

    def encrypt(self, vector: np.ndarray) -> list[bytes]:
        """`[d]` as ciphertexts of `SLOTS` numbers each.

        Raises:
            ValueError: an entry is too large, or not finite.
        """
        if not (np.abs(vector) <= self._largest).all():
            raise ValueError(f"ckks: got an entry {np.max(np.abs(vector))}, expected at most {self._largest:g}")
        parts = [vector[i : i + SLOTS].tolist() for i in range(0, len(vector), SLOTS)]
        return [self._tenseal.ckks_vector(self._context, part, scale=self._scale).serialize() for part in parts]

    def decrypt(self, ciphertexts: list[bytes]) -> np.ndarray:
        """`[d]` the sum."""
        parts = [self._tenseal.ckks_vector_from(self._context, text).decrypt() for text in ciphertexts]
        return np.concatenate([np.asarray(part) for part in parts])


class Adder:
    """The server: it adds ciphertexts of vectors `[d]`, and has no key to read them.

    Attributes:
        count: how many vectors were added.
    """

    def __init__(self, context: bytes, length: int):
        self._tenseal = require("tenseal", "ckks")
        self._context, self._length, self.count = self._tenseal.context_from(context), length, 0
        if self._context.is_private():
            raise ValueError(
                "ckks: got a context with the secret key, which the server must not have; use context(secret=False)"
            )
        self._totals, self._heard = None, set()

    def receive(self, sender: int, ciphertexts: list[bytes]) -> None:
        """Add one client's vector.

        Raises:
            ProtocolError: it does not parse, has another length, or came before.
        """
        if sender in self._heard:
            raise ProtocolError(sender, "got a second vector")
        try:
            parts = [self._tenseal.ckks_vector_from(self._context, text) for text in ciphertexts]
        except ValueError as error:
            raise ProtocolError(sender, f"got bytes that are no ciphertext: {error}") from None
        if sum(part.size() for part in parts) != self._length or any(part.size() != SLOTS for part in parts[:-1]):
            raise ProtocolError(sender, f"got {sum(part.size() for part in parts)} numbers, expected {self._length}")
        self._totals = parts if self._totals is None else [a + b for a, b in zip(self._totals, parts, strict=True)]
        self._heard.add(sender)
        self.count += 1

    def total(self) -> list[bytes]:
        """The encrypted sum."""
        return [part.serialize() for part in self._totals or ()]
