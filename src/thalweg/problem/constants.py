"""Curvature of the local functions: L_i (smoothness) and μ_i (strong convexity) of φ_i = n·w_i·f_i.

Exact where the problem knows them, given where the user did, else estimated from Hessians at x0 and at seeded random
points around it. An estimate looks at finitely many points and carries no hidden safety factor: away from them L_i may
be larger and μ_i smaller. It is exact for quadratics, and for linear models with logistic loss started at x0 = 0,
where the curvature is largest.

Axes: `n` agents, `d` variables.
"""

import dataclasses
import weakref
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

DENSE_VARIABLES = 300
DENSE_ENTRIES = 10_000_000
RANDOM_POINTS = 2
LANCZOS_STEPS = 40

Source = Literal["exact", "given", "estimated"]


@dataclasses.dataclass(frozen=True, eq=False)
class Constants:
    """L_i and μ_i, and how they were found.

    Attributes:
        smoothness: float64 `[n]`, Lipschitz constants of the gradients (infinite where not smooth).
        strong_convexity: float64 `[n]`, 0 where merely convex or not convex.
        source: "exact", "given" (by the user) or "estimated" (from Hessians at a few points).
    """

    smoothness: np.ndarray
    strong_convexity: np.ndarray
    source: Source

    @property
    def condition_number(self) -> float:
        """max_i L_i / min_i μ_i; infinite without strong convexity."""
        weakest = float(self.strong_convexity.min())
        return float(self.smoothness.max()) / weakest if weakest > 0 else float("inf")

    def __str__(self) -> str:
        low, high = self.smoothness.min(), self.smoothness.max()
        return (
            f"L_i in [{low:.4g}, {high:.4g}], μ_i ≥ {self.strong_convexity.min():.4g}, "
            f"condition number {self.condition_number:.4g} ({self.source})"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Known:
    """What is known of the constants without looking at Hessians; None where nothing is. Fields as in `Constants`."""

    smoothness: np.ndarray | None
    strong_convexity: np.ndarray | None
    source: Source

    def times(self, scale: np.ndarray) -> "Known":
        """The constants of scale_i·f_i."""
        parts = (self.smoothness, self.strong_convexity)
        return Known(*(None if part is None else scale * part for part in parts), self.source)


class Memo:
    """Remembers the constants of one problem; lives in a static field, so all memos are equal to the compiler.

    The answer counts only for the very arrays it was computed from: copies of a problem with other pieces share the
    memo, and must not share the answer.
    """

    def __init__(self) -> None:
        self._seen: list[weakref.ref] = []
        self._answer: Any = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Memo)

    def __hash__(self) -> int:
        return hash(Memo)

    def __reduce__(self):
        return Memo, ()

    def recall(self, leaves: list) -> Any:
        """The answer for `leaves`, if it is known."""
        same = len(leaves) == len(self._seen) and all(ref() is leaf for ref, leaf in zip(self._seen, leaves, strict=True))
        return self._answer if same else None

    def remember(self, leaves: list, answer: Any) -> None:
        """Keep `answer` for `leaves`."""
        self._seen, self._answer = [weakref.ref(leaf) for leaf in leaves], answer


def given(smoothness: Any, strong_convexity: Any, n: int) -> Known:
    """The user's constants of the f_i: numbers, or arrays `[n]`, or None where not given.

    Raises:
        ValueError: wrong shape, L ≤ 0, μ < 0, or μ > L.
    """

    def vector(value, name, lowest):
        if value is None:
            return None
        array = np.asarray(value, dtype=np.float64)
        if array.shape not in ((), (n,)) or not np.all(array >= 0) or (lowest and not np.all(array > 0)):
            expected = f"a {'positive' if lowest else 'non-negative'} number or one per agent, shape ({n},)"
            raise ValueError(f"{name}: got {value}, expected {expected}; leave it out to have it estimated")
        return np.broadcast_to(array, (n,)).copy()

    upper, lower = vector(smoothness, "smoothness", True), vector(strong_convexity, "strong_convexity", False)
    if upper is not None and lower is not None and np.any(lower > upper):
        i = int(np.argmax(lower > upper))
        raise ValueError(
            f"strong_convexity of agent {i}: got {lower[i]}, expected at most its smoothness {upper[i]}; "
            "strong_convexity is the smallest curvature, smoothness the largest"
        )
    return Known(upper, lower, "given")


def complete(known: Known, problem: Any) -> Constants:
    """`known`, with what is missing estimated."""
    if known.smoothness is not None and known.strong_convexity is not None:
        return Constants(known.smoothness, known.strong_convexity, known.source)
    found = estimate_constants(problem)
    return Constants(
        found.smoothness if known.smoothness is None else known.smoothness,
        found.strong_convexity if known.strong_convexity is None else known.strong_convexity,
        "estimated",
    )


