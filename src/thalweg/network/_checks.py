"""Checks of builders' arguments: got, expected, how to mend."""

import operator
from typing import Any


def integer(name: str, value: Any, minimum: int) -> int:
    """`value` as an int that is at least `minimum`, or a TypeError / ValueError that says what to pass."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer >= {minimum}; got {value!r} ({type(value).__name__}).") from None
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}; got {number}.")
    return number


def probability(name: str, value: Any, *, below_one: bool = False) -> float:
    """`value` as a float in [0, 1], or in [0, 1) if `below_one`."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a probability; got {value!r} ({type(value).__name__}).") from None
    if not (0.0 <= number <= 1.0) or (below_one and number == 1.0):
        interval = "[0, 1)" if below_one else "[0, 1]"
        raise ValueError(f"{name} must lie in {interval}; got {number!r}.")
    return number


def distribution(name: str, values: Any) -> tuple[float, ...]:
    """`values` as a tuple of probabilities that sum to 1."""
    numbers = tuple(probability(f"{name}[{k}]", value) for k, value in enumerate(values))
    if not numbers or abs(sum(numbers) - 1.0) > 1e-9:
        raise ValueError(
            f"{name} must be probabilities that sum to 1; got {numbers} with sum {sum(numbers)!r}. "
            "Divide by the sum if they are relative frequencies."
        )
    return numbers


def known(given: str, choices: tuple[str, ...], what: str) -> ValueError:
    """The error for a name that is not one of `choices`."""
    return ValueError(f"unknown {what} {given!r}; expected one of {', '.join(map(repr, choices))}.")
