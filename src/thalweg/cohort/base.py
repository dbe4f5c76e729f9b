"""The contract of cohort rules.

Axes: `n` registered clients, `c` slots of a cohort.
"""

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray


class Registry(eqx.Module):
    """What the server knows of its clients before anything is sent.

    Attributes:
        weights: `[n]`, w_i, summing to one.
        seconds: `[n]`, expected duration of a client's round on its device (ones where no fleet is given); known to `draw` and
            `learn`, while `init` sees ones: how long messages take is known only when their sizes are.
    """

    weights: Float[Array, " n"]
    seconds: Float[Array, " n"]

    @property
    def n(self) -> int:
        """Number of registered clients."""
        return self.weights.shape[0]


class Draw(eqx.Module):
    """A cohort.

    Attributes:
        members: `[c]`, positions of clients, different from each other where `valid`.
        valid: `[c]`, which slots are taken.
        factor: `[c]`, what makes Σ_{members} factor_i w_i m_i an unbiased estimate of Σ_i w_i m_i: 1/π_i for inclusion
            probabilities π_i. Of rules that are not `unbiased` a mean over the cohort is taken, in proportion to factor_i w_i.
    """

    members: Int[Array, " c"]
    valid: Bool[Array, " c"]
    factor: Float[Array, " c"]


class Cohort(eqx.Module):
    """A rule that draws who takes part.

    Attributes:
        normalise: divide by Σ factor_i w_i of those that arrived in place of leaving it to its expectation, one: the usual
            weighted average over the cohort. Less variance where clients differ in weight, but biased.

    Class attributes:
        unbiased: whether `factor` makes unbiased estimates.
        reports: fields of `ClientInfo` that the rule learns from, and which clients must therefore send.
        stateful: whether draws depend on what was learnt (then a draw is not reproducible from the round alone).
    """

    normalise: eqx.AbstractVar[bool]
    unbiased: ClassVar[bool] = True
    reports: ClassVar[tuple[str, ...]] = ()

    @abc.abstractmethod
    def slots(self, n: int) -> int:
        """c, the most clients that can be drawn of n.

        Raises:
            ValueError: more clients are asked for than there are.
        """

    @abc.abstractmethod
    def init(self, registry: Registry) -> Any:
        """What the rule remembers, before round 0."""

    @abc.abstractmethod
    def draw(self, state: Any, registry: Registry, key: PRNGKeyArray) -> Draw:
        """The cohort of one round."""

    @abc.abstractmethod
    def learn(self, state: Any, registry: Registry, draw: Draw, arrived: Bool[Array, " c"], reported: dict[str, Array]) -> Any:
        """What the rule remembers after a round: `reported[field]` `[c]` of those that `arrived`."""


def check_size(name: str, size: Any, n: int | None = None) -> None:
    """A cohort's size is a whole number from 1 to n.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ValueError(f"cohort {name}: got {size!r} clients, expected a whole number ≥ 1")
    if n is not None and size > n:
        raise ValueError(f"cohort {name}: got {size} clients, expected at most {n}, the number of registered ones")


# Floyd's method compares each draw with the earlier ones; below this many clients per slot a permutation is cheaper.
SPARSE = 64


def distinct(key: PRNGKeyArray, n: int, size: int) -> Int[Array, " size"]:
    """`size` different numbers below n, every subset equally likely; O(size²) for n much larger than `size`.

    Robert Floyd, in Jon Bentley, *Programming pearls: a sample of brilliance*, Communications of the ACM 30, 1987.
    """
    if n <= SPARSE * size:
        return jax.random.permutation(key, n)[:size].astype(jnp.int32)
    keys = jax.random.split(key, size)
    tops = jnp.arange(n - size, n, dtype=jnp.int32)
    draws = jax.vmap(lambda k, top: jax.random.randint(k, (), 0, top + 1, jnp.int32))(keys, tops)

    def choose(i, chosen):
        taken = jnp.any((chosen == draws[i]) & (jnp.arange(size) < i))
        return chosen.at[i].set(jnp.where(taken, tops[i], draws[i]))

    return jax.lax.fori_loop(0, size, choose, jnp.full(size, -1, jnp.int32))


def weighted(key: PRNGKeyArray, score: Float[Array, " n"], size: int) -> tuple[Array, Array]:
    """(`size` different positions, drawn one after another in proportion to `score`, which of them have a positive score).

    The largest log score_i + Gumbel noise: Tim Vieira, *Gumbel-max trick and weighted reservoir sampling*, 2014.
    """
    noisy = jnp.where(score > 0, jnp.log(score), -jnp.inf) + jax.random.gumbel(key, score.shape, score.dtype)
    values, members = jax.lax.top_k(noisy, size)
    return members.astype(jnp.int32), values > -jnp.inf


def remembered(values: Array, draw: Draw, arrived: Bool[Array, " c"], new: Array) -> Array:
    """`values` `[n]` with the entries of those that arrived replaced by what they reported; what is not finite is not kept."""
    usable = arrived & jnp.isfinite(new)
    place = jnp.where(usable, draw.members, values.shape[0])
    return values.at[place].set(new.astype(values.dtype), mode="drop")


def merged(members: Int[Array, " c"]) -> tuple[Array, Array, Array]:
    """(sorted members, which are the first of their kind, how often each was drawn), of a draw with replacement."""
    members = jnp.sort(members)
    first = jnp.concatenate([jnp.ones(1, bool), members[1:] != members[:-1]])
    times = jnp.searchsorted(members, members, side="right") - jnp.searchsorted(members, members, side="left")
    return members, first, times
