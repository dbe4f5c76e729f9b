"""One entry of every few."""

import math

import equinox as eqx
import jax.numpy as jnp

from thalweg.message.flow import Flow

from .base import Compressor, compressed, norms
from .layout import Layout, in_rows
from .randomness import seed_of, uniform


class Subsample(Compressor):
    """Of every `every` consecutive entries one, chosen at random and multiplied by `every`; a seed of 8 bytes travels along.

        C(m)_i = every·m_i  if i was chosen in its group, else 0       unbiased, ω = every − 1

    Random-k by groups: it reads a message once, in order, and any two groups are chosen from independently.

    Jakub Konečný et al., *Federated learning: strategies for improving communication efficiency*, arXiv 1610.05492, 2016
    (subsampling).
    """

    every: int = eqx.field(static=True)

    def __check_init__(self):
        if not isinstance(self.every, int) or self.every < 1:
            raise ValueError(f"subsample: got every={self.every!r}, expected a whole number ≥ 1")

    def after(self, flow: Flow) -> Flow:
        return compressed("subsample", flow, unbiased=flow.unbiased, **norms(flow, self.every))

    def pack(self, vector, key):
        seed = seed_of(key)
        rows = in_rows(vector, self.every)
        one = self._hit(seed, rows.shape[0])
        return {"values": jnp.sum(jnp.where(one, rows, 0), axis=1) * self.every, "seed": seed}

    def unpack(self, packed, like):
        values = packed["values"].astype(like.dtype)
        rows = jnp.where(self._hit(packed["seed"], values.shape[0]), values[:, None], 0)
        return rows.reshape(-1)[: like.shape[0]]

    def variance(self, spec) -> float:
        """every − 1."""
        return self.every - 1.0 if Layout.of(spec).size else 0.0

    def contraction(self, spec) -> float:
        """2 − every: below zero, what it sends may be longer than the message, except where everything is sent."""
        return 1 - self.variance(spec)

    def _hit(self, seed, groups: int):
        """`[groups, every]`, which entry of each group."""
        place = jnp.floor(uniform(seed, groups) * self.every).astype(jnp.int32)
        return place[:, None] == jnp.arange(self.every, dtype=jnp.int32)[None]


def subsample(fraction: float) -> Subsample:
    """Send one of every ⌊1/fraction⌋ entries, scaled so that it is right on average."""
    if not 0 < fraction <= 1:
        raise ValueError(f"subsample: got {fraction!r}, expected a number in (0, 1], the part that is sent")
    return Subsample(math.floor(1 / fraction + 1e-9))
