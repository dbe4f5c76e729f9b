"""Generalised linear models in one line: (loss of one example, x0). Examples are (features `[d]`, label)."""

from typing import Any

from thalweg.problem import losses
from thalweg.problem.losses import LinearModel, linear_model


def linear_regression(d: int, *, fit_intercept: bool = True, dtype: Any = None) -> tuple[LinearModel, dict[str, Any]]:
    """½(aᵀw + c − b)²."""
    return _started(losses.squared, d, None, fit_intercept, dtype)


def logistic_regression(d: int, *, fit_intercept: bool = True, dtype: Any = None) -> tuple[LinearModel, dict[str, Any]]:
    """log(1 + exp(s)) − b·s with s = aᵀw + c, for labels b in {0, 1}."""
    return _started(losses.logistic, d, None, fit_intercept, dtype)


def softmax_regression(
    d: int, classes: int, *, fit_intercept: bool = True, dtype: Any = None
) -> tuple[LinearModel, dict[str, Any]]:
    """Cross-entropy of softmax(aᵀW + c) `[classes]`, for labels 0 … classes − 1.

    Raises:
        ValueError: fewer than two classes.
    """
    if classes < 2:
        raise ValueError(f"softmax_regression: got {classes} classes, expected at least 2")
    return _started(losses.softmax_cross_entropy, d, classes, fit_intercept, dtype)


def poisson_regression(d: int, *, fit_intercept: bool = True, dtype: Any = None) -> tuple[LinearModel, dict[str, Any]]:
    """exp(s) − b·s with s = aᵀw + c, for counts b ≥ 0. Not smooth everywhere: give a learning rate."""
    return _started(losses.poisson, d, None, fit_intercept, dtype)


def _started(loss, d, outputs, fit_intercept, dtype):
    model = linear_model(loss, fit_intercept)
    return model, model.start(d, outputs, dtype)
