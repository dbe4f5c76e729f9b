"""A record read off one update."""

from typing import Any

import numpy as np


def reconstruct(weight: Any, bias: Any) -> np.ndarray:
    """The input `[d]` of a first dense layer, from one gradient (or one step) of a single example.

    With z = W x + b, ∂L/∂W = (∂L/∂z) xᵀ and ∂L/∂b = ∂L/∂z: every row of ∂L/∂W is x times the entry of ∂L/∂b. Rows are averaged by
    least squares, which finds x exactly where nothing protects it. Of a step on several examples it is a weighted mean of them.

    Arguments:
        weight: change of W `[classes, d]`; bias: change of b `[classes]`; of any common scale.

    Le Trieu Phong, Yoshinori Aono, Takuya Hayashi, Lihua Wang, Shiho Moriai, *Privacy-preserving deep learning via additively
    homomorphic encryption*, IEEE TIFS 2018.

    Raises:
        ValueError: shapes that do not belong together, or no change of the bias.
    """
    W, b = np.asarray(weight, float), np.asarray(bias, float)
    if W.ndim != 2 or b.shape != W.shape[:1]:
        raise ValueError(f"reconstruct: got changes of shapes {W.shape} and {b.shape}, expected [classes, d] and [classes]")
    if not np.any(b):
        raise ValueError("reconstruct: got no change of the bias, which carries the scale of the rows")
    return b @ W / (b @ b)