def estimate_constants(problem: Any, points: int = RANDOM_POINTS, seed: int = 0) -> Constants:
    """Largest and smallest Hessian eigenvalue of every φ_i over x0 and `points` seeded random points around it.

    Random points are x0 + z, z normal with E‖z‖² = max(1, ‖x0‖²). Hessians are formed when d ≤ 300 and
    n·d² ≤ 10⁷; above, 40 Lanczos steps on Hessian-vector products give Ritz values, which lie inside the spectrum
    (L slightly low, μ slightly high). Smallest eigenvalues below rounding, or negative, count as 0.
    """
    flat, _ = ravel_pytree(problem.x0)
    noise = np.random.default_rng(seed).standard_normal((points, flat.size))
    spread = max(1.0, float(np.linalg.norm(flat))) / np.sqrt(flat.size)
    places = [flat, *(flat + jnp.asarray(spread * z, flat.dtype) for z in noise)]
    dense = flat.size <= DENSE_VARIABLES and problem.n * flat.size**2 <= DENSE_ENTRIES
    lows, highs = [], []
    for place in places:
        if dense:
            hessians = np.asarray(_hessians(problem, place), dtype=np.float64)
            eigenvalues = np.linalg.eigvalsh(0.5 * (hessians + hessians.swapaxes(1, 2)))
        else:
            alpha, beta = (np.asarray(a, dtype=np.float64) for a in _lanczos(problem, place))
            eigenvalues = np.linalg.eigvalsh(_tridiagonal(alpha, beta))
        lows.append(eigenvalues[:, 0])
        highs.append(np.abs(eigenvalues).max(axis=1))
    high, low = np.max(highs, axis=0), np.min(lows, axis=0)
    rounding = flat.size * float(jnp.finfo(flat.dtype).eps) * high
    return Constants(high, np.where(low > rounding, low, 0.0), "estimated")


def _tridiagonal(alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """Lanczos matrices `[n, k, k]`."""
    k = alpha.shape[1]
    matrix = np.zeros((*alpha.shape, k))
    steps = np.arange(k)
    matrix[:, steps, steps] = alpha
    matrix[:, steps[:-1], steps[1:]] = matrix[:, steps[1:], steps[:-1]] = beta[:, :-1]
    return matrix


@eqx.filter_jit
def _hessians(problem: Any, place: Array) -> Array:
    """∇²φ_i at `place`, `[n, d, d]`."""
    _, unravel = ravel_pytree(problem.x0)
    return jax.vmap(lambda piece: jax.hessian(lambda z: problem.local(piece).value(unravel(z)))(place))(problem.pieces)


@eqx.filter_jit
def _lanczos(problem: Any, place: Array) -> tuple[Array, Array]:
    """Diagonals α and off-diagonals β, each `[n, k]`, of Lanczos with full reorthogonalisation on ∇²φ_i."""
    _, unravel = ravel_pytree(problem.x0)
    d = place.size
    steps = min(LANCZOS_STEPS, d)
    eps = jnp.finfo(place.dtype).eps

    def one(piece):
        _, product = jax.linearize(jax.grad(lambda z: problem.local(piece).value(unravel(z))), place)
        # A fixed dense start: no eigenvector is orthogonal to it by structure, as one of ones or a unit vector would be.
        start = jax.random.normal(jax.random.key(0), (d,), place.dtype)

        def step(carry, index):
            basis, vector, size = carry
            basis = basis.at[index].set(vector)
            image = product(vector)
            alpha = jnp.vdot(vector, image)
            image = image - basis.T @ (basis @ image)
            image = image - basis.T @ (basis @ image)
            size = jnp.maximum(size, jnp.abs(alpha))
            beta = jnp.linalg.norm(image)
            alive = beta > 100 * eps * size
            vector = jnp.where(alive, image / jnp.where(alive, beta, 1), 0)
            return (basis, vector, size), (alpha, jnp.where(alive, beta, 0))

        first = (jnp.zeros((steps, d), place.dtype), start / jnp.linalg.norm(start), jnp.zeros((), place.dtype))
        (_, _, _), (alphas, betas) = jax.lax.scan(step, first, jnp.arange(steps))
        return alphas, betas

    # One agent after another in small batches bounds the memory of the Lanczos basis.
    return jax.lax.map(one, problem.pieces, batch_size=max(1, min(256, DENSE_ENTRIES // (steps * d))))
