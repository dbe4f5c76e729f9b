"""How many bits a coder of variable length would need."""

from typing import Any

import jax
import numpy as np


def entropy_bits(wire: Any) -> float:
    """Bits of a wire by the empirical entropy of its bytes, to compare with 8·`payload_bytes(wire)`, which is what is sent.

    Σ over leaves, and over the bytes of one number of a leaf, of −Σ_v n_v log₂(n_v/n): n_v of the n numbers have the value v in
    that byte. An ideal coder that knows these frequencies needs so much, without the frequencies themselves.
    """
    total = 0.0
    for leaf in jax.tree.leaves(wire):
        array = np.ascontiguousarray(leaf)
        if array.size:
            for plane in array.reshape(-1).view(np.uint8).reshape(array.size, -1).T:
                counts = np.bincount(plane)
                counts = counts[counts > 0]
                total -= float(np.sum(counts * np.log2(counts / array.size)))
    return total
