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
