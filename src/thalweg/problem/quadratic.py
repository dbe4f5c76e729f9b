"""Quadratic problems, about which everything is known: f_i(x) = ½ xᵀA_i x + b_iᵀx + c_i.

Axes: `n` agents, `d` variables.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from thalweg.problem.consensus import Consensus
from thalweg.problem.regularizer import Regularizer


@jax.custom_jvp
def _form(x, A, b, c):
    return 0.5 * (x @ (A @ x)) + b @ x + c


def _form_jvp(primals, tangents):
    # Autodiff of xᵀAx reads A twice, as it cannot know that A is symmetric. This reads it once.
    x, A, b, c = primals
    dx, dA, db, dc = tangents
    Ax = A @ x
    terms = [
        (dx, lambda t: (Ax + b) @ t),
        (dA, lambda t: 0.5 * (x @ (t @ x))),
        (db, lambda t: t @ x),
        (dc, lambda t: t),
    ]
    value = 0.5 * (x @ Ax) + b @ x + c
    change = sum((rule(t) for t, rule in terms if not isinstance(t, SymbolicZero)), start=jnp.zeros_like(value))
    return value, change


_form.defjvp(_form_jvp, symbolic_zeros=True)


def quadratic_loss(x, data):
    """½ xᵀAx + bᵀx + c with data = {"A" [d, d] symmetric, "b" [d], "c" []}."""
    return _form(x, data["A"], data["b"], data["c"])


def quadratic_prox(v, step, data):
    """Solves (I + step·A) x = v − step·b."""
    step = jnp.asarray(step, v.dtype)
    matrix = jnp.eye(v.shape[0], dtype=v.dtype) + step * data["A"]
    return jnp.linalg.solve(matrix, v - step * data["b"])


@dataclasses.dataclass(frozen=True)
class _Steady:
    """A signal that leaves A alone, so that curvatures stay what they are."""

    function: Callable

    def __call__(self, data, k):
        moved = self.function(data, k)
        if moved["A"] is not data["A"]:
            raise ValueError(
                "quadratic data_signal: got another A, expected the one it was given, since L_i and μ_i belong to it; state a "
                "curvature that moves as tw.Consensus(loss, data, x0, data_signal=…), with bounds for all rounds"
            )
        return moved


def quadratic(
    A: Any,
    b: Any,
    c: Any = 0.0,
    *,
    x0: Any = None,
    weights: Any = None,
    regularizer: Regularizer | None = None,
    gradient_noise: float | int = 0.0,
    data_signal: Callable | None = None,
    names: Sequence[str] | None = None,
) -> Consensus:
    """minimise Σ_i w_i (½ xᵀA_i x + b_iᵀx + c_i) + r(x), with prox in closed form and exact L_i and μ_i.

    Arguments:
        A: `[n, d, d]`, symmetric; its eigenvalues are L_i (largest modulus) and μ_i (smallest; 0 if negative).
        b: `[n, d]`.
        c: a number or `[n]`.
        x0: `[d]`; zeros, in the dtype of `A`, when left out.
        weights, regularizer, gradient_noise, names: as for `Consensus`.
        data_signal: `data_signal({"A", "b", "c"}, k)`: those of round k, with the same A: `{**data, "b": data["b"] + ...}`.

    Raises:
        ValueError: shapes that do not fit, an A_i that is not symmetric, a signal that moves A.
    """
    A, b = np.asarray(A), np.asarray(b)
    if A.ndim != 3 or A.shape[1] != A.shape[2] or b.shape != A.shape[:2]:
        raise ValueError(f"quadratic: got A {A.shape} and b {b.shape}, expected [n, d, d] and [n, d]")
    c = np.asarray(c, dtype=b.dtype if np.issubdtype(b.dtype, np.floating) else float)
    if c.shape not in ((), (len(A),)):
        raise ValueError(f"quadratic: got c of shape {c.shape}, expected a number or [{len(A)}]")
    size = np.abs(A).max(axis=(1, 2))
    skew = np.abs(A - A.swapaxes(1, 2)).max(axis=(1, 2))
    for i in np.flatnonzero(skew > 1e-5 * size):
        raise ValueError(f"quadratic: A of agent {i} is not symmetric (off by {skew[i]:.3g}); pass (A + Aᵀ)/2")
    A = 0.5 * (A + A.swapaxes(1, 2))
    floating = A.dtype if np.issubdtype(A.dtype, np.floating) else np.float64
    # NaN and infinity are refused by Consensus, in its own words; eigvalsh would raise first.
    eigenvalues = np.linalg.eigvalsh(np.where(np.isfinite(A), A, 0).astype(np.float64))
    smoothness = np.abs(eigenvalues).max(axis=1)
    rounding = A.shape[1] * np.finfo(floating).eps * smoothness
    return Consensus(
        quadratic_loss,
        {"A": A, "b": b, "c": np.broadcast_to(c, (len(A),))},
        np.zeros(A.shape[1], floating) if x0 is None else x0,
        weights=weights,
        regularizer=regularizer,
        smoothness=np.maximum(smoothness, np.finfo(np.float64).tiny),
        strong_convexity=np.where(eigenvalues[:, 0] > rounding, eigenvalues[:, 0], 0.0),
        exact=True,
        prox=quadratic_prox,
        gradient_noise=gradient_noise,
        data_signal=None if data_signal is None else _Steady(data_signal),
        names=names,
    )
