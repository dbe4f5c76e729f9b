"""Secrets shared among clients, so that `threshold` of them know all and fewer know nothing.

A secret of 32 bytes is nine numbers below 2³⁰; each is the value at 0 of a random polynomial of degree threshold − 1 over the
prime field of order p = 2³¹ − 1, and a holder's share are the nine values at its own point. Products of two such numbers fit into
64 bits, and 2³¹ ≡ 1 makes the remainder one addition, so that all holders' shares are computed side by side.

Axes: `h` holders, `t` the threshold, `l` numbers of a secret.

Adi Shamir, *How to share a secret*, Communications of the ACM 22, 1979.
"""

from collections.abc import Callable, Sequence

import numpy as np

PRIME = 2**31 - 1
SECRET_BYTES = 32
LIMBS, LIMB_BITS = 9, 30
SHARE_BYTES = 4 * LIMBS


def share(secret: bytes, threshold: int, points: Sequence[int], source: Callable[[int], bytes]) -> np.ndarray:
    """`[h, l]` shares of `secret` for the holders at these `points` (different, from 1 to 2³⁰)."""
    limbs = _limbs(secret)
    random = uniform((threshold - 1, LIMBS), source)
    x = np.asarray(points, np.uint64)[:, None]
    value = np.zeros((len(points), LIMBS), np.uint64)
    for coefficients in (*random, limbs):
        value = _fold(value * x + coefficients)
    return _reduced(value).astype(np.uint32)


def weights(points: Sequence[int]) -> np.ndarray:
    """`[t]` λ_i with f(0) = Σ_i λ_i f(x_i) for polynomials of degree < t: Lagrange's at 0."""
    x = np.asarray(points, np.uint64)
    above, below = np.ones(len(x), np.uint64), np.ones(len(x), np.uint64)
    for j, other in enumerate(x):
        factor = (other + np.uint64(PRIME) - x) % np.uint64(PRIME)
        factor[j], numerator = 1, np.full(len(x), other)
        numerator[j] = 1
        above, below = _reduced(above * numerator), _reduced(below * factor)
    return _reduced(above * _inverse(below))


def reveal(shares: np.ndarray, by: np.ndarray) -> bytes:
    """The secret from `[t, l]` shares and the `weights` `by` of their points.

    Raises:
        ValueError: they are not shares of any secret.
    """
    limbs = _reduced(np.sum(_reduced(shares.astype(np.uint64) * by[:, None]), axis=0))
    number = sum(int(limb) << (LIMB_BITS * i) for i, limb in enumerate(limbs))
    if number >> (8 * SECRET_BYTES) or (limbs >> np.uint64(LIMB_BITS)).any():
        raise ValueError("these are not shares of one secret")
    return number.to_bytes(SECRET_BYTES, "little")


def uniform(shape: tuple[int, ...], source: Callable[[int], bytes]) -> np.ndarray:
    """Numbers of the field, every one equally likely."""
    count = int(np.prod(shape))
    draw = lambda size: np.frombuffer(source(4 * size), "<u4") & np.uint32(PRIME)
    found = draw(count).astype(np.uint64)
    while (outside := found == PRIME).any():
        found[outside] = draw(int(outside.sum()))
    return found.reshape(shape)


def _limbs(secret: bytes) -> np.ndarray:
    number = int.from_bytes(secret, "little")
    return np.array([number >> (LIMB_BITS * i) & (2**LIMB_BITS - 1) for i in range(LIMBS)], np.uint64)


def _fold(value: np.ndarray) -> np.ndarray:
    """The same modulo p, from below 2⁶⁴ to below 2³⁴."""
    return (value & np.uint64(PRIME)) + (value >> np.uint64(31))


def _reduced(value: np.ndarray) -> np.ndarray:
    return _fold(value) % np.uint64(PRIME)


def _inverse(value: np.ndarray) -> np.ndarray:
    """value^(p − 2)."""
    result, power = np.ones_like(value), value
    for bit in range(31):
        if (PRIME - 2) >> bit & 1:
            result = _reduced(result * power)
        power = _reduced(power * power)
    return result
