"""Sums of which the server sees nothing but the sum: ring arithmetic, as the protocol in `thalweg.message.secure` does it.

Axes: `c` slots of a cohort, `d` numbers of a message.
"""

import dataclasses
import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt

from thalweg._extras import require

from .aggregate import Aggregator
from .flow import Flow, Mechanism
from .noise_shares import check_shares, discrete_gaussian
from .ring import Ring, fitted
from .secure import Setup, sent_bytes, simulate
from .secure.graph import failure
from .secure.setup import SESSION_BYTES

# Traced once a run is set up.
Real = float | Float[Array, ""]

# Norms are computed in floating point.
ROUNDING = 1e-5

# Accepted probability that neighbours' shares are not enough although a cohort has lost no more clients than it may.
LOST_ROUNDS = 1e-5

# Where nobody drops out, noise is larger than asked for by less than this: shares are made for more than half of the clients.
SURPLUS = math.sqrt(2)

# Facts of a pipeline that a sum cannot stand behind.
UNSUMMABLE = {
    "replicated": "changes of a copy are sent before it, and the server could not keep a copy for each client; use a pipeline "
    "without copies",
    "memory": "a stage before it carries what it left out into later messages, which each client decides by itself, and the sum of "
    "such messages is no sum of what was meant; leave error feedback out",
    "fixed": "each client chooses its own coordinates before it, and a coordinate of a sum must mean the same for all; compress "
    "without choosing (bits=16, a coarser step=), or leave the secure sum out",
    "linear": "messages are cast or quantised before it, and a sum of such wires is no sum of messages; the ring quantises by "
    "itself: state bits= or step= here, and leave the cast out",
}


def check_summable(name: str, flow: Flow) -> None:
    """That messages are the same linear function of what they were, coordinate by coordinate, at every client.

    Raises:
        ValueError: they are not.
    """
    for fact, why in UNSUMMABLE.items():
        if getattr(flow, fact) == (fact in ("memory", "replicated")):
            raise ValueError(f"{name}: {why}")


