"""What happened at a site, one JSON object a line: time, level, site, event, and the event's own fields."""

import contextlib
import datetime
import json
import logging
from collections.abc import Iterator
from pathlib import Path


class _Lines(logging.Formatter):
    """A record as JSON; `extra={"fields": {…}}` brings fields."""

    def __init__(self, site: str):
        super().__init__()
        self._site = site

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds")
        line = {"time": moment, "level": record.levelname.lower(), "site": self._site, "event": record.getMessage()}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class _File(logging.FileHandler):
    """A full disk, or a file that cannot be written, costs lines of the log, and not the run."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


@contextlib.contextmanager
def logged(path: Path, site: str) -> Iterator[logging.Logger]:
    """The log of a site, added to the file at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    log, handler = logging.Logger(f"thalweg.{site}", logging.INFO), _File(path, encoding="utf-8")
    handler.setFormatter(_Lines(site))
    log.addHandler(handler)
    try:
        yield log
    finally:
        handler.close()
