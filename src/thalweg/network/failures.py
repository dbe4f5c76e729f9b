"""What can go wrong between agents: lost messages, late messages, sleeping agents."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array, diags_array

from thalweg.network import _checks, moments


@dataclass(frozen=True)
class Failures:
    """A description of failures; the engines draw them.

    - `loss`: probability, per round and edge, that a message is lost.
    - `symmetric`: True, both ends drop the edge together (a broken radio link, a handshake that failed), so that returning
      the lost weight to oneself keeps W_k doubly stochastic. False, each direction is lost by itself, and W_k is only
      row-stochastic: methods that conserve a mean are then biased unless they say otherwise.
    - `burst`: mean length of a run of losses, in rounds (Gilbert-Elliott: good → bad with probability p, bad → good with
      q = 1/burst, stationary loss p/(p+q) = `loss`). None: every round is independent.
    - `delay`: probabilities (p_0, …, p_H) that a message arrives 0..H rounds late. None: always at once.
    - `asleep`: probability that an agent sleeps through a round: it neither sends, receives nor computes.

    **Raises** `ValueError` / `TypeError` for anything that is not a probability, for bursts shorter than one round, and
    for bursts too short to be compatible with so frequent a loss.
    """

    loss: float = 0.0
    symmetric: bool = True
    burst: float | None = None
    delay: tuple[float, ...] | None = None
    asleep: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "loss", _checks.probability("loss", self.loss, below_one=True))
        object.__setattr__(self, "asleep", _checks.probability("asleep", self.asleep, below_one=True))
        if not isinstance(self.symmetric, bool | np.bool_):
            raise TypeError(f"symmetric must be True or False; got {self.symmetric!r}.")
        if self.delay is not None:
            object.__setattr__(self, "delay", _checks.distribution("delay", self.delay))
        if self.burst is not None:
            self._check_burst()

    def _check_burst(self) -> None:
        if self.loss == 0:
            raise ValueError(f"burst = {self.burst!r} without loss; pass the share of messages lost too, for example loss=0.1.")
        if not (math.isfinite(self.burst) and self.burst >= 1):
            raise ValueError(f"burst is a mean length in rounds and must be finite and >= 1; got {self.burst!r}.")
        if self.transition[0] > 1:
            shortest = self.loss / (1 - self.loss)
            raise ValueError(
                f"loss = {self.loss} cannot come in bursts as short as {self.burst} rounds: there are not enough good rounds "
                f"between them. Pass burst >= {shortest:.4g}, or burst=None for independent losses."
            )

    @property
    def any(self) -> bool:
        """Whether anything can fail at all."""
        return bool(self.kinds)

    @property
    def kinds(self) -> frozenset[str]:
        """Subset of {"symmetric", "independent", "asleep", "delay"}, to hold against an algorithm's `exact_under`."""
        kinds = set()
        if self.loss > 0:
            kinds.add("symmetric" if self.symmetric else "independent")
        if self.asleep > 0:
            kinds.add("asleep")
        if self.arrives_at_once < 1:
            kinds.add("delay")
        return frozenset(kinds)

    @property
    def arrives_at_once(self) -> float:
        """Probability p_0 that a message which is not lost arrives in its own round."""
        return 1.0 if self.delay is None else self.delay[0]

    @property
    def transition(self) -> tuple[float, float]:
        """(p, q): probabilities per round of good → bad and bad → good. Independent losses are p = loss, q = 1 - loss."""
        if self.burst is None:
            return self.loss, 1.0 - self.loss
        recover = 1.0 / self.burst
        return recover * self.loss / (1.0 - self.loss), recover

    def expected_mixing(self, mixing: Any) -> csr_array:
        """E[W_k], `[n, n]`, when the weight of every message that does not arrive in time returns to its receiver.

        Off the diagonal W_ij shrinks by (1 - loss)·p_0·(1 - asleep)²; the diagonal makes the rows sum to 1. Bursts change
        the correlation between rounds, not this mean.
        """
        matrix = csr_array(mixing, dtype=float)
        diagonal = diags_array(matrix.diagonal(), format="csr")
        kept = (matrix - diagonal) * ((1 - self.loss) * self.arrives_at_once * (1 - self.asleep) ** 2)
        own = matrix.sum(axis=1) - kept.sum(axis=1)
        return csr_array(kept + diags_array(own, format="csr"))

    def mean_square_rate(self, mixing: Any) -> float:
        """Factor per round of E‖x_k - x̄‖² under these failures, for symmetric W and n <= 40.

        The spectral radius of X ↦ E[W_k X W_k] on the disagreement space. With symmetric loss alone,
        E[W⊗W] = W̄⊗W̄ + loss(1 - loss) Σ_e l_e⊗l_e, l_e the weighted Laplacian of edge e; sleeping agents correlate the edges
        that meet in them, which is counted too.

        **Raises** `ValueError` for independent, late or bursty losses (W_k is then not symmetric, or not independent in
        time, and one factor per round does not exist), for asymmetric W and for n > 40.
        """
        excluded = self.kinds & {"independent", "delay"} | ({"burst"} if self.burst is not None else set())
        if excluded:
            raise ValueError(
                f"no mean-square rate in closed form under {', '.join(sorted(excluded))} failures; it exists for symmetric loss "
                "and sleep that are independent between rounds. Measure it with a run instead."
            )
        matrix = csr_array(mixing, dtype=float)
        return moments.mean_square_factor(moments.unreliable(matrix, self.loss, self.asleep), matrix.shape[0])

    def __str__(self) -> str:
        if not self.any:
            return "none"
        parts = []
        if self.loss > 0:
            how = "symmetric" if self.symmetric else "independent"
            burst = f", bursts of {self.burst:g} rounds" if self.burst is not None else ""
            parts.append(f"loss {self.loss:g} ({how}{burst})")
        if self.arrives_at_once < 1:
            late = 1 - self.arrives_at_once
            parts.append(f"delay up to {len(self.delay) - 1} rounds ({late:.3g} of messages late)")
        if self.asleep > 0:
            parts.append(f"asleep {self.asleep:g}")
        return "; ".join(parts)
