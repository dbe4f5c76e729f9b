"""A local feasible set of linear equations and inequalities, over which best responses are quadratic programs.

Axes: `d` variables, `p` inequalities, `q` equations.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree


class Polyhedron(eqx.Module):
    """{x : G x ≤ h, A x = b}, x flattened to `[d]`.

    Attributes:
        G, h: `[p, d]` and `[p]`; A, b: `[q, d]` and `[q]`, or None.
    """

    G: Float[Array, "p d"]
    h: Float[Array, " p"]
    A: Float[Array, "q d"] | None = None
    b: Float[Array, " q"] | None = None

    def __init__(self, G: Any, h: Any, A: Any = None, b: Any = None):
        self.G, self.h = jnp.asarray(G), jnp.asarray(h)
        if self.G.ndim != 2 or self.h.shape != self.G.shape[:1]:
            raise ValueError(f"Polyhedron: got G {self.G.shape} and h {self.h.shape}, expected [p, d] and [p]")
        if (A is None) != (b is None):
            raise ValueError("Polyhedron: A and b belong together; pass both, or neither")
        self.A, self.b = (None, None) if A is None else (jnp.asarray(A), jnp.asarray(b))
        if self.A is not None and (self.A.shape[1:] != self.G.shape[1:] or self.b.shape != self.A.shape[:1]):
            raise ValueError(f"Polyhedron: got A {self.A.shape} and b {self.b.shape}, expected [q, {self.G.shape[1]}] and [q]")

    def violation(self, x: PyTree) -> Float[Array, ""]:
        """The largest violation of a row."""
        row = ravel_pytree(x)[0]
        worst = jnp.max(self.G @ row - self.h, initial=0)
        return worst if self.A is None else jnp.maximum(worst, jnp.max(jnp.abs(self.A @ row - self.b), initial=0))
