"""An empirical lower bound of ε: how well does an attack tell members from others?"""

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Audit:
    """What an attack showed.

    Attributes:
        epsilon: with the stated confidence the mechanism is not (ε', δ)-private for any ε' below this.
        threshold: score above which the attack says "member".
        true_positive, false_positive: its rates on the second halves.
        confidence: of the bound.
    """

    epsilon: float
    threshold: float
    true_positive: float
    false_positive: float
    confidence: float


def audit(members: Any, others: Any, delta: float, confidence: float = 0.95) -> Audit:
    """A lower bound of ε from an attack's scores, `[a]` of inputs that were in and `[b]` of inputs that were not.

    (ε, δ)-privacy implies TPR ≤ e^ε FPR + δ for every test. The threshold is chosen on the first half of the scores; on the
    second Clopper and Pearson's intervals bound both rates, and ε ≥ log((TPR − δ)/FPR), also for the complement. Scores must be
    independent.

    Matthew Jagielski, Jonathan Ullman, Alina Oprea, *Auditing differentially private machine learning: how private is private
    SGD?*, NeurIPS 2020.

    Raises:
        ValueError: fewer than 20 scores on a side, or numbers out of range.
    """
    members, others = np.asarray(members, float).ravel(), np.asarray(others, float).ravel()
    if min(len(members), len(others)) < 20 or not (np.isfinite(members).all() and np.isfinite(others).all()):
        raise ValueError(f"audit: got {len(members)} and {len(others)} scores, expected at least 20 finite ones on both sides")
    if not 0 <= delta < 1 or not 0 < confidence < 1:
        raise ValueError(f"audit: got delta={delta} and confidence={confidence}, expected numbers between 0 and 1")
    chosen, held = (members[::2], others[::2]), (members[1::2], others[1::2])
    candidates = np.unique(np.concatenate(chosen))
    bounds = [_bound(*chosen, t, delta, confidence)[0] for t in candidates]
    threshold = float(candidates[int(np.argmax(bounds))])
    found, tpr, fpr = _bound(*held, threshold, delta, confidence)
    return Audit(max(0.0, found), threshold, tpr, fpr, confidence)


def _bound(members, others, threshold, delta, confidence):
    """(lower bound of ε, TPR, FPR) of the test score > threshold, and of its complement."""
    hits, alarms = int((members > threshold).sum()), int((others > threshold).sum())
    a, b, doubt = len(members), len(others), (1 - confidence) / 4  # four bounds hold together
    low, high = lambda k, n: _pearson(k, n, doubt)[0], lambda k, n: _pearson(k, n, doubt)[1]
    ratio = lambda p, q: np.log((p - delta) / q) if p > delta and q > 0 else -np.inf
    accept = ratio(low(hits, a), high(alarms, b))
    refuse = ratio(low(b - alarms, b), high(a - hits, a))
    return float(max(accept, refuse)), hits / a, alarms / b


def _pearson(k: int, n: int, doubt: float) -> tuple[float, float]:
    """Clopper and Pearson's interval, each end missed with probability `doubt` at most."""
    from scipy.stats import beta

    low = beta.ppf(doubt, k, n - k + 1) if k else 0.0
    high = beta.ppf(1 - doubt, k + 1, n - k) if k < n else 1.0
    return float(low), float(high)
