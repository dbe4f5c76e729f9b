"""Hands the records of a run to trackers: each once, in order, also when the run was resumed."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from thalweg.observe import History, Result
from thalweg.observe.trackers import Tracker


def checked_trackers(trackers: Any) -> tuple[Tracker, ...]:
    """The trackers, if that is what they are.

    Raises:
        TypeError: something lacks `start`, `log` or `finish`.
    """
    if not isinstance(trackers, list | tuple):
        raise TypeError(
            f"solve: got {type(trackers).__name__} as trackers, expected a list, such as [tw.trackers.JsonLines(path)]"
        )
    for tracker in trackers:
        if isinstance(tracker, type) or not isinstance(tracker, Tracker):
            raise TypeError(
                f"solve: got {tracker!r} among the trackers, expected an object with start, log and finish, such as "
                "tw.trackers.JsonLines(path)"
            )
    return tuple(trackers)


class Tracking:
    """A context around the rounds of a run.

    Args:
        trackers: who is told.
        config: what `start` is given.
        history: records of earlier parts of the run, logged by an earlier process.
        every: rounds between regular records. A last record that is no regular one gives way to those that follow, and is
            logged again if none does.
    """

    def __init__(self, trackers: Sequence[Tracker], config: dict[str, Any], history: History, every: int):
        self._trackers = list(checked_trackers(trackers))
        self._config = config
        regular = [int(k) for k in history["round"] if k % every == 0]
        self._logged = regular[-1] if regular else 0

    def __enter__(self) -> "Tracking":
        for tracker in self._trackers:
            tracker.start({**self._config, "resumed_at": self._logged})
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is not None:
            self.finish(None)

    def beside(self, show: Callable[[int, History], None]) -> Callable[[int, History], None]:
        """`show`, and tell the trackers."""
        if not self._trackers:
            return show

        def both(k: int, history: History) -> None:
            show(k, history)
            self.update(history)

        return both

    def update(self, history: History) -> None:
        """Log the records that were not logged yet."""
        if not self._trackers:
            return
        rounds = history["round"]
        for row in range(len(rounds)):
            if (k := int(rounds[row])) > self._logged:
                scalars = {name: float(column[row]) for name, column in history.scalars.items() if name != "round"}
                self._each("log", k, scalars)
                self._logged = k

    def finish(self, result: Result | None) -> Result | None:
        """Tell the trackers how it ended; returns `result`."""
        self._each("finish", result)
        return result

    def _each(self, method: str, *arguments: Any) -> None:
        """A tracker that fails does not end the run: it is left out from then on."""
        for tracker in list(self._trackers):
            try:
                getattr(tracker, method)(*arguments)
            except Exception as error:
                self._trackers.remove(tracker)
                warnings.warn(
                    f"{type(tracker).__name__} failed in {method} and is left out from here on ({type(error).__name__}: {error})",
                    RuntimeWarning,
                    stacklevel=2,
                )
