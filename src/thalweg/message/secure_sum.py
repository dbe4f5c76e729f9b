"""Sums of which the server sees nothing but the sum: ring arithmetic, as the protocol in `thalweg.message.secure` does it.

Axes: `c` slots of a cohort, `d` numbers of a message.
"""

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .aggregate import Aggregator
from .flow import Flow, Mechanism
from .noise import discrete_gaussian, shared_variance
from .payload import payload_bytes
from .ring import Ring, fitted
from .secure import Setup, sent_bytes, simulate

# Norms are computed in floating point.
ROUNDING = 1e-5


class SecureSum(Aggregator):
    """Σ_i a_i m_i, with nothing of a single message seen by the server.

        client        v_i = c a_i m_i, clipped to ‖v_i‖₂ ≤ clip (if given) and to [−range, range]
                      q_i = v_i/s rounded at random, plus its share of the noise (if any), in Z_{2^bits}
        server        (s/c) Σ_i q_i

    c is the number of slots of the cohort and a_i = w_i·factor_i/response_i what makes the sum an estimate of the mean over all clients;
    no a_i depends on who arrives, so that a client can multiply by its own before it encodes. Where the mean over those that
    arrived is wanted, the digits of a_i are further entries of the same vector, and the server divides by Σ_i a_i, never seeing one
    of them. If more than `dropouts` clients do not arrive, the round is void: nothing can be decoded, and nobody's message counts.

    range → `range`, s → `range`/levels (at most `step`), bits → `bits`, z → `noise_multiplier`, clip → `clip`, t → `dropouts`. The
    other fields: `protocol` runs the cryptography too; `degree` is the number of neighbours with whom a client masks; `ring` and
    `normalise` are known once the cohort is (`resolve`).

    A message with a number that is not one makes the sum NaN, as without secrecy; a real client would not send it.
    """

    range: float
    noise_multiplier: float
    clip: float | None
    bits: int | None = eqx.field(static=True)
    step: float | None
    dropouts: int | None = eqx.field(static=True)
    degree: int | None = eqx.field(static=True)
    protocol: bool = eqx.field(static=True)
    ring: Ring | None = None
    normalise: bool = eqx.field(static=True, default=False)

    individual: ClassVar[bool] = False
    unweighted: ClassVar[bool] = False
    sealed: ClassVar[bool] = True

    def after(self, flow: Flow) -> Flow:
        """Refuses what is not a fixed, linear function of the message, coordinate by coordinate."""
        name = "secure_sum: "
        if flow.replicated:
            raise ValueError(name + "before it the changes of a copy are sent (replicated), which the server could not keep for each "
                             "client; use a pipeline without copies")  # fmt: skip
        if flow.memory:
            raise ValueError(name + "before it a stage with memory carries what it left out into later messages; what it leaves out is "
                             "decided client by client, and sums of it are not sums of messages. Leave error feedback out")  # fmt: skip
        if not flow.fixed:
            raise ValueError(name + "before it each client chooses its own coordinates, and coordinates of a sum must mean the same for "
                             "all; compress without choosing (fewer bits, a coarser step), or leave the secure sum out")  # fmt: skip
        if not flow.linear:
            raise ValueError(name + "before it messages are cast or quantised, and sums of such wires are not sums of messages; the ring "
                             "quantises by itself: state bits= or step= here, and leave the cast out")  # fmt: skip
        inside = self.clip is None and flow.norm is not None and flow.norm <= self.range
        added = (Mechanism("discrete_gaussian", float(self.noise_multiplier), float(self.clip)),) if self._noisy else ()
        return flow.but(norm=None, norm_1=None, noise=flow.noise + added, unbiased=flow.unbiased and inside)

    @property
    def _noisy(self) -> bool:
        return self.clip is not None

    def tolerated(self, clients: int) -> int:
        """How many of them may drop out."""
        return clients - (2 * clients // 3 + 1) if self.dropouts is None else self.dropouts

    def resolve(self, slots: int, normalise: bool) -> "SecureSum":
        if slots < 2:
            raise ValueError(f"secure_sum: got a cohort of {slots}, expected at least 2: a sum of one message is that message")
        away = self.tolerated(slots)
        if not 0 <= away < slots / 2:
            raise ValueError(f"secure_sum(dropouts={self.dropouts}): expected 0 to {(slots - 1) // 2} of a cohort of {slots}, less "
                             "than half of it: else two halves could be told two stories")  # fmt: skip
        if self._noisy and normalise:
            raise ValueError("secure_sum with noise: the mean over those that arrived divides by a number that depends on who they are, and "
                             "one client can change it; use a cohort that is not normalised, and a fleet without deadlines")  # fmt: skip
        share = 0.0 if not self._noisy else float(self.noise_multiplier * self.clip / self.range)
        ring = fitted(slots, self.bits, float(self.range), self.step and float(self.step), share * math.sqrt(slots / (slots - away)))
        if self._noisy:
            shared_variance(share * ring.levels, slots - away)
        resolved = (self.range, self.noise_multiplier, self.clip, self.bits, self.step, self.dropouts, self.degree, self.protocol)
        return SecureSum(*resolved, ring, normalise)

    def error_bound(self, clients: int, dtype=np.float64) -> float:
        """Most that an entry of Σ_i a_i m_i can be off, where nothing is clipped and no noise is added, for a cohort of so many slots.

        s by rounding to the ring, and four roundings of numbers of this size. Where the sum is divided by Σ_i a_i, so is this.
        """
        ring = self.resolve(clients, False).ring
        return float(ring.step) + 4 * float(np.finfo(dtype).eps) * float(self.range)

    def accept(self, arrived):
        enough = jnp.sum(arrived) >= arrived.shape[0] - self.tolerated(self._ring(arrived.shape[0]).clients)
        return arrived & enough

    def init(self, d, dtype):
        self._radius(self.ring, d) if self._noisy and self.ring is not None else None
        return ()

    def combine(self, state, messages, weights, arrived, key):
        ring, d = self._ring(messages.shape[0]), messages.shape[1]
        arrived = self.accept(arrived)
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(messages.shape[0]))
        elements = jax.vmap(lambda m, a, k: self._client(ring, m, a, k))(messages, weights, keys)
        total = ring.leave(self._summed(ring, elements, arrived))
        wide = jnp.promote_types(messages.dtype, jnp.float32)
        mean = total[:d].astype(wide) * jnp.asarray(ring.step / ring.clients, wide)
        if self.normalise:
            share = ring.decode_weight(total[d:], wide)
            mean = jnp.where(share > 0, mean / jnp.where(share > 0, share, 1), 0)
        lost = jnp.any(jnp.isnan(messages) & arrived[:, None])
        return state, jnp.where(lost, jnp.nan, mean).astype(messages.dtype)

    def _client(self, ring, message, weight, key):
        """What one client puts into the sum: `[d]`, with the digits of its weight behind them where they are needed."""
        v = ring.clients * weight * message
        rounding, noise = jax.random.split(key)
        if self._noisy:
            radius, norm = self._radius(ring, len(message)), jnp.linalg.norm(v)
            v = v * jnp.where(norm > radius, radius / jnp.where(norm > radius, norm, 1), 1).astype(v.dtype)
        whole = ring.encode(jnp.where(jnp.isnan(v), 0, v), rounding)
        if self._noisy:
            deviation = self.noise_multiplier * self.clip / ring.step
            variance = deviation**2 / (ring.clients - self.tolerated(ring.clients))
            whole = whole + discrete_gaussian(noise, whole.shape, variance)
        if self.normalise:
            whole = jnp.concatenate([whole, ring.encode_weight(weight)])
        return ring.enter(whole)

    def _summed(self, ring, elements, arrived):
        if not self.protocol:
            return jnp.sum(jnp.where(arrived[:, None], elements, jnp.zeros_like(elements)), axis=0, dtype=ring.dtype)
        threshold = ring.clients - self.tolerated(ring.clients)

        def conduct(elements, arrived):
            elements, arrived = np.asarray(elements)[: ring.clients], np.asarray(arrived)[: ring.clients]
            if not arrived.any():
                return np.zeros(elements.shape[1], elements.dtype)
            gone = {"masked": np.flatnonzero(~arrived).tolist()}
            return simulate(elements, threshold=threshold, degree=self.degree, drops=gone).total.astype(elements.dtype)

        return jax.pure_callback(conduct, jax.ShapeDtypeStruct(elements.shape[1:], ring.dtype), elements, arrived)

    def bytes(self, wire):
        length = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(wire))
        if self.ring is None:
            return payload_bytes(wire)
        length += self.ring.digits[1] if self.normalise else 0
        clients = self.ring.clients
        threshold = clients - self.tolerated(clients)
        return sent_bytes(Setup(bytes(16), clients, length, threshold, self.ring.bits, self.degree))

    def _ring(self, slots: int) -> Ring:
        return self.resolve(slots, False).ring if self.ring is None else self.ring

    def _radius(self, ring, d: int):
        """What messages are clipped to, so that their rounded norm is at most `clip`: rounding may add s to every entry."""
        radius = self.clip - ring.step * math.sqrt(d)
        if not isinstance(radius, jax.core.Tracer) and radius <= 0:
            raise ValueError(f"secure_sum(clip={float(self.clip):g}): got steps of {float(ring.step):g} for {d} numbers, whose rounding may "
                             f"add {float(ring.step) * math.sqrt(d):g} to a norm, expected less than clip; use bits=32 or a finer step")  # fmt: skip
        return radius * (1 - ROUNDING)
