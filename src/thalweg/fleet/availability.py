"""When devices can be reached.

Axes: `n` devices, `s` intervals.
"""

import csv
import itertools
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float


class Availability(eqx.Module):
    """Intervals in which a device can be reached, repeated with a period (infinite for once).

    Attributes:
        start, end: `[n, s]` seconds; an empty interval has end ≤ start.
        period: seconds.
    """

    start: Float[Array, "n s"]
    end: Float[Array, "n s"]
    period: Float[Array, ""]

    def at(self, clock, members) -> Bool[Array, " c"]:
        """Which of `members` can be reached at time `clock`."""
        now = jnp.where(jnp.isfinite(self.period), jnp.mod(clock, self.period), clock).astype(self.start.dtype)
        return jnp.any((self.start[members] <= now) & (now < self.end[members]), axis=1)


def intervals(start: Any, end: Any, period: float = float("inf")) -> Availability:
    """Available from `start[i, s]` to `end[i, s]`, for every device i and every s.

    Raises:
        ValueError: shapes differ, an interval ends before it starts, or lies outside the period.
    """
    start, end = np.atleast_2d(np.asarray(start, float)), np.atleast_2d(np.asarray(end, float))
    if start.shape != end.shape or np.isnan(start).any() or np.isnan(end).any():
        raise ValueError(
            f"availability: got starts {start.shape} and ends {end.shape}, expected two equal shapes [n, s], no NaN"
        )
    if (end < start).any() or (start < 0).any() or (end > period).any():
        i = int(np.argwhere((end < start) | (start < 0) | (end > period))[0][0])
        raise ValueError(
            f"availability of device {i}: got {start[i]} to {end[i]}, expected 0 ≤ start ≤ end ≤ period = {period:g} s; "
            "split an interval that runs over the end of a period in two"
        )
    as_array = lambda a: jnp.asarray(a, jnp.float32)
    return Availability(as_array(start), as_array(end), as_array(period))


def daily(n: int, hours: float, seed: int, period: float = 86_400.0) -> Availability:
    """Every device for `hours` of each day, from a uniformly drawn time on.

    Raises:
        ValueError: `hours` is not in (0, 24].
    """
    if not 0 < hours <= 24:
        raise ValueError(f"availability daily: got {hours} hours, expected a number in (0, 24]")
    begin = np.random.default_rng(seed).uniform(0, period, n)
    end = begin + hours / 24 * period
    over = np.maximum(end - period, 0)
    return intervals(np.stack([begin, np.zeros(n)], 1), np.stack([np.minimum(end, period), over], 1), period)


def read_intervals(path: str | Path, n: int, period: float = float("inf")) -> Availability:
    """A trace: a CSV file with the columns device, start, end (seconds), any number of rows per device; repeated every `period`
    seconds, else nobody can be reached after its end.

    Raises:
        ValueError: a column is missing, a device outside 0 … n − 1, one without any interval, or intervals that overlap.
    """
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        if not {"device", "start", "end"} <= set(reader.fieldnames or ()):
            raise ValueError(f"{path}: got columns {reader.fieldnames}, expected device, start and end")
        rows: list[list[tuple[float, float]]] = [[] for _ in range(n)]
        for number, row in enumerate(reader, start=2):
            try:
                device, start, end = int(row["device"]), float(row["start"]), float(row["end"])
            except (TypeError, ValueError):
                raise ValueError(f"{path}, line {number}: got {dict(row)}, expected a whole number and two numbers") from None
            if not 0 <= device < n:
                raise ValueError(f"{path}, line {number}: got device {device}, expected 0 to {n - 1}")
            rows[device].append((start, end))
    for device, found in enumerate(rows):
        found.sort()
        if not found:
            raise ValueError(f"{path}: device {device} has no interval, expected at least one for each of {n} devices")
        for (_, end), (start, _) in itertools.pairwise(found):
            if start < end:
                raise ValueError(f"{path}: device {device} has overlapping intervals at {start:g} s; merge them")
    most = max(map(len, rows))
    padded = np.array([found + [(0.0, 0.0)] * (most - len(found)) for found in rows])
    return intervals(padded[..., 0], padded[..., 1], period)
