"""How fast agents agree: what the network promises, and what was seen."""

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .result import Result

FEWEST = 5  # records that a rate is fitted to


@dataclasses.dataclass(frozen=True)
class Mixing:
    """Predicted and measured decay of the consensus error e_k = √(mean_i ‖x_i,k − x̄_k‖²).

    Attributes:
        predicted: factor per round of plain averaging on this network (its `rate`, else sigma); None if unknown.
        measured: factor per round fitted to the records from round `first` to `last`; None if nothing decays.
        first: first round of the fit.
        last: last round of the fit.
        guide: `[records]` the prediction, predicted^k through the largest e_k; NaN before it, or where there is none.
    """

    predicted: float | None
    measured: float | None
    first: int
    last: int
    guide: np.ndarray

    @staticmethod
    def of(result: "Result") -> "Mixing":
        """Prediction and fit of `result`."""
        rounds = np.asarray(result.history.scalars["round"], float)
        errors = np.asarray(result.history.scalars.get("consensus_error", np.full(len(rounds), np.nan)), float)
        facts = result.graph.get("facts", {})
        predicted = facts.get("rate", facts.get("sigma"))
        predicted = None if predicted is None or not 0 < predicted < 1 else float(predicted)
        measured, first, last = fit(rounds, errors)
        return Mixing(predicted, measured, first, last, _guide(rounds, errors, predicted))


def fit(rounds: np.ndarray, errors: np.ndarray) -> tuple[float | None, int, int]:
    """(factor per round, first round, last round): the slope of log e_k over the later half of its decaying part.

    The decaying part runs from the largest error to where the logarithm has done 90 % of its fall; what follows is a floor
    (bias, rounding) or the stop. The rate is None if the fall is less than tenfold or has fewer than `FEWEST` records.
    """
    usable = np.isfinite(errors) & (errors > 0)
    k, log = np.asarray(rounds, float)[usable], np.log(np.asarray(errors, float)[usable])
    if len(k) < FEWEST:
        return None, 0, 0
    top = int(np.argmax(log))
    bottom = log[top:].min()
    if log[top] - bottom < math.log(10):
        return None, 0, 0
    end = top + int(np.argmax(log[top:] <= bottom + 0.1 * (log[top] - bottom)))
    start = min(int(np.searchsorted(k, (k[top] + k[end]) / 2)), max(end + 1 - FEWEST, top))
    if end - start + 1 < FEWEST:
        return None, 0, 0
    slope = np.polyfit(k[start : end + 1] - k[start], log[start : end + 1], 1)[0]
    return (float(np.exp(slope)), int(k[start]), int(k[end])) if slope < 0 else (None, 0, 0)


def rounds_per_tenfold(rate: float) -> float:
    """Rounds in which an error that shrinks by `rate` per round falls tenfold."""
    return math.log(10) / -math.log(rate)


def _guide(rounds: np.ndarray, errors: np.ndarray, rate: float | None) -> np.ndarray:
    usable = np.isfinite(errors) & (errors > 0)
    if rate is None or not usable.any():
        return np.full(len(rounds), np.nan)
    top = int(np.argmax(np.where(usable, errors, -np.inf)))
    past = np.maximum(rounds - rounds[top], 0)
    log = math.log10(errors[top]) + past * math.log10(rate)
    return np.where((rounds >= rounds[top]) & (log > -300), 10.0 ** np.maximum(log, -300), np.nan)
