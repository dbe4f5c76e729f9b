"""The folder of a site: what it runs, how far it is, what it found.

    state.0, state.1   its log, from which it goes on after it was killed (`Journal`)
    status.json        how far it is, written every second while it lives
    log.jsonl          what happened, one JSON object a line
    answer.json        what it ended with; answer.npz has x (no pickles)
    stop               asks the site to end; the site takes it away
    lock               held by the process of the site while it lives

Sites of one run on one machine have folders side by side.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np

from thalweg.experiment.folder import plain_value

try:
    import fcntl
except ImportError:  # where there are no such locks, a site is taken for alive as long as it writes
    fcntl = None

STATUS, LOG, ANSWER, ARRAYS, STOP, LOCK = "status.json", "log.jsonl", "answer.json", "answer.npz", "stop", "lock"


@dataclasses.dataclass(frozen=True)
class SiteFolder:
    """The folder of one site."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @staticmethod
    def below(path: Path) -> "list[SiteFolder]":
        """All folders of sites in `path`, at any depth, `path` itself among them."""
        return [SiteFolder(file.parent) for file in sorted(path.rglob(STATUS))]

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Within, no other process can be this site.

        Raises:
            ValueError: another one is, or the site has ended its run.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / LOCK).open("w") as file:
            if not _locked(file):
                raise ValueError(f"a site runs in {self} already: stop it (`thalweg stop {self}`), or choose another folder")
            self.check()
            (self.path / STOP).unlink(missing_ok=True)
            yield

    def check(self) -> None:
        """Whether a site may begin, or go on, here.

        Raises:
            ValueError: it has ended its run.
        """
        if (self.path / ANSWER).exists() and not self.goes_on:
            raise ValueError(f"{self} holds a run that has ended; choose another folder, or remove this one")

    @property
    def alive(self) -> bool:
        """Whether a process is this site now."""
        if fcntl is None or not (self.path / LOCK).exists():
            return False
        with (self.path / LOCK).open("a") as file:
            return not _locked(file)

    @property
    def goes_on(self) -> bool:
        """Whether there is an answer of a run that can go on: it was stopped by hand, or too few sites were there."""
        return (self.path / ANSWER).exists() and self.answer()["outcome"] in ("INTERRUPTED", "TOO_FEW_AGENTS")

    def write_status(self, status: dict[str, Any]) -> None:
        """Replace the status; a reader never sees half of one. A full disk costs this one only."""
        with contextlib.suppress(OSError):
            _replace(self.path / STATUS, json.dumps(status))

    def status(self) -> dict[str, Any]:
        """The newest status, whose `state` is "died" where the process has gone without a word.

        Raises:
            FileNotFoundError: no site was started here.
        """
        if not self.begun:
            raise FileNotFoundError(f"there is no site in {self} ({STATUS} is missing)")
        status = json.loads((self.path / STATUS).read_text())
        if status["state"] in ("waiting", "running") and fcntl is not None and not self.alive:
            status["state"] = "died"
        return status

    @property
    def begun(self) -> bool:
        """Whether a site was started here, and has met the network."""
        return (self.path / STATUS).exists()

    @property
    def epoch(self) -> int:
        """The number of the site's last epoch, −1 before the first."""
        return self.status()["epoch"] if self.begun else -1

    def ask_to_stop(self) -> None:
        """The site ends within a second or two."""
        (self.path / STOP).touch()

    @property
    def asked_to_stop(self) -> bool:
        """Whether somebody has asked."""
        return (self.path / STOP).exists()

    def write_answer(self, plain: dict[str, Any], x: Any) -> None:
        """What the site ended with; x may be None."""
        leaves = {} if x is None else {_path(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(x)}
        np.savez(self.path / ARRAYS, **leaves)
        _replace(self.path / ANSWER, json.dumps(plain, default=plain_value))

    def answer(self) -> dict[str, Any]:
        """What the site ended with, and under "x" the arrays by their paths.

        Raises:
            FileNotFoundError: it has not ended.
        """
        if not (self.path / ANSWER).exists():
            raise FileNotFoundError(f"there is no answer of a site in {self} ({ANSWER} is missing)")
        with np.load(self.path / ARRAYS, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return json.loads((self.path / ANSWER).read_text()) | {"x": arrays}


def _locked(file: IO) -> bool:
    """Take the lock of an open file until it is closed; False where another process has it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _replace(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text)
    os.replace(part, path)


def _path(steps: Any) -> str:
    """ "x", or "x/slope" of a part."""
    return "/".join(["x", *(str(getattr(step, "key", getattr(step, "name", step))) for step in steps)])
