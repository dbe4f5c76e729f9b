"""A running site's status, written every second; and how the site is told to end."""

import logging
import os
import platform
import threading
import time
from collections.abc import Callable
from typing import Any

from .folder import SiteFolder
from .site import Site
from .watched import Watched

Status = dict[str, Any]
SECONDS = 1.0
# Between two looks why others are missing.
TROUBLES = 10.0


class Beat:
    """Writes the status of a site into its folder every second, and looks whether it is asked to stop.

    Args:
        about: of the status what does not change: "site", "experiment", "hash", "sites", "rounds".
        site: what runs, such as a `Peer`.
        show: is given every status.
    """

    def __init__(
        self,
        folder: SiteFolder,
        post: Watched,
        site: Site,
        about: Status,
        show: Callable[[Status], None] | None,
        log: logging.Logger,
    ):
        self._log = log
        self._folder, self._post, self._site, self._about, self._show = folder, post, site, about, show
        self._began, self._over = time.time(), threading.Event()
        self._troubles: list[str] = []
        self._looked = time.monotonic()
        self._thread = threading.Thread(target=self._beat, name="thalweg status", daemon=True)

    def __enter__(self) -> "Beat":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def status(self) -> Status:
        """How far the site is, as it stands in status.json."""
        post, site = self._post, self._site
        k, (epoch, members) = max(0, post.round), site.standing
        others = {name: k for name, (their, k) in list(post.others.items()) if their == post.epoch}
        losses = site.history.get("loss")
        return self._about | {
            "pid": os.getpid(),
            "host": platform.node(),
            "state": "waiting" if epoch < 0 else "running",
            "started": self._began,
            "updated": time.time(),
            "round": k,
            "epoch": epoch,
            "members": sorted(members),
            "here": sorted(post.here | {post.me}),
            "others": others,
            "lag": max([0, *(theirs - k for theirs in others.values())]),
            "timed": post.timed,
            "seconds": post.seconds,
            "loss": losses[-1] if losses else None,
            "sent": {kind.name.lower(): size for kind, size in list(post.sent.items())},
            "received": {kind.name.lower(): size for kind, size in list(post.received.items())},
            "overhead": post.overhead,
            "again": site.ledger.again,
            "troubles": self._troubles,
            "rejected": {str(why): count for why, count in list(post.rejected.items())},
        }

    def end(self, state: str, **more: Any) -> None:
        """The last status: "finished", "stopped" or "failed"."""
        self._over.set()
        self._thread.join()
        self._folder.write_status(self.status() | {"state": state} | more)

    def _beat(self) -> None:
        while True:
            status = self.status()
            self._folder.write_status(status)
            if self._show is not None:
                self._show(status)
            if self._folder.asked_to_stop:
                self._post.stop("`thalweg stop` asked for it")
            if status["state"] == "waiting" and time.monotonic() > self._looked + TROUBLES:
                self._looked = time.monotonic()
                threading.Thread(target=self._look, name="thalweg troubles", daemon=True).start()
            elif status["state"] == "running":
                self._troubles = []
            if self._over.wait(SECONDS):
                return

    def _look(self) -> None:
        """Find out why others are missing; tries connections, each for seconds."""
        found = self._post.troubles()
        if found != self._troubles:
            for trouble in found:
                self._log.warning("trouble", extra={"fields": {"reason": trouble}})
        self._troubles = found
