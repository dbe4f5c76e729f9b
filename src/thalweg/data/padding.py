"""Agents with different numbers of examples, in arrays of one shape.

Axes: `n` agents, `m` examples.
"""

from collections.abc import Sequence

import numpy as np


def stack(leaves: Sequence[np.ndarray], length: int) -> np.ndarray:
    """`[n, length, ...]` from n arrays `[m_i, ...]`, 1 ≤ m_i ≤ length; the rest repeats an agent's first example.

    That is a real record, on which a loss is as finite as on any other, so that no padding can turn into NaN.
    """
    dtype = np.result_type(*{leaf.dtype for leaf in leaves})
    stacked = np.empty((len(leaves), length, *leaves[0].shape[1:]), dtype)
    for row, leaf in zip(stacked, leaves, strict=True):
        row[: len(leaf)] = leaf
        row[len(leaf) :] = leaf[0]
    return stacked
