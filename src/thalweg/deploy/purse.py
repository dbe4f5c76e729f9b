"""What a site may give of its privacy: it counts by itself, and takes part no more before that is too much."""

import os
from pathlib import Path


class Spent(Exception):
    """A site may give no more, or cannot write down that it has."""


class Purse:
    """Rounds in which a site takes part with noise, `allowance` at most; None: any number, and none is counted.

    Nobody else's count is believed: a round that is done again, since somebody failed or says so, costs once more.

    Args:
        folder: of the file that a restart goes on from, one byte for every round; None: no file. fsync: as for `Journal`.

    Attributes:
        spent: how many there were.
    """

    def __init__(self, allowance: int | None, folder: Path | None, fsync: bool):
        self._allowance, self._fsync = allowance, fsync
        self._path = None if folder is None or allowance is None else folder / "spent"
        self.spent = self._path.stat().st_size if self._path is not None and self._path.exists() else 0

    def check(self) -> None:
        """Whether there may be one more round.

        Raises:
            Spent: there may not.
        """
        if self._allowance is not None and self.spent >= self._allowance:
            raise Spent(f"its budget of privacy allows {self._allowance} rounds, and it has taken part in as many")

    def pay(self) -> None:
        """Count a round, before anything of it is sent.

        Raises:
            Spent: it may not be.
        """
        self.check()
        if self._allowance is None:
            return
        if self._path is not None:
            try:
                with self._path.open("ab", buffering=0) as file:
                    file.write(b".")
                    if self._fsync:
                        os.fsync(file.fileno())
            except OSError as error:
                raise Spent(f"it cannot write down what it spends of its budget of privacy: {error}") from None
        self.spent += 1
