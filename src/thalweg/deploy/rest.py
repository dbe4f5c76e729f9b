"""Whether an answer has come to rest: a server's, or that of a site without rounds, its own part in a rule that nobody leads."""

import numpy as np

from thalweg.engine import Stop


class Rest:
    """An answer x is calm after `stop.patience` looks in a row at which it had moved by no more than `stop.progress`·(1 + ‖x‖) for
    each round, or wake, since the look before; one at which it moved farther ends that. A server looks at records, a site without
    rounds when it wakes and has heard, since it last looked, every neighbour that is there.

    Attributes:
        calm: as said; never, where there is no rule.
    """

    def __init__(self, stop: Stop | None):
        self._stop = stop
        self._heard: set[str] = set()
        self._anchor: tuple[np.ndarray, int] | None = None
        self._looks = 0

    @property
    def calm(self) -> bool:
        return self._stop is not None and self._looks >= self._stop.patience

    def hear(self, site: str) -> None:
        """A message of a neighbour has come."""
        self._heard.add(site)

    def due(self, neighbours: frozenset[str]) -> bool:
        """Whether it is time to look; `neighbours` are those that are there."""
        return self._stop is not None and neighbours <= self._heard

    def look(self, x: np.ndarray, count: int) -> None:
        """The answer after so many rounds or wakes."""
        self._heard.clear()
        if self._stop is None:
            return
        if self._anchor is not None:
            before, then = self._anchor
            allowed = self._stop.progress * (1 + np.linalg.norm(x)) * (count - then)
            self._looks = self._looks + 1 if np.linalg.norm(x - before) <= allowed else 0
        self._anchor = x, count
