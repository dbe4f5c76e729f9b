"""What a run costs, by the accountants of Google's `dp-accounting` (extra "privacy").

A run is private for one *unit*: a client, one example of a client, or one message of an agent. What a unit's presence can change is
hidden by noise of `noise_multiplier` times that much.
"""

import dataclasses
import math
from typing import Any, Literal

from thalweg._extras import require

Accountant = Literal["rdp", "pld"]
# Whole orders: those between 1 and 2, which only a very large ε asks for, do not converge under sampling.
ORDERS = (*range(2, 65), 72, 80, 96, 128, 192, 256, 512, 1024)


@dataclasses.dataclass(frozen=True)
class Account:
    """The mechanism of one round, by which rounds are charged.

    Attributes:
        unit: who is hidden: "client", "example" or "message".
        adjacency: "add or remove one", or "replace one": what neighbouring inputs are.
        sees: who may see what is not yet private ("the server", "nobody but the agent itself").
        kind: law of the noise.
        noise_multiplier: its scale in units of what one unit can change.
        sampling_rate: with which probability a unit takes part in a draw, by a coin of its own (Poisson); None: it always does.
        draws: noisy answers in a round, each with a draw of its own.
        overflow: probability in one draw that a static maximum cut the draw short, added to δ.
        cycle: rounds in which a unit takes part once, in blocks that go round; 1 where it may take part in every round.
        spread: by how much correlated noise multiplies what a unit can change (‖c‖ of its bands); 1 for independent noise.
    """

    unit: Literal["client", "example", "message"]
    adjacency: Literal["add or remove one", "replace one"]
    sees: str
    kind: Literal["gaussian", "laplace", "discrete_gaussian"]
    noise_multiplier: float
    sampling_rate: float | None = None
    draws: int = 1
    overflow: float = 0.0
    cycle: int = 1
    spread: float = 1.0

    def epsilon(self, rounds: int, delta: float, accountant: Accountant = "rdp") -> float:
        """ε of (ε, δ)-differential privacy after so many rounds; infinite where δ is not enough.

        Arguments:
            accountant: "rdp" (Rényi, quick) or "pld" (privacy loss distributions, tighter).

        Raises:
            ValueError: an accountant that does not know such a mechanism.
        """
        _check_delta(delta)
        draws = self.draws * -(-rounds // self.cycle)
        left = delta - draws * self.overflow
        if draws == 0:
            return 0.0
        if left <= 0:
            return math.inf
        if self.kind == "laplace" and accountant == "rdp":
            accountant = "pld"
        found = _accountant(accountant).compose(self._event(draws)).get_epsilon(left)
        return float(found)

    def rounds(self, budget: "Budget", most: int) -> int:
        """The largest number of rounds, up to `most`, that the budget allows."""
        spent = lambda rounds: self.epsilon(rounds, budget.delta, budget.accountant)
        if spent(most) <= budget.epsilon:
            return most
        low, high = 0, most
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if spent(middle) <= budget.epsilon else (low, middle)
        return low

    def _event(self, draws: int) -> Any:
        dp = require("dp_accounting", "privacy")
        if self.spread != 1 or self.cycle > 1:
            # Noise correlated within a cycle hides all draws of a unit at once: their changes are orthogonal.
            return dp.GaussianDpEvent(self.noise_multiplier / (self.spread * math.sqrt(draws)))
        one = dp.LaplaceDpEvent(self.noise_multiplier) if self.kind == "laplace" else dp.GaussianDpEvent(self.noise_multiplier)
        if self.sampling_rate is not None and self.sampling_rate < 1:
            one = dp.PoissonSampledDpEvent(self.sampling_rate, one)
        return dp.SelfComposedDpEvent(one, draws)

    def __str__(self) -> str:
        drawn = "" if self.sampling_rate is None else f", each drawn with probability {self.sampling_rate:g}"
        return (
            f"one {self.unit} is hidden ({self.adjacency}){drawn}; {self.kind} noise of {self.noise_multiplier:.4g} times what it "
            f"can change, {self.draws} time{'s' * (self.draws != 1)} a round; what is not yet private is seen by {self.sees}"
        )


@dataclasses.dataclass(frozen=True)
class Budget:
    """What may be spent: a run stops before its ε exceeds `epsilon` at `delta`.

    `delta` should be well below one over the number of units.
    """

    epsilon: float
    delta: float
    accountant: Accountant = "rdp"

    def __post_init__(self):
        if not (isinstance(self.epsilon, int | float) and self.epsilon > 0):
            raise ValueError(f"privacy.Budget(epsilon={self.epsilon!r}): expected a positive number, such as 2")
        _check_delta(self.delta)
        if self.accountant not in ("rdp", "pld"):
            raise ValueError(f"privacy.Budget(accountant={self.accountant!r}): expected 'rdp' or 'pld'")


def calibrate(
    epsilon: float,
    delta: float,
    *,
    rounds: int,
    sampling_rate: float | None = None,
    draws: int = 1,
    accountant: Accountant = "rdp",
) -> float:
    """The least noise multiplier with which so many rounds cost at most (ε, δ).

    Of Gaussian noise, `draws` times a round, under sampling with probability `sampling_rate` (None: everybody in every round).

    Raises:
        ValueError: numbers out of range.
    """
    Budget(epsilon, delta, accountant)
    if not isinstance(rounds, int) or rounds < 1:
        raise ValueError(f"calibrate(rounds={rounds!r}): expected a whole number ≥ 1")
    if sampling_rate is not None and not 0 < sampling_rate <= 1:
        raise ValueError(f"calibrate(sampling_rate={sampling_rate!r}): expected a probability in (0, 1], or None")
    dp = require("dp_accounting", "privacy")

    def event(multiplier):
        return Account("client", "add or remove one", "", "gaussian", multiplier, sampling_rate, draws)._event(draws * rounds)

    bracket = dp.LowerEndpointAndGuess(0.0, 1.0)
    found = dp.calibrate_dp_mechanism(lambda: _accountant(accountant), event, epsilon, delta, bracket, tol=1e-4)
    return float(found)


def _accountant(name: Accountant) -> Any:
    dp = require("dp_accounting", "privacy")
    require("dp_accounting.rdp" if name == "rdp" else "dp_accounting.pld", "privacy")
    return dp.rdp.RdpAccountant(ORDERS) if name == "rdp" else dp.pld.PLDAccountant()


def _check_delta(delta: float) -> None:
    if not (isinstance(delta, int | float) and 0 < delta < 1):
        raise ValueError(f"privacy: got delta={delta!r}, expected a probability, well below one over the number of units")
