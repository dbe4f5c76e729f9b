"""What every site of a deployed run has: how it bears failures, what it sent, and what it ends with."""

import dataclasses
from pathlib import Path
from typing import Any

from thalweg.observe import Outcome


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a site deals with others that fail.

    Attributes:
        timeout: seconds without a message after which it is asked for again; the post calls a silent site gone after as many.
        wait: seconds to wait for sites that are missing, before the run begins or when too few are left.
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
    are counted apart, and so is what the server of secure sums tells its clients beside the algorithm's messages, `relayed`."""

    payload: int = 0
    received: int = 0
    headers: int = 0
    messages: int = 0
    again: int = 0
    epochs: int = 0
    relayed: int = 0


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
