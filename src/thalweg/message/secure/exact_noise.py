"""Discrete Gaussian noise without floating-point numbers: what a real client adds to its vector.

Floating-point samplers give themselves away by which numbers they can return. Here every probability is a ratio of whole numbers,
and every comparison one with random bits.

Axes: `k` samples.

Clément Canonne, Gautam Kamath, Thomas Steinke, *The discrete Gaussian for differential privacy*, NeurIPS 2020, algorithms 1 to 3.
"""

import math
import os

import numpy as np

from .crypto import Source

WORD = 64


def discrete_gaussian(variance: int, size: int, source: Source = os.urandom) -> np.ndarray:
    """`[size]` whole numbers with P(x) ∝ exp(−x²/(2·variance)), exactly.

    Add them to a vector before `Client.mask`: `vector + noise.astype(vector.dtype)`. If each of the clients that survive adds
    variance σ²/survivors, their sum has σ².

    Args:
        variance: σ², a whole number from 1 to 2⁶⁰ (round a fraction up).
        size: how many.
        source: n → n random bytes.

    Raises:
        ValueError: variance is out of its range.
    """
    if not 1 <= variance <= 2**60 or variance != int(variance):
        raise ValueError(
            f"secure discrete_gaussian: got variance={variance!r}, expected a whole number from 1 to 2⁶⁰; round it up"
        )
    variance = int(variance)
    scale = math.isqrt(variance) + 1
    found, open_ = np.empty(size, np.int64), np.arange(size)
    while len(open_):
        x = _discrete_laplace(scale, len(open_), source)
        # (|x| − σ²/t)²/(2σ²) = (|x| t − σ²)²/(2σ²t²)
        above = (np.abs(x).astype(object) * scale - variance) ** 2
        accepted = _bernoulli_exp(above, 2 * variance * scale**2, source)
        found[open_[accepted]] = x[accepted]
        open_ = open_[~accepted]
    return found


def _discrete_laplace(scale: int, size: int, source: Source) -> np.ndarray:
    """P(x) ∝ exp(−|x|/scale)."""
    found, open_ = np.empty(size, np.int64), np.arange(size)
    while len(open_):
        k = len(open_)
        rest = _below(scale, k, source)
        whole, going = np.zeros(k, np.int64), np.arange(k)
        while len(going):  # a geometric number of times e⁻¹
            going = going[_bernoulli_exp(np.ones(len(going), object), 1, source)]
            whole[going] += 1
        size_, negative = rest + scale * whole, _words(k, source) >> np.uint64(WORD - 1) == 1
        kept = _bernoulli_exp(rest.astype(object), scale, source) & ~(negative & (size_ == 0))
        found[open_[kept]] = np.where(negative, -size_, size_)[kept]
        open_ = open_[~kept]
    return found


def _bernoulli_exp(above: np.ndarray, below: int, source: Source) -> np.ndarray:
    """True with probability exp(−above/below), for Python's whole numbers `above` ≥ 0."""
    whole, rest = above // below, above % below
    alive = np.ones(len(above), bool)
    for _ in range(int(max(whole, default=0))):
        due = np.flatnonzero(alive & (whole > 0))
        if not len(due):
            break
        alive[due] = _alternating(np.ones(len(due), object), 1, source)
        whole[due] -= 1
    left = np.flatnonzero(alive)
    alive[left] = _alternating(rest[left], below, source)
    return alive


def _alternating(above: np.ndarray, below: int, source: Source) -> np.ndarray:
    """The same for above ≤ below: the series of exp(−γ) as a race; K is odd with that probability."""
    count, going = np.ones(len(above), np.int64), np.arange(len(above))
    while len(going):
        going = going[_bernoulli(above[going], below * count[going].astype(object), source)]
        count[going] += 1
    return count % 2 == 1


def _bernoulli(above: np.ndarray, below: np.ndarray, source: Source) -> np.ndarray:
    """True with probability above/below: random bits compared with those of the ratio, 64 at a time until they differ."""
    result, open_ = np.zeros(len(above), bool), np.arange(len(above))
    rest = above
    while len(open_):
        rest = rest * 2**WORD
        digits, rest = rest // below, rest % below
        certain = digits >= 2**WORD  # above = below
        drawn = _words(len(open_), source).astype(object)
        result[open_] = certain | (drawn < digits)
        tied = (drawn == digits) & ~certain
        open_, rest, below = open_[tied], rest[tied], below[tied]
    return result


def _below(bound: int, size: int, source: Source) -> np.ndarray:
    """`[size]` whole numbers from 0 to bound − 1, every one equally likely."""
    last = np.uint64(2**WORD // bound * bound - 1)
    words = _words(size, source)
    while (outside := words > last).any():
        words[outside] = _words(int(outside.sum()), source)
    return (words % np.uint64(bound)).astype(np.int64)


def _words(size: int, source: Source) -> np.ndarray:
    return np.frombuffer(source(8 * size), "<u8").astype(np.uint64)
