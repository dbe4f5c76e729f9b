"""Examples that are not held in memory: fetched for the agents of one round, from disk or from a function.

Axes: `n` agents, `c` agents of one round (the cohort), `m` examples (padded to the largest m_i of all n).
"""

import abc
import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from thalweg.data.strategy import whole


class Source(abc.ABC):
    """Where the examples of n agents come from, a few agents at a time.

        examples, counts = source.fetch(ids)         # leaves [c, m, ...], counts [c]

    The shapes do not depend on which agents are asked for, so that a program is compiled once. As in `EmpiricalRisk`, an agent's
    first example is repeated up to the length m, and counts say how many are real.

    Attributes:
        n: number of agents.
        counts: m_i of every agent, int64 `[n]`; or one integer where all have as many, so that n may be large.
        longest: m = max m_i, the length to which agents are padded.
    """

    n: int
    counts: Any
    longest: int

    @abc.abstractmethod
    def fetch(self, ids: Any) -> tuple[PyTree, Any]:
        """The examples of the agents `ids` `[c]`, leaves `[c, m, ...]`, and their counts `[c]`.

        Raises:
            ValueError: ids that are not integers in 0 … n − 1.
        """

    def _checked(self, ids: Any) -> np.ndarray:
        ids = np.asarray(ids)
        if ids.ndim != 1 or ids.dtype.kind not in "iu" or np.any((ids < 0) | (ids >= self.n)):
            raise ValueError(
                f"fetch: got ids of {ids.dtype}{list(ids.shape)} from {ids.min(initial=0)} to {ids.max(initial=0)}, expected "
                f"integers [c] from 0 to {self.n - 1}"
            )
        return ids


@dataclasses.dataclass(frozen=True)
class Generated(Source):
    """Examples computed from the agent's id: a million agents cost nothing until they are drawn.

        def examples(id):                                         # integer scalar → leaves [50, ...]
            key = jax.random.fold_in(jax.random.key(0), id)
            shift, noise = jax.random.split(key)
            x = jax.random.normal(noise, (50, 10)) + jax.random.normal(shift, (10,))
            return x, x.sum(axis=-1)

        source = Generated(examples, n=1_000_000, count=50)

    Args:
        function: `function(id) -> pytree` with leaves `[count, ...]`, pure and in `jax.numpy`; the same id must always give the
            same examples. Define it once, at module level: programs are compiled for the function's identity.
        n: number of agents.
        count: examples of every agent.

    `fetch` may be called inside a compiled program, on traced ids, which are then not checked.

    Raises:
        TypeError: not a function.
        ValueError: n or count < 1, or leaves without a leading axis of length `count`.
    """

    function: Any
    n: Any
    count: Any

    def __post_init__(self):
        if not callable(self.function):
            raise TypeError(f"Generated function: got {type(self.function).__name__}, expected a function of an agent's id")
        whole("Generated n", self.n, "the number of agents")
        whole("Generated count", self.count, "the examples of every agent")
        shapes = [leaf.shape for leaf in jax.tree.leaves(jax.eval_shape(self.function, jnp.int32(0)))]
        if not shapes or any(shape[:1] != (self.count,) for shape in shapes):
            raise ValueError(
                f"Generated function: got arrays of shapes {shapes}, expected a leading axis of {self.count} examples for all"
            )

    @property
    def counts(self) -> int:
        """Examples of every agent."""
        return self.count

    @property
    def longest(self) -> int:
        """Examples of every agent."""
        return self.count

    def fetch(self, ids: Any) -> tuple[PyTree, Any]:
        """The examples of the agents `ids` `[c]`, device arrays `[c, count, ...]`, and their counts `[c]`.

        Raises:
            ValueError: ids that are known and not integers in 0 … n − 1.
        """
        if not isinstance(ids, jax.core.Tracer):
            ids = self._checked(ids)
        ids = jnp.asarray(ids, jnp.int32)
        return _generate(self.function, ids), jnp.full(ids.shape, self.count, jnp.int32)


@partial(jax.jit, static_argnums=0)
def _generate(function: Callable, ids: Any) -> PyTree:
    return jax.vmap(function)(ids)
