"""What was run, in words that are the same in every process."""

import dataclasses
from typing import Any

import numpy as np


def describe(algorithm: Any) -> str:
    """`GradientTracking(step_size=0.1, order='atc')`: fields that are set, floats to four digits."""
    parts = []
    for field in dataclasses.fields(algorithm):
        value = getattr(algorithm, field.name)
        if value is None or value is False:
            continue
        if isinstance(value, float):
            value = f"{value:.4g}"
        elif hasattr(value, "values") and np.ndim(getattr(value, "values", None)) == 1:
            value = f"{np.min(value.values):.4g}…{np.max(value.values):.4g} per agent"
        else:
            value = shown(value)
        parts.append(f"{field.name}={value}")
    return f"{type(algorithm).__name__}({', '.join(parts)})"


def shown(value: Any) -> str:
    """As `repr`, but functions by name and by the numbers that they hold: the same in every process."""
    if hasattr(value, "init") and hasattr(value, "update") and isinstance(value, tuple):
        numbers = ", ".join(f"{number:.4g}" for number in _held(value.update))
        return f"optimiser({numbers})"
    if callable(value) and hasattr(value, "__qualname__"):
        numbers = ", ".join(f"{number:.4g}" for number in _held(value))
        return f"{value.__qualname__}({numbers})" if numbers else value.__qualname__
    if (
        dataclasses.is_dataclass(value)
        and not isinstance(value, type)
        and any(callable(part) or isinstance(part, tuple) for part in vars(value).values())
    ):
        return describe(value)
    if isinstance(value, np.ndarray) or hasattr(value, "aval"):
        array = np.asarray(value)
        return f"{array.min():.4g}…{array.max():.4g}" if array.ndim and array.size else f"{array}"
    return repr(value)


def _held(function: Any, depth: int = 6) -> list[float]:
    """Numbers in the closures of a function, of functions in it, and so on."""
    found: list[float] = []
    for cell in getattr(function, "__closure__", None) or ():
        try:
            parts = cell.cell_contents
        except ValueError:  # not filled
            continue
        for part in parts if isinstance(parts, tuple | list) else (parts,):
            if isinstance(part, int | float) and not isinstance(part, bool):
                found.append(float(part))
            elif callable(part) and depth:
                found += _held(part, depth - 1)
    return found
