"""All sites of an experiment as processes of this machine, to try it: throw-away keys, free ports of the loopback interface."""

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from thalweg.experiment import Experiment
from thalweg.experiment.folder import SOURCE

from . import keys
from .beat import Status
from .folder import ANSWER, SiteFolder

KEYS, ERRORS = "keys", "errors.txt"
# Until a site that was told to end is killed.
PATIENCE = 15.0
# Exit codes of a site: it ended well; it was stopped, or too few were there, and it can go on.
_FINE, _LATER = 0, (1, 130)


class Broken(ValueError):
    """A site refused to run, or failed."""


@dataclasses.dataclass
class Local:
    """The processes of one run.

    Attributes:
        experiment: what they run; file: where it is; path: the folder of the run, with one for each site.
        processes: site → process.
    """

    experiment: Experiment
    file: Path
    path: Path
    processes: dict[str, subprocess.Popen] = dataclasses.field(default_factory=dict)

    @property
    def folders(self) -> dict[str, SiteFolder]:
        """Site → folder."""
        return {name: SiteFolder(self.path / name) for name in self.experiment.everybody}

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Within, all sites are there; whatever happens, none is left afterwards."""
        sites = self.experiment.everybody
        for folder in self.folders.values():
            folder.check()
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / SOURCE).write_text(self.experiment.source, encoding="utf-8")
        if not (self.path / KEYS / "ca.pem").exists():
            keys.init(self.path / KEYS, sites)
        ends = [f"tls/127.0.0.1:{port}" for port in _free_ports(len(sites))]
        try:
            for place, name in enumerate(sites):
                self.processes[name] = self._start(name, ends[place], ends[:place] + ends[place + 1 :])
            yield
        finally:
            self._end()

    def statuses(self) -> list[Status]:
        """Of the sites that have begun, in order.

        Raises:
            Broken: a site has failed; its own words.
        """
        for name, process in self.processes.items():
            code, folder = process.poll() or _FINE, self.path / name
            later = code in _LATER and (folder / ANSWER).exists()
            # One that is killed on the way is missed by the others, which go on; before that they would wait for it.
            lost = code < _FINE and SiteFolder(folder).epoch < 0
            if lost or (code > _FINE and not later):
                raise Broken(f"site {name!r}: {self._words(name)}")
        return [folder.status() for folder in self.folders.values() if folder.begun]

    @property
    def ended(self) -> bool:
        """Whether no process is left."""
        return all(process.poll() is not None for process in self.processes.values())

    def _start(self, name: str, listen: str, connect: list[str]) -> subprocess.Popen:
        role = ["serve", str(self.file)] if name == self.experiment.server else ["join", str(self.file), "--site", name]
        words = [*role, "--keys", str(self.path / KEYS), "--folder", str(self.path / name)]
        words += ["--listen", listen, *(word for end in connect for word in ("--connect", end)), "--tied"]
        # Several processes share one accelerator, if there is one.
        environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | os.environ
        folder = self.path / name
        folder.mkdir(exist_ok=True)
        with (folder / ERRORS).open("w") as errors:
            # A session of its own: Ctrl-C is heard here, and passed on.
            return subprocess.Popen(
                [sys.executable, "-m", "thalweg.cli", *words],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors, env=environment, start_new_session=True,
            )  # fmt: skip

    def _end(self) -> None:
        left = [process for process in self.processes.values() if process.poll() is None]
        for process in left:
            process.send_signal(signal.SIGINT)
        end = time.monotonic() + PATIENCE
        for process in left:
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for process in self.processes.values():
            process.stdin.close()

    def _words(self, name: str) -> str:
        """What a site said at last."""
        code = self.processes[name].returncode
        if code < _FINE:
            return f"it was killed (signal {-code}) before the first round"
        lines = (self.path / name / ERRORS).read_text(errors="replace").strip().splitlines()
        return lines[-1].removeprefix("error: ") if lines else f"it ended with exit code {code}"


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens at now."""
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in found]