class SecureSum(Aggregator):
    """Σ_i a_i m_i, with nothing of a single message seen by the server.

        client        v_i = c a_i m_i, clipped to ‖v_i‖₂ ≤ clip (if given) and to [−range, range]
                      q_i = v_i/s rounded at random, plus its share of the noise (if any), in Z_{2^bits}
        server        (s/c) Σ_i q_i

    c is the number of slots of the cohort and a_i = w_i·factor_i/response_i what makes the sum an estimate of the mean over all
    clients; no a_i depends on who arrives, so that a client can multiply by its own before it encodes. Where the mean over those
    that arrived is wanted, the digits of a_i are further entries of the same vector, and the server divides by Σ_i a_i, never
    seeing one of them. If more than `dropouts` clients do not arrive, the round is void: nothing can be decoded, and nobody's
    message counts.

    range → `range`, s → `range`/levels (at most `step`), bits → `bits`, z → `noise_multiplier`, clip → `clip`, t → `dropouts`. The
    other fields: `protocol` runs the cryptography too; `degree` is the number of neighbours with whom a client masks; `ring`,
    `normalise` and `room`, the most numbers of a message with noise, are known once the cohort is (`resolve`).

    A message with a number that is not one makes the sum NaN, as without secrecy; a deployed client keeps it out.
    """

    range: Real
    bits: int | None = eqx.field(static=True, default=None)
    step: Real | None = None
    dropouts: int | None = eqx.field(static=True, default=None)
    noise_multiplier: float | None = eqx.field(static=True, default=None)
    clip: float | None = eqx.field(static=True, default=None)
    degree: int | None = eqx.field(static=True, default=None)
    protocol: bool = eqx.field(static=True, default=False)
    ring: Ring | None = None
    normalise: bool = eqx.field(static=True, default=False)
    room: int | None = eqx.field(static=True, default=None)

    individual: ClassVar[bool] = False
    unweighted: ClassVar[bool] = False
    sealed: ClassVar[bool] = True

    def __check_init__(self):
        if not self.range > 0:
            raise ValueError(f"secure_sum: got range={self.range!r}, expected the largest entry of a message, above 0")
        if self.step is not None and not self.step > 0:
            raise ValueError(f"secure_sum: got step={self.step!r}, expected a number above 0, or None for the finest that fits")
        if self.bits not in (None, 16, 32):
            raise ValueError(f"secure_sum: got bits={self.bits!r}, expected 16, 32, or None to choose")
        if (self.clip is None) != (self.noise_multiplier is None):
            raise ValueError("secure_sum: noise_multiplier= and clip= belong together: noise is measured by what it hides")
        if self.clip is not None and not (self.clip > 0 and self.noise_multiplier > 0):
            got = f"noise_multiplier={self.noise_multiplier!r}, clip={self.clip!r}"
            raise ValueError(f"secure_sum: got {got}, expected numbers above 0")

    def after(self, flow: Flow) -> Flow:
        """Refuses what is not a fixed, linear function of the message, coordinate by coordinate."""
        check_summable("secure_sum", flow)
        inside = self.clip is None and flow.norm is not None and flow.norm <= self.range
        added = () if self.clip is None else (Mechanism("discrete_gaussian", self.noise_multiplier, self.clip),)
        return flow.but(norm=None, norm_1=None, noise=flow.noise + added, unbiased=flow.unbiased and inside)

    def threshold(self, drawn):
        """How many of so many clients must arrive."""
        return 2 * drawn // 3 + 1 if self.dropouts is None else drawn - self.dropouts

    def resolve(self, slots: int, normalise: bool) -> "SecureSum":
        if slots < 2:
            raise ValueError(f"secure_sum: got a cohort of {slots}, expected at least 2: a sum of one message is that message")
        away, noise = slots - self.threshold(slots), 0.0
        if not 0 <= away < slots / 2:
            raise ValueError(
                f"secure_sum: got dropouts={self.dropouts}, expected 0 to {(slots - 1) // 2} of a cohort of {slots}, less than "
                "half of it: else two halves could be told two stories; use a larger cohort"
            )
        if self.degree is not None and self.degree < slots - 1:
            starved = failure(slots, self.degree, away / slots, 0.0)[1]
            if starved > LOST_ROUNDS:
                raise ValueError(
                    f"secure_sum: got degree={self.degree} for a cohort of {slots} of which {away} may drop out: the sum cannot "
                    f"be had with probability {starved:.2g}, expected at most {LOST_ROUNDS:g}; use a larger degree, "
                    "or fewer dropouts"
                )
        if self.clip is not None:
            if normalise:
                raise ValueError(
                    "secure_sum with noise: the mean over those that arrived divides by a number that one client can change; use a "
                    "cohort without normalise=True, and a fleet without deadline, accept or availability"
                )
            noise = float(self.noise_multiplier * self.clip / self.range)
        step = None if self.step is None else float(self.step)
        ring = fitted(slots, self.bits, float(self.range), step, noise * SURPLUS)
        room = None
        if self.clip is not None:
            check_shares(noise * ring.levels, slots - away)
            room = math.ceil((float(self.clip) / float(ring.step)) ** 2) - 1
        return dataclasses.replace(self, ring=ring, normalise=normalise, room=room)

    def error_bound(self, clients: int, dtype=np.float64) -> float:
        """Most that an entry of Σ_i a_i m_i can be off where nothing is clipped and no noise added, for a cohort of so many slots.

        s by rounding to the ring, and four roundings of numbers of this size. Where the sum is divided by Σ_i a_i, so is this.
        """
        ring = self.resolve(clients, False).ring
        return float(ring.step) + 4 * float(np.finfo(dtype).eps) * float(self.range)

    def accept(self, arrived, drawn):
        count = jnp.sum(drawn)
        needed = self.threshold(count)
        return arrived & (jnp.sum(arrived) >= needed) & (2 * needed > count) & (count > 1)

    def init(self, d, dtype):
        if self.room is not None and d > self.room:
            raise ValueError(
                f"secure_sum: got messages of {d} numbers, expected at most {self.room}: rounding may add a step to each of them, "
                "and the norm of these must stay below clip; use bits=32, a finer step, or fewer clients"
            )
        return ()

    def combine(self, state, messages, weights, arrived, key):
        slots, d = messages.shape
        known = self if self.ring is not None else self.resolve(slots, False)
        drawn = (weights > 0) | arrived
        own = lambda slot, message, weight: known.seal(message, weight, key, slot, jnp.sum(drawn))
        elements = jax.vmap(own)(jnp.arange(slots), messages, weights)
        mean = known.opened(known._summed(elements, arrived, drawn), d, messages.dtype)
        lost = jnp.any(jnp.isnan(messages) & arrived[:, None])
        return state, jnp.where(lost, jnp.nan, mean).astype(messages.dtype)

    def length(self, d: int) -> int:
        """Of the vectors of the ring for messages of d numbers."""
        return d + self.ring.digits[1] * self.normalise

    def setup(self, session: bytes, drawn: int, d: int, identities: tuple[bytes, ...] | None = None) -> Setup:
        """What everybody knows of a sum of messages of d numbers over so many clients, once the cohort is known."""
        return Setup(session, drawn, self.length(d), int(self.threshold(drawn)), self.ring.bits, self.degree, identities)

    def bytes(self, wire):
        d = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(wire))
        if self.ring is None:
            return d * (self.bits or 32) // 8
        return sent_bytes(self.setup(bytes(SESSION_BYTES), self.ring.clients, d))

    def seal(
        self, message: Float[Array, " d"], weight: Float[Array, ""], key, slot, drawn, noisy: bool = True
    ) -> UInt[Array, " length"]:
        """What one client puts into the sum, with the digits of its weight behind it where they are needed.

        Args:
            weight: a_i. key: of the round; slot: the client's, by which it has randomness of its own.
            drawn: how many clients were drawn. noisy: with its share of the noise, else that is for the caller to add.
        """
        ring, v = self.ring, self.ring.clients * weight * message
        rounding, noise = jax.random.split(jax.random.fold_in(key, slot))
        if self.clip is not None:
            radius, norm = self._radius(len(message)), jnp.linalg.norm(v)
            v = v * jnp.where(norm > radius, radius / jnp.where(norm > radius, norm, 1), 1).astype(v.dtype)
        whole = ring.encode(jnp.where(jnp.isnan(v), 0, v), rounding)
        if self.clip is not None and noisy:
            whole = whole + discrete_gaussian(noise, whole.shape, self.variance / jnp.maximum(self.threshold(drawn), 1))
        if self.normalise:
            whole = jnp.concatenate([whole, ring.encode_weight(weight)])
        return ring.enter(whole)

    def opened(self, total: UInt[Array, " length"], d: int, dtype) -> Float[Array, " d"]:
        """Σ a_i m_i, or the mean that is wanted, from what clients have put into the sum together."""
        ring, total = self.ring, self.ring.leave(total)
        wide = jnp.promote_types(dtype, jnp.float32)
        mean = total[:d].astype(wide) * jnp.asarray(ring.step / ring.clients, wide)
        if not self.normalise:
            return mean
        share = ring.decode_weight(total[d:], wide)
        return jnp.where(share > 0, mean / jnp.where(share > 0, share, 1), 0)

    @property
    def variance(self):
        """Of the noise in the sum, in steps of the ring; each of as many clients as must arrive adds its part."""
        return (self.noise_multiplier * self.clip / self.ring.step) ** 2

    def _summed(self, elements, arrived, drawn):
        """Σ over those that arrived, in the ring."""
        if not self.protocol:
            return jnp.sum(jnp.where(arrived[:, None], elements, jnp.zeros_like(elements)), axis=0, dtype=self.ring.dtype)

        def conduct(elements, arrived, drawn):  # its randomness is the operating system's, and what comes of it has none
            elements, arrived, drawn = (np.asarray(array) for array in (elements, arrived, drawn))
            if not arrived.any():
                return np.zeros(elements.shape[1], elements.dtype)
            gone = {"masked": np.flatnonzero(~arrived[drawn]).tolist()}
            return simulate(elements[drawn], threshold=self.threshold(int(drawn.sum())), degree=self.degree, drops=gone).total

        return jax.pure_callback(conduct, jax.ShapeDtypeStruct(elements.shape[1:], self.ring.dtype), elements, arrived, drawn)

    def _radius(self, d: int):
        """What messages are clipped to, so that their rounded norm is at most `clip`: rounding may add s to every entry."""
        return (self.clip - self.ring.step * math.sqrt(d)) * (1 - ROUNDING)


