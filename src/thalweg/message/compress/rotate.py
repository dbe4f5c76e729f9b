"""A random rotation before another stage."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt32

from thalweg.message.flow import Flow
from thalweg.message.stage import Stage

from .base import compressed
from .layout import Layout, in_rows
from .randomness import bits, seed_of


class Rotate(Stage):
    """`stage` acts on the message in randomly rotated coordinates; the receiver turns what it decodes back.

        C(m) = Rᵀ Q(R m),    R = H P D/√B in each block of B entries

    H is Hadamard's matrix, P a fixed order and D has random signs, from a seed of 8 bytes that travels along. A rotated block has
    no entries much larger than the others, max_j |(R m)_j| ≤ ‖m‖ √(2 log(2B/p)/B) with probability 1 − p, so that quantising by the
    largest entry wastes no levels. C is unbiased if Q is, and has its δ and ω.

    Args:
        stage: Q, without memory.
        block: B at most, a power of two from 4; a shorter message is one block. Messages are filled up with zeros.

    Ananda Theertha Suresh, Felix Yu, Sanjiv Kumar, Brendan McMahan, *Distributed mean estimation with limited communication*,
    ICML 2017.
    """

    stage: Stage
    block: int = eqx.field(static=True, default=1024)

    def __check_init__(self):
        if self.block < 4 or self.block & (self.block - 1):
            raise ValueError(f"rotate: got block={self.block!r}, expected a power of two from 4")
        self.after(Flow())

    def after(self, flow: Flow) -> Flow:
        inner = self.stage.after(compressed("rotate", flow, norm_1=None, unbiased=flow.unbiased, fixed=flow.fixed))
        if inner.memory or inner.replicated:
            raise ValueError(
                "rotate: got a stage with a memory, expected one without: every message is rotated in another way, so that what "
                "was left out of one means nothing in the next; put the memory around it: error_feedback(rotate(…))"
            )
        return inner.but(packed=True, norm_1=None, fixed=False)

    def init(self, spec: Any) -> Any:
        return self.stage.init(self._rotated(spec))

    def encode(self, state: Any, message: Any, key) -> tuple[Any, Any, Any]:
        layout = Layout.of(message)
        vector, others = layout.join(message)
        own, inner = jax.random.split(key)
        seed = seed_of(own)
        size = self._block(layout.size)
        rows = in_rows(vector, size)
        turned = _hadamard(rows * _signs(seed, rows)).reshape(-1)
        state, wire, sent = self.stage.encode(state, turned, inner)
        return state, {"rotated": wire, "seed": seed, "others": others}, layout.part(self._back(sent, seed, layout), others)

    def decode(self, wire: Any, spec: Any) -> Any:
        layout, wire = Layout.of(spec), jax.tree.map(jnp.asarray, wire)
        turned = self.stage.decode(wire["rotated"], self._rotated(spec))
        return layout.part(self._back(turned, wire["seed"], layout), wire["others"])

    def contraction(self, spec) -> float | None:
        """That of `stage`."""
        return self.stage.contraction(self._rotated(spec))

    def variance(self, spec) -> float | None:
        """That of `stage`."""
        return self.stage.variance(self._rotated(spec))

    def _rotated(self, spec: Any) -> jax.ShapeDtypeStruct:
        vector = Layout.of(spec).vector
        size = self._block(vector.shape[0])
        return jax.ShapeDtypeStruct((-(-vector.shape[0] // size) * size,), vector.dtype)

    def _block(self, d: int) -> int:
        return min(self.block, max(4, 1 << (d - 1).bit_length()))

    def _back(self, turned, seed, layout: Layout):
        rows = turned.reshape(-1, self._block(layout.size))
        return (_hadamard(rows, back=True) * _signs(seed, rows)).reshape(-1)[: layout.size]


def _signs(seed: UInt32[Array, " 2"], rows: Float[Array, "b B"]) -> Float[Array, "b B"]:
    """±1 for every entry."""
    return 1 - 2 * (bits(seed, rows.size) >> 31).reshape(rows.shape).astype(rows.dtype)


def _hadamard(rows: Float[Array, "b B"], back: bool = False) -> Float[Array, "b B"]:
    """Every row times H P/√B, or `back`: H is a Kronecker product, so that two small matrix products do, and P the transposition
    of the row as a matrix that is left out between them, since no order of the coordinates is better than another."""
    left = 1 << ((rows.shape[1].bit_length() - 1) // 2)
    shape = (left, rows.shape[1] // left)
    left, right = shape[::-1] if back else shape
    once = (rows.reshape(-1, right) @ _matrix(right, rows.dtype)).reshape(-1, left, right)
    return (jnp.swapaxes(once, 1, 2).reshape(-1, left) @ _matrix(left, rows.dtype)).reshape(rows.shape)


def _matrix(size: int, dtype: Any) -> Float[Array, "s s"]:
    found = np.ones((1, 1))
    while len(found) < size:
        found = np.block([[found, found], [found, -found]])
    return jnp.asarray(found / np.sqrt(size), dtype)


def rotate(stage: Stage, block: int = 1024) -> Rotate:
    """Rotate the message at random, then do what `stage` does; the receiver rotates back."""
    return Rotate(stage, block)
