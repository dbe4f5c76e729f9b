"""Vectors of reals as vectors over a finite ring, whose sums are exact.

Axes: `d` numbers of a message.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt

# Deviations of a sum's noise that have room in the ring: per number, it wraps around with a probability below 10⁻¹⁵.
TAIL = 8.0
# Weights are whole multiples of 2⁻²⁴, below 2⁸.
WEIGHT_BITS, WEIGHT_UNIT = 32, 2.0**24


class Ring(eqx.Module):
    """Z_{2^bits} for sums over at most `clients` vectors with entries in [−range, range].

    A number v becomes ⌊v/s⌋ or ⌈v/s⌉, at random and right on average; s = range/levels, so that |v| ≤ range never exceeds `levels`,
    and clients·levels, with room for noise, stays below 2^(bits−1).

    Attributes:
        bits: 16 or 32 (static); clients: c (static); levels: L (static).
        range: largest entry; larger ones are clipped.
    """

    bits: int = eqx.field(static=True)
    clients: int = eqx.field(static=True)
    levels: int = eqx.field(static=True)
    range: float | Float[Array, ""]

    @property
    def step(self):
        """s, the distance between two numbers that can be told apart."""
        return self.range / self.levels

    @property
    def dtype(self):
        """Of the ring's elements."""
        return jnp.uint16 if self.bits == 16 else jnp.uint32

    @property
    def digits(self) -> tuple[int, int]:
        """(bits of one digit of a weight, how many digits it has), such that sums of digits fit as sums of entries do."""
        width = min((self.levels + 1).bit_length() - 1, 24)
        return width, -(-WEIGHT_BITS // width)

    def encode(self, vector: Float[Array, " d"], key: PRNGKeyArray) -> Int[Array, " d"]:
        """`[d]` whole numbers from −L to L."""
        wide = jnp.promote_types(vector.dtype, jnp.float32)
        scaled = jnp.clip(vector.astype(wide) / jnp.asarray(self.step, wide), -self.levels, self.levels)
        below = jnp.floor(scaled)
        up = jax.random.uniform(key, vector.shape, wide) < scaled - below
        return below.astype(jnp.int32) + up.astype(jnp.int32)

    def enter(self, whole: Int[Array, "*shape"]) -> UInt[Array, "*shape"]:
        """Whole numbers as elements of the ring."""
        return whole.astype(jnp.uint32).astype(self.dtype)

    def leave(self, element: UInt[Array, "*shape"]) -> Int[Array, "*shape"]:
        """The whole numbers from −2^(bits−1) on that these elements stand for."""
        return jax.lax.bitcast_convert_type(element, jnp.int16 if self.bits == 16 else jnp.int32).astype(jnp.int32)

    def encode_weight(self, weight: Float[Array, ""]) -> Int[Array, " digits"]:
        """A weight in [0, 256) as digits, to the nearest multiple of 2⁻²⁴."""
        width, count = self.digits
        wide = jnp.promote_types(weight.dtype, jnp.float32)
        units = jnp.clip(jnp.round(weight.astype(wide) * WEIGHT_UNIT), 0, 2.0**32 - 2.0**8).astype(jnp.uint32)
        places = jnp.arange(count, dtype=jnp.uint32) * width
        return (jnp.right_shift(units, places) & (2**width - 1)).astype(jnp.int32)

    def decode_weight(self, digits: Int[Array, " digits"], dtype) -> Float[Array, ""]:
        """The sum of weights from sums of their digits."""
        width, count = self.digits
        return jnp.sum(digits.astype(dtype) * jnp.asarray([2.0 ** (width * i) / WEIGHT_UNIT for i in range(count)], dtype))


def fitted(clients: int, bits: int | None, range: float, step: float | None, noise: float) -> Ring:
    """The finest ring, or the smaller one of those that are as fine as `step`.

    Args:
        noise: deviation of the sum's noise in units of the range.

    Raises:
        ValueError: clients·range/step does not fit.
    """
    if bits is None and step is not None:
        return fitted(clients, 16 if _levels(clients, 16, noise) * step >= range else 32, range, step, noise)
    bits = 32 if bits is None else bits
    most = _levels(clients, bits, noise)
    wanted = most if step is None else -int(-range // step)
    if not 1 <= wanted <= most:
        room = f" and {TAIL:g} deviations {noise * range:g} of noise" if noise else ""
        mend = (
            "allow a coarser step, a smaller range or fewer clients"
            if bits == 32
            else "use bits=32, a coarser step, or fewer clients"
        )
        raise ValueError(
            f"secure_sum: got {clients} clients with numbers up to {range:g}{room} in steps of {range / max(wanted, 1):g}, that is "
            f"{clients} · {wanted} levels, expected at most {2 ** (bits - 1) - 1} in the ring of {bits} bits; {mend}"
        )
    return Ring(bits, clients, wanted, range)


def _levels(clients: int, bits: int, noise: float) -> int:
    """The most levels that fit; of more than 24 bits only those that single precision knows."""
    levels = int((2 ** (bits - 1) - 1) / (clients + TAIL * noise))
    shift = max(levels.bit_length() - 24, 0)
    return levels >> shift << shift
