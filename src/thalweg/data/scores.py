"""How well a score separates two classes."""

from typing import Any

import numpy as np


def auc(scores: Any, labels: Any) -> float:
    """Area under the ROC curve: P(score of a positive > score of a negative) + ½ P(equal).

    By ranks (Mann and Whitney 1947), (R₊ − m₊(m₊ + 1)/2) / (m₊ m₋), with mean ranks among ties.

    Arguments:
        scores: `[m]`, higher means more likely positive.
        labels: `[m]`, 0 or 1.

    Returns:
        A number in [0, 1]; NaN when only one class is present, as the area is then not defined.

    Raises:
        ValueError: lengths differ, labels other than 0 and 1, or NaN scores.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise ValueError(f"auc: got scores {scores.shape} and labels {labels.shape}, expected two equal shapes [m]")
    if np.isnan(scores).any() or not np.isin(labels, (0, 1)).all():
        raise ValueError("auc: got NaN scores or labels other than 0 and 1; expected finite scores and binary labels")
    positive = labels == 1
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if positives == 0 or negatives == 0:
        return float("nan")
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(count) - 0.5 * (count - 1)
    return float((mean_rank[place][positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def concordance(scores: Any, outcomes: Any) -> float:
    """Harrell's C: how often, of two patients, the one with the higher score is the one who dies first.

    Over all pairs whose order is known, i died at t_i and j was seen alive after it (t_j > t_i, or t_j = t_i censored): the share
    with s_i > s_j, equal scores counting ½. The area under the ROC curve is its special case; ½ is chance.

    Args:
        scores: `[m]`, higher means earlier death expected, e.g. a log hazard.
        outcomes: `[m, 2]`, (time, 1 if it is a death, 0 if it is the end of observation).

    Returns:
        A number in [0, 1]; NaN where no pair's order is known.

    Raises:
        ValueError: shapes that do not fit, NaN, or events other than 0 and 1.

    Reference: Harrell et al., *Evaluating the yield of medical tests*, 1982.
    """
    scores, outcomes = np.asarray(scores, dtype=np.float64), np.asarray(outcomes, dtype=np.float64)
    if scores.ndim != 1 or outcomes.shape != (len(scores), 2):
        raise ValueError(f"concordance: got scores {scores.shape} and outcomes {outcomes.shape}, expected [m] and [m, 2]")
    time, event = outcomes.T
    if np.isnan(scores).any() or np.isnan(time).any() or not np.isin(event, (0, 1)).all():
        raise ValueError("concordance: got NaN, or events other than 0 and 1; expected finite scores, times, and 0 or 1")
    agree, known = 0.0, 0
    for i in np.flatnonzero(event == 1):
        later = scores[(time > time[i]) | ((time == time[i]) & (event == 0))]
        agree += np.sum(scores[i] > later) + 0.5 * np.sum(scores[i] == later)
        known += len(later)
    return float(agree / known) if known else float("nan")
