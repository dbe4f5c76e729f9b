"""Verified properties of a network, each computed when first asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array

from thalweg.network import graph, moments, spectrum
from thalweg.network.schedule import Gossip, Periodic, RandomPhase

if TYPE_CHECKING:
    from thalweg.network.network import Network


@dataclass(frozen=True, eq=False, repr=False)
class NetworkFacts:
    """What holds for `network`, checked on its matrices rather than assumed from its name.

    W is the mixing matrix [n, n], J = 11ᵀ/n. With a schedule, W means E[W_k] (`Periodic`: the time average), while
    `doubly_stochastic`, `nonnegative`, `symmetric` and `lambda_min` hold for every W_k that can occur. Failures are not
    included; see `Failures.expected_mixing` and `Failures.mean_square_rate`. Facts of W are None if `mixing` is.
    """

    network: Network

    @property
    def n(self) -> int:
        """Number of agents."""
        return self.network.n

    @property
    def directed(self) -> bool:
        """Whether agent i may hear j without j hearing i."""
        return self.network.directed

    @cached_property
    def connected(self) -> bool:
        """Whether the union of all phases is connected; strongly connected, if directed."""
        return graph.components(self.network.edges, self.n, self.directed)[0] == 1

    @cached_property
    def min_degree(self) -> int:
        """Fewest agents that any agent hears."""
        return int(self.network.in_degree.min())

    @cached_property
    def max_degree(self) -> int:
        """Most agents that any agent hears."""
        return int(self.network.in_degree.max())

    @cached_property
    def _diameter(self) -> tuple[float, bool]:
        return graph.diameter(self.network.edges, self.n, self.directed)

    @property
    def diameter(self) -> float:
        """Longest shortest path in the union of all phases; above n = 2000 an upper bound; `inf` if disconnected."""
        return self._diameter[0]

    @property
    def diameter_is_bound(self) -> bool:
        """Whether `diameter` is only an upper bound."""
        return self._diameter[1]

    @cached_property
    def _mixings(self) -> tuple[csr_array, ...]:
        """The W of every phase. With gossip, E[W] stands for the W_k: their answers to all that is asked of it are the same."""
        return tuple(phase.mixing for phase in self.network.phases if phase.mixing is not None)

    @cached_property
    def _tolerance(self) -> float:
        return 1e-12 * self.n

    def _all_mixings(self, holds) -> bool:
        return len(self._mixings) == len(self.network.phases) and all(holds(w) for w in self._mixings)

    @cached_property
    def symmetric(self) -> bool:
        """W = Wᵀ in every phase."""
        return self._all_mixings(lambda w: abs(w - w.T).max() <= self._tolerance)

    @cached_property
    def row_stochastic(self) -> bool:
        """W 1 = 1 in every phase, to 1e-12·n."""
        return self._all_mixings(lambda w: np.abs(w.sum(axis=1) - 1).max() <= self._tolerance)

    @cached_property
    def column_stochastic(self) -> bool:
        """1ᵀ W = 1ᵀ in every phase, to 1e-12·n."""
        return self._all_mixings(lambda w: np.abs(w.sum(axis=0) - 1).max() <= self._tolerance)

    @property
    def doubly_stochastic(self) -> bool:
        """Row- and column-stochastic in every phase (entries may be negative: see `nonnegative`)."""
        return self.row_stochastic and self.column_stochastic

    @cached_property
    def nonnegative(self) -> bool:
        """No negative entry in any phase."""
        return self._all_mixings(lambda w: bool((w.data >= 0).all()))

    @property
    def expected_mixing(self) -> csr_array | None:
        """E[W_k], `[n, n]`; W itself without a schedule."""
        return self.network.mixing

    @cached_property
    def _extremes(self) -> tuple[float, float]:
        if self.n == 1:
            return 0.0, 1.0
        return spectrum.mixing_extremes(self.network.mixing)

    @cached_property
    def sigma(self) -> float | None:
        """Second largest eigenvalue modulus of W: without a schedule, disagreement shrinks by it per round."""
        if self.network.mixing is None:
            return None
        if not self.symmetric:
            return spectrum.second_modulus(self.network.mixing)
        if self.n == 1:
            return 0.0
        return max(abs(value) for value in self._extremes)

    @property
    def spectral_gap(self) -> float | None:
        """1 - sigma."""
        return None if self.sigma is None else 1.0 - self.sigma

    @cached_property
    def contraction(self) -> float | None:
        """Second largest singular value of W, ‖W - J‖₂: disagreement shrinks by it in *every* round; sigma, if symmetric."""
        if self.network.mixing is None:
            return None
        return self.sigma if self.symmetric else spectrum.second_singular(self.network.mixing)

    @property
    def lambda_2(self) -> float | None:
        """Second largest eigenvalue of W; None if W is not symmetric."""
        return self._extremes[0] if self.symmetric else None

    @cached_property
    def lambda_min(self) -> float | None:
        """Smallest eigenvalue of any W_k that can occur (step-size bounds must hold in every round); None if not symmetric."""
        if not self.symmetric:
            return None
        if isinstance(self.network.schedule, Gossip):
            return 0.0  # I - l_e/2 is a projection
        if len(self._mixings) == 1:
            return self._extremes[1]
        return min(phase.facts.lambda_min for phase in self.network.phases)

    @cached_property
    def pull_sigma(self) -> float:
        """Second largest eigenvalue modulus of the row-stochastic `pull`."""
        return spectrum.second_modulus(self.network.pull)

    @cached_property
    def push_sigma(self) -> float:
        """Second largest eigenvalue modulus of the column-stochastic `push`: the rate of push-sum."""
        return spectrum.second_modulus(self.network.push)

    @cached_property
    def _laplacian_extremes(self) -> tuple[float, float] | None:
        if self.directed:
            return None
        if self.n == 1:
            return 0.0, 0.0
        return spectrum.laplacian_extremes(graph.laplacian(self.network.edges, self.n))

    @property
    def laplacian_2(self) -> float | None:
        """l_2, the algebraic connectivity of the union graph; None if directed."""
        return self._laplacian_extremes[0] if self._laplacian_extremes else None

    @property
    def laplacian_max(self) -> float | None:
        """l_n, the largest eigenvalue of the Laplacian of the union graph; None if directed."""
        return self._laplacian_extremes[1] if self._laplacian_extremes else None

    @cached_property
    def mean_square_factor(self) -> float | None:
        """Factor per round of E‖x_k - x̄‖²: the spectral radius of E[W⊗W] without the consensus mode.

        Without randomness, `rate²` (`Periodic`: of a whole period, for n <= 1000). With `RandomPhase` or `Gossip` computed for
        n <= 40. None above.
        """
        schedule, n = self.network.schedule, self.n
        if self.network.mixing is None:
            return None
        if isinstance(schedule, Periodic):
            if n > spectrum.DENSE_UP_TO:
                return None
            return spectrum.product_modulus(list(self._mixings)) ** (2.0 / schedule.phase_count)
        if not isinstance(schedule, RandomPhase | Gossip):
            return self.sigma**2
        if n > moments.LARGEST:
            return None
        if isinstance(schedule, Gossip):
            return moments.mean_square_factor(moments.pairwise(self.network.edges, n), n)
        return moments.mean_square_factor(moments.of_matrices(self._mixings, schedule.probabilities), n)

    @property
    def rate(self) -> float:
        """Factor per round by which disagreement finally shrinks: √`mean_square_factor`.

        Without doubly stochastic weights, push-sum's `push_sigma`. Where there are too many agents for `mean_square_factor`:
        with gossip the bound √sigma (each W_k is a projection, so E[WᵀW] = E[W]); with phases sigma of E[W], a rough guide.
        """
        if self.network.mixing is None:
            return self.push_sigma
        if self.mean_square_factor is not None:
            return math.sqrt(self.mean_square_factor)
        return math.sqrt(self.sigma) if isinstance(self.network.schedule, Gossip) else self.sigma

    def rounds_to_consensus(self, tol: float = 1e-6) -> float:
        """Rounds of plain averaging until disagreement has shrunk by `tol`: ⌈log tol / log rate⌉; `inf` if it never does."""
        if not 0 < tol < 1:
            raise ValueError(f"tol is a factor by which disagreement shrinks and lies in (0, 1); got {tol!r}.")
        if self.n == 1:
            return 0
        if not self.connected or self.rate >= 1 - 1e-14:
            return math.inf
        if self.rate < 1e-14:
            return self.network.schedule.phase_count
        return max(1, math.ceil(math.log(tol) / math.log(self.rate) - 1e-9))

    def __repr__(self) -> str:
        sigma = "none (pull and push only)" if self.sigma is None else f"{self.sigma:.6g}"
        return (
            f"NetworkFacts({self.network.name}: n={self.n}, connected={self.connected}, "
            f"doubly_stochastic={self.doubly_stochastic}, sigma={sigma})"
        )
