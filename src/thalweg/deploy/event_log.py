"""What a site without rounds has seen, in order: its own wakes, and whose messages it heard. For replays (`tw.Events.merged`).

Axes: `e` events.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Int

from thalweg.engine.events import WAKE

_ROW = np.dtype(("<i4", 2))


class EventLog:
    """Rows (sender, or −1 for a wake; number), in memory, and in a file where there is a folder.

    The file is written before a site's journal is: what it has beyond the journal's wake never happened, as far as anybody knows.
    """

    def __init__(self, folder: Path | None):
        self._path = None if folder is None else folder / "events"
        self._rows: list[tuple[int, int]] = []
        self._written = 0
        self._whole = True

    def wake(self, number: int) -> None:
        """The site wakes; everything so far goes to the file. One that is full costs the log."""
        self._rows.append((WAKE, number))
        if self._path is None or not self._whole:
            return
        try:
            with self._path.open("ab", buffering=0) as file:
                data = np.asarray(self._rows[self._written :], "<i4").tobytes()
                self._whole = file.write(data) == len(data)
        except OSError:
            self._whole = False
        self._written = len(self._rows)

    def hear(self, sender: int, number: int) -> None:
        """The site hears message `number` of the site at place `sender`."""
        self._rows.append((sender, number))

    def begin(self) -> None:
        """A site without a journal begins anew."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def restore(self, number: int) -> None:
        """Go on after wake `number`, where the site's journal stands."""
        try:
            data = self._path.read_bytes() if self._path is not None else b""
        except OSError:
            data = b""
        rows = np.frombuffer(data[: len(data) // _ROW.itemsize * _ROW.itemsize], _ROW)
        at = np.flatnonzero((rows[:, 0] == WAKE) & (rows[:, 1] == number))
        self._whole = bool(len(at))
        if self._whole:
            rows = rows[: at[-1] + 1]
            self._path.write_bytes(rows.tobytes())
            self._rows = [tuple(row) for row in rows.tolist()]
            self._written = len(self._rows)

    def tear(self) -> None:
        """Something is missing: there is no whole log any more."""
        self._whole = False

    @property
    def rows(self) -> Int[np.ndarray, "e 2"] | None:
        """All of it; None where some is missing."""
        return np.array(self._rows, np.int32).reshape(-1, 2) if self._whole else None