def secure_sum(
    range: float | None = None,
    *,
    bits: int | None = None,
    step: float | None = None,
    dropouts: int | None = None,
    noise_multiplier: float | None = None,
    clip: float | None = None,
    degree: int | None = None,
    protocol: bool = False,
) -> SecureSum:
    """The server learns the weighted sum of its clients' messages, and no single one. Simulations do the same ring arithmetic.

    Args:
        range: largest entry of a message, all fields together (times its weight over the average one); larger ones are clipped.
            None: `clip`.
        bits: of the ring: 32, or 16 for half the bytes; None: 32, with `step` the smaller one that is as fine.
        step: how coarse rounding may be; None: as fine as the ring allows, clients·range/2^(bits−1).
        dropouts: clients of a cohort that may drop out, fewer than half; if more do, the round is void. None: just under a third.
        noise_multiplier: deviation of the sum's noise in units of `clip`, in shares, whole even if `dropouts` clients give none.
        clip: l2 norm of a message (times its relative weight), to which longer ones are scaled.
        degree: with how many others a client masks; None: all of them (`tw.message.secure.degree(c)` are enough).
        protocol: run the cryptography in every round of a simulation (extra "secure"): the same sums, at its price; between sites
            it always runs.

    Raises:
        ValueError: a number is out of its range; when the cohort is known: clients·range/step does not fit into the ring.
    """
    if range is None and clip is None:
        raise ValueError("secure_sum: got neither range nor clip, expected range=, the largest entry that a message may have")
    if protocol:
        require("cryptography", "secure")
    return SecureSum(clip if range is None else range, bits, step, dropouts, noise_multiplier, clip, degree, protocol)
