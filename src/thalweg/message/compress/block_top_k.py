"""The largest entries of every block of a message."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp

from thalweg.message.flow import Flow

from .base import Compressor, checked_fraction, compressed
from .bits import pack_bits, unpack_bits

# Up to so many entries of a block are put back one after another, a pass each; a scatter is slower.
FEW = 8


class BlockTopK(Compressor):
    """Of every `block` consecutive entries the ⌈fraction·block⌉ of largest magnitude, as they are; the others are zero.

        ‖C(m) − m‖² ≤ (1 − k/block)‖m‖²,    k = ⌈fraction·block⌉

    Every part of a model is heard of, also where another has much larger entries. A position takes log₂(block) bits.

    Args:
        fraction: in (0, 1].
        block: entries of a block.

    Aritra Dutta et al., *On the discrepancy between the theoretical analysis and practical implementations of compressed
    communication for distributed deep learning*, AAAI 2020 (layer by layer).
    """

    fraction: float = eqx.field(static=True)
    block: int = eqx.field(static=True, default=256)

    def __check_init__(self):
        checked_fraction("block_top_k", self.fraction)
        if not 2 <= self.block <= 65_536:
            raise ValueError(f"block_top_k: got block={self.block!r}, expected a whole number from 2 to 65536")

    @property
    def kept(self) -> int:
        """k, entries of a block that are sent."""
        return min(self.block, max(1, math.ceil(self.fraction * self.block - 1e-9)))

    def after(self, flow: Flow) -> Flow:
        return compressed("block_top_k", flow)

    def pack(self, vector, key):
        rows = jnp.pad(vector, (0, -vector.shape[0] % self.block)).reshape(-1, self.block)
        places = jax.lax.top_k(jnp.abs(rows), self.kept)[1]
        values = jnp.take_along_axis(rows, places, axis=1)
        return {"values": values.reshape(-1), "places": pack_bits(places.reshape(-1), self._width)}

    def unpack(self, packed, like):
        values = packed["values"].astype(like.dtype).reshape(-1, self.kept)
        places = unpack_bits(packed["places"], self._width, values.size).astype(jnp.int32).reshape(-1, self.kept)
        rows, inside = jnp.zeros((values.shape[0], self.block), like.dtype), jnp.arange(self.block, dtype=jnp.int32)
        if self.kept > FEW:
            rows = jnp.put_along_axis(rows, places, values, axis=1, inplace=False)
        else:
            for i in range(self.kept):
                rows = jnp.where(inside[None] == places[:, i, None], values[:, i, None], rows)
        return rows.reshape(-1)[: like.shape[0]]

    def contraction(self, spec) -> float:
        """k/block."""
        return self.kept / self.block

    @property
    def projects(self) -> bool:
        """It sends entries as they are."""
        return True

    @property
    def _width(self) -> int:
        return (self.block - 1).bit_length()


def block_top_k(fraction: float, block: int = 256) -> BlockTopK:
    """Of every `block` entries send the part `fraction` that is largest in magnitude."""
    return BlockTopK(fraction, block)
