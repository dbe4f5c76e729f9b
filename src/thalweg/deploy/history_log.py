"""What a site has recorded, in a file beside its log: a restarted site's curves are whole.

It grows by a line for every record; in the log itself, which is written anew in every round, it would cost more and more.
"""

import json
from pathlib import Path
from typing import Any


class HistoryLog:
    """Rows {column: value}, a line of JSON each, in a folder."""

    def __init__(self, folder: Path):
        self._path, self._mode = folder / "history.jsonl", "w"

    def add(self, row: dict[str, Any]) -> None:
        """Another row; the first one of a site that begins anew is the first of the file. A disk that is full costs the row."""
        try:
            with self._path.open(self._mode) as file:
                file.write(json.dumps(row) + "\n")
        except OSError:
            return
        self._mode = "a"

    def restore(self, k: int) -> list[dict[str, Any]]:
        """The rows up to round k, after which the site goes on."""
        try:
            lines = self._path.read_text().splitlines()
        except OSError:
            lines = []
        rows = [row for row in map(_row, lines) if row is not None and row["round"] <= k]
        self._mode = "w"
        for row in rows:
            self.add(row)
        return rows


def _row(line: str) -> dict[str, Any] | None:
    """None where the line was torn."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and "round" in row else None
