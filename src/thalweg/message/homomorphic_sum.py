"""Sums of encrypted messages: the alternative to masks, with the same interface.

Axes: `c` slots of a cohort, `d` numbers of a message.
"""

import dataclasses
import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from thalweg._extras import require

from .aggregate import Aggregator
from .secure import ckks
from .secure_sum import check_summable

# A ciphertext is two polynomials of 64-bit coefficients, compressed, and a header.
CIPHERTEXT_BYTES = 2 * 8 * ckks.DEGREE + 256
# Clipping in single precision may leave a little more than the range.
MARGIN = 1 + 1e-6


class HomomorphicSum(Aggregator):
    """Σ_i a_i m_i by the CKKS scheme: clients, who share a key, encrypt c a_i m_i clipped to [−range, range], and the server adds.

    Whoever arrives is in the sum: there are no masks to mend, and no round is void. One client that works with the server shows
    it all, and a message has eight times the bytes that it has in single precision. Where the mean over those that arrived is
    wanted, a_i (below 256) is one more entry. Without `protocol` a simulated run adds numbers in the clear: the scheme's own error
    is below `error_bound`.

    The server must keep to the rules, and not compare encrypted sums with what clients decrypt them to: the errors of the scheme,
    which are the difference, give the key away (Li and Micciancio). So sites that are processes of their own have `secure_sum`.

    Jung Hee Cheon, Andrey Kim, Miran Kim, Yongsoo Song, *Homomorphic encryption for arithmetic of approximate numbers*, ASIACRYPT
    2017. Baiyu Li, Daniele Micciancio, *On the security of homomorphic encryption on approximate numbers*, EUROCRYPT 2021.
    """

    range: float | Float[Array, ""]
    protocol: bool = eqx.field(static=True, default=False)
    clients: int | None = eqx.field(static=True, default=None)
    normalise: bool = eqx.field(static=True, default=False)

    individual: ClassVar[bool] = False
    unweighted: ClassVar[bool] = False
    sealed: ClassVar[bool] = True

    def __check_init__(self):
        if not self.range > 0:
            raise ValueError(f"homomorphic_sum: got range={self.range!r}, expected the largest entry of a message, above 0")

    def after(self, flow):
        check_summable("homomorphic_sum", flow)
        inside = flow.norm is not None and flow.norm <= self.range
        return flow.but(norm=None, norm_1=None, unbiased=flow.unbiased and inside)

    def resolve(self, slots, normalise):
        self.error_bound(slots)
        return dataclasses.replace(self, clients=slots, normalise=normalise)

    def error_bound(self, clients: int, dtype=np.float64) -> float:
        """Most that an entry of Σ_i a_i m_i is off where nothing is clipped, but for a probability below 2⁻⁴⁰."""
        largest = float(self.range) * MARGIN
        return ckks.error_bound(clients, largest) / clients + 4 * float(np.finfo(dtype).eps) * largest

    def init(self, d, dtype):
        return ()

    def combine(self, state, messages, weights, arrived, key):
        clients = messages.shape[0] if self.clients is None else self.clients
        rows = jnp.clip(clients * weights[:, None] * messages, -self.range, self.range)
        if self.normalise:
            rows = jnp.concatenate([rows, weights[:, None] * (self.range / 256)], axis=1)
        rows = jnp.where(arrived[:, None], rows, 0)
        total = self._encrypted(rows, arrived, clients) if self.protocol else jnp.sum(rows, axis=0)
        mean = total / clients
        if self.normalise:
            share = total[-1] * (256 / self.range)
            mean = jnp.where(jnp.any(arrived), mean[:-1] / jnp.where(share > 0, share, 1), 0)
        return state, mean.astype(messages.dtype)

    def _encrypted(self, rows, arrived, clients):
        # The range stands beyond the callback, which sees numbers only.
        def conduct(rows, arrived, largest):
            rows, arrived, largest = np.asarray(rows), np.asarray(arrived), float(largest)
            if not arrived.any() or not np.isfinite(rows).all():
                return rows.sum(0)
            client = ckks.KeyHolder(clients, largest * MARGIN)
            server = ckks.Adder(client.context(secret=False), rows.shape[1])
            for i in np.flatnonzero(arrived):
                server.receive(int(i), client.encrypt(rows[i]))
            return client.decrypt(server.total()).astype(rows.dtype)

        largest = jnp.asarray(self.range, rows.dtype)
        return jax.pure_callback(conduct, jax.ShapeDtypeStruct(rows.shape[1:], rows.dtype), rows, arrived, largest)

    def bytes(self, wire):
        length = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(wire)) + self.normalise
        return -(-length // ckks.SLOTS) * CIPHERTEXT_BYTES


def homomorphic_sum(range: float, *, protocol: bool = False) -> HomomorphicSum:
    """The server adds encrypted messages, and learns no single one, nor their sum before a client has decrypted it.

    Args:
        range: largest entry of a message, all fields together (times its weight over the average one); larger ones are clipped.
        protocol: encrypt in every round (extra "ckks"): the same sums up to `error_bound`.

    Raises:
        ValueError: range is not positive; when the cohort is known: clients·range is too large for the scheme.
    """
    if protocol:
        require("tenseal", "ckks")
    return HomomorphicSum(range, protocol)
