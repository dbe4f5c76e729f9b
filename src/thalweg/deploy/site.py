"""What every site of a deployed run has: a life from start to answer, how it bears failures, what it sent, what it ends with."""

import abc
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from thalweg.observe import Outcome

from .history_log import HistoryLog
from .journal import Journal
from .post import Post
from .purse import Purse, Spent

Watch = Callable[[int, dict[str, list[float]]], None]


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a site deals with others that fail.

    Attributes:
        timeout: seconds without a message after which it is asked for again; the post calls a silent site gone after as many.
        wait: seconds to wait for sites that are missing, before the run begins or when too few are left; of sites without rounds
            also for each that went away.
        quorum: sites without whom no epoch begins; None: more than half.
        folder: of the site's log, from which it goes on after it was killed; None: no log.
        fsync: wait for the disk in every round (see `Journal`).
    """

    timeout: float = 5.0
    wait: float = 600.0
    quorum: int | None = None
    folder: Path | None = None
    fsync: bool = False

    def __post_init__(self):
        for name in ("timeout", "wait"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected a positive number of seconds")
        if self.quorum is not None and self.quorum < 1:
            raise ValueError(f"quorum: got {self.quorum}, expected at least 1 site")


@dataclasses.dataclass
class Ledger:
    """What a site put on the wire, and what became of it. Bytes are of payloads, `received` those of a server's clients; headers
    are counted apart, and so is what the server of secure sums tells its clients beside the algorithm's messages, `relayed`.
    `spent`: rounds that count against a budget of privacy."""

    payload: int = 0
    received: int = 0
    headers: int = 0
    messages: int = 0
    again: int = 0
    epochs: int = 0
    relayed: int = 0
    spent: int = 0


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a site has at the end of a run.

    Attributes:
        site: its name; x: its answer, None where no round began and no log is there.
        outcome, reason: why it ended; rounds: how many were done.
        history: column → values at recorded rounds ("round", "seconds", "loss", "bytes").
        ledger: what was sent. rejected: reason → letters thrown away. warnings: as `solve` gives them.
        algorithm: with every hyper-parameter filled in; None where no round began.
        events: of a site without rounds that recorded them: rows (sender's place, or −1 for a wake; number) `[e, 2]`; else None.
    """

    site: str
    x: Any
    outcome: Outcome
    reason: str
    rounds: int
    history: dict[str, list[float]]
    ledger: Ledger
    rejected: dict[str, int]
    warnings: tuple[str, ...] = ()
    algorithm: Any = None
    events: Any = None


class Site(abc.ABC):
    """One process of a run.

    Args:
        post: its end of the network. settings: None: the usual ones.
        rounds: of the run. every: record every so many of them; None: two hundred times.
        watch: told of (round, history) at every record. allowance: of a `Purse`.

    Attributes:
        history, ledger: as in `Answer`, so far.
    """

    # Columns of the history before anything is recorded.
    recorded: tuple[str, ...] = ("round", "seconds", "loss", "bytes")

    def __init__(
        self,
        post: Post,
        settings: Settings | None,
        rounds: int,
        every: int | None,
        watch: Watch | None,
        allowance: int | None = None,
    ):
        if every is not None and every < 1:
            raise ValueError(f"every: got {every}, expected at least 1 round")
        self.post, self.settings, self.watch = post, settings or Settings(), watch
        self.every = max(1, rounds // 200) if every is None else every
        self.ledger, self.history = Ledger(), {name: [] for name in self.recorded}
        folder = self.settings.folder
        self._journal = None if folder is None else Journal(folder, self.settings.fsync)
        self._rows = None if folder is None else HistoryLog(folder)
        self._purse = Purse(allowance, folder, self.settings.fsync)
        self._began = time.monotonic()

    def run(self) -> Answer:
        """Take part to the end.

        Raises:
            ValueError: sites do not fit together.
        """
        self._began = time.monotonic()
        try:
            return self._lived()
        except Spent as spent:
            return self.ended(Outcome.PRIVACY, str(spent))
        finally:
            self.post.close()  # the others are not to wait for a site that failed

    @property
    @abc.abstractmethod
    def standing(self) -> tuple[int, frozenset[str]]:
        """(number of the epoch, −1 before the first; who, as far as this site knows, takes part in it)."""

    @abc.abstractmethod
    def ended(self, outcome: Outcome, reason: str) -> Answer:
        """What there is after the run was left in the middle."""

    @abc.abstractmethod
    def _lived(self) -> Answer:
        """The whole life."""

    @property
    def _age(self) -> float:
        """Seconds that it has lived, with what its log knows of."""
        return time.monotonic() - self._began

    def _logged_notes(self) -> dict[str, Any] | None:
        """What stands beside the state in this site's log; None where there is no log."""
        return None if self._journal is None else self._journal.notes()

    def _recall(self, k: int) -> None:
        """The history up to round k, from the log; time goes on from its last row."""
        for row in [] if self._rows is None else self._rows.restore(k):
            self._append(row)
        self._began -= self.history["seconds"][-1] if self.history.get("seconds") else 0.0

    def _append(self, row: dict[str, Any]) -> None:
        for name, value in row.items():
            self.history.setdefault(name, []).append(value)

    def _record(self, k: int, values: dict[str, float]) -> None:
        """A row of the history, after round k."""
        row = {"round": k, "seconds": self._age} | values
        self._append(row)
        if self._rows is not None:
            self._rows.add(row)
        if self.watch is not None:
            self.watch(k, self.history)

    def _answered(self, x: Any, outcome: Outcome, reason: str, rounds: int, **more: Any) -> Answer:
        self.ledger.spent = self._purse.spent
        rejected = {why: int(count) for why, count in list(self.post.rejected.items()) if count}
        return Answer(self.post.me, x, outcome, reason, rounds, self.history, self.ledger, rejected, **more)
