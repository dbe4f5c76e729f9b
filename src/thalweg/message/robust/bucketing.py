"""Bucketing: a robust rule over means of a few messages each."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .base import Robust, heard


class Bucketing(Robust):
    """`rule` over the means of buckets, into which the messages are dealt at random, `size` to each:

        b_k = 1/s Σ_{(k−1)s < i ≤ ks} m_π(i),    A(m) = rule(b_1, …, b_⌈n/s⌉),    π a random order.

    Buckets differ less from each other than messages do, so that rules which pick or trim lose less where clients differ. A liar
    spoils one bucket: f of the rule counts buckets, of which there are ⌈n/s⌉, and liars that are a fraction f of the clients spoil
    up to a fraction f·s of the buckets. κ is not known.

    Sai Praneeth Karimireddy, Lie He, Martin Jaggi, *Byzantine-robust learning on heterogeneous datasets via bucketing*, ICLR 2022.
    """

    rule: Robust
    size: int = eqx.field(static=True, default=2)

    def __check_init__(self):
        if self.size < 1:
            raise ValueError(f"bucketing(size={self.size!r}): expected a whole number ≥ 1 of messages in a bucket")

    def check(self, n):
        self.rule.check(-(-n // self.size))

    def kappa(self, n, f):
        return None

    def init(self, d, dtype):
        return self.rule.init(d, dtype)

    def combine(self, state, messages, weights, arrived, key):
        deal, inner = jax.random.split(key)
        c, m = len(arrived), heard(arrived)
        order = jnp.argsort(jnp.where(arrived, jax.random.uniform(deal, (c,)), 2.0))
        place = jnp.zeros(c, jnp.int32).at[order].set(jnp.arange(c, dtype=jnp.int32))
        buckets = jnp.arange(-(-c // self.size), dtype=jnp.int32)
        member = (place[None] // self.size == buckets[:, None]) & arrived[None]
        filled = buckets * self.size < m
        held = jnp.maximum(jnp.sum(member, axis=1), 1).astype(messages.dtype)
        means = jax.lax.dot(member.astype(messages.dtype), messages, precision="highest") / held[:, None]
        weighed = jnp.sum(jnp.where(member, weights[None], 0), axis=1)
        return self.rule.combine(state, means, weighed, filled, inner)


def bucketing(rule: Robust, size: int = 2) -> Bucketing:
    """`rule` over means of `size` messages each, dealt at random."""
    return Bucketing(rule, size)
