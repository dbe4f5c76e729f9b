"""When agents wake and how long messages take, where there are no rounds.

Axes: `n` agents, `e` of what happens.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from .availability import Availability
from .fleet import Values


@dataclasses.dataclass(frozen=True, eq=False)
class Clocks:
    """Each agent's own clock, and the time that its messages take. In seconds: a number, the same for all, or one for each `[n]`.

    Args:
        period: between two wakes of an agent, on average.
        poisson: wakes are a Poisson process of rate 1/period, independent between agents; False: one wake in every period.
        first: of regular clocks, when an agent first wakes; None: drawn uniformly from its first period.
        latency: that a message of this agent is under way at least.
        jitter: mean of the exponential time that comes on top.
        availability: when agents are awake (`tw.fleet.intervals`, `daily`, `read_intervals`); at all times when None. Who sleeps
            skips its wakes, and hears what came meanwhile at the end of its sleep.

    Raises:
        ValueError, TypeError: not such numbers.
    """

    period: Values = 1.0
    poisson: bool = True
    first: Values | None = None
    latency: Values = 0.0
    jitter: Values = 0.0
    availability: Availability | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.poisson, bool | np.bool_):
            raise TypeError(f"Clocks(poisson={self.poisson!r}): expected True or False")
        if self.first is not None and self.poisson:
            raise ValueError("Clocks(first=…): got poisson=True, whose first wakes are drawn; expected poisson=False beside it")
        if self.availability is not None and not isinstance(self.availability, Availability):
            raise TypeError(
                f"Clocks(availability=…): got {type(self.availability).__name__}, expected what tw.fleet.intervals returns"
            )
        for name, least in (("period", "> 0"), ("first", "≥ 0"), ("latency", "≥ 0"), ("jitter", "≥ 0")):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, _seconds(name, value, least))

    def of(self, name: str, n: int) -> Float[np.ndarray, " n"]:
        """The field `name` for each of n agents.

        Raises:
            ValueError: it is of another number of agents.
        """
        value = getattr(self, name)
        if value.shape not in ((), (n,)):
            raise ValueError(f"Clocks({name}=…): got shape {value.shape}, expected a number, or one for each of {n} agents")
        return np.broadcast_to(value, (n,))

    def check(self, n: int) -> None:
        """They are those of n agents.

        Raises:
            ValueError: they are not.
        """
        for name in ("period", "latency", "jitter") + (("first",) if self.first is not None else ()):
            self.of(name, n)
        if self.availability is not None and len(self.availability.start) != n:
            raise ValueError(f"Clocks(availability=…): got {len(self.availability.start)} agents, expected {n}")

    def next_awake(self, agents: Int[np.ndarray, " e"], times: Float[np.ndarray, " e"]) -> Float[np.ndarray, " e"]:
        """When, from `times` on, each of `agents` is awake: at once where it does not sleep, infinity where it sleeps for ever."""
        if self.availability is None:
            return times
        start, end, period = (
            np.asarray(a, float) for a in (self.availability.start, self.availability.end, self.availability.period)
        )
        now = np.mod(times, period) if np.isfinite(period) else times
        begin, over = start[agents], end[agents]
        wait = np.maximum(begin - now[:, None], 0)
        wait = np.where((over > begin) & (now[:, None] < over), wait, np.inf)
        if np.isfinite(period):  # the next day
            wait = np.minimum(wait, np.where(over > begin, begin + period - now[:, None], np.inf))
        return times + wait.min(axis=1)

    def awake(self, agents: Int[np.ndarray, " e"], times: Float[np.ndarray, " e"]) -> Bool[np.ndarray, " e"]:
        """Whether each of `agents` is awake at `times`."""
        return self.next_awake(agents, times) == times

    def __repr__(self) -> str:
        parts = [
            f"{name}={_shown(getattr(self, name))}" for name in ("period", "latency", "jitter") if np.any(getattr(self, name))
        ]
        parts += [] if self.poisson else ["poisson=False"]
        parts += [f"first={_shown(self.first)}"] if self.first is not None else []
        return f"Clocks({', '.join(parts)}{', availability=…' if self.availability is not None else ''})"


def _seconds(name: str, value: Any, least: str) -> np.ndarray:
    try:
        array = np.asarray(value, float)
    except (TypeError, ValueError):
        raise TypeError(f"Clocks({name}={value!r}): expected seconds, a number or one for each agent") from None
    good = np.isfinite(array) & (array > 0 if least == "> 0" else array >= 0)
    if array.ndim > 1 or not array.size or not good.all():
        raise ValueError(f"Clocks({name}={value!r}): expected seconds {least}, a number or one for each agent")
    return array


def _shown(value: np.ndarray) -> str:
    return f"{value:g}" if not value.ndim else f"{value.min():g}…{value.max():g}"
