"""A post between threads of one process: no network, no seals. For tests, and for a look at an algorithm's own speed."""

import queue
import threading
from collections import Counter
from typing import Final

from .post import Letter, Post

# In a mailbox: somebody came or left.
_CHANGE: Final = object()


class Exchange:
    """Where the posts of all sites of one process meet."""

    def __init__(self) -> None:
        self._posts: dict[str, MemoryPost] = {}
        self._lock = threading.Lock()

    def join(self, name: str) -> "MemoryPost":
        """The post of a new site.

        Raises:
            ValueError: the name is taken.
        """
        with self._lock:
            if name in self._posts:
                raise ValueError(f"two sites are called {name!r}, expected names that differ")
            post = self._posts[name] = MemoryPost(self, name)
            self._tell()
        return post

    def leave(self, name: str) -> None:
        """The site is gone."""
        with self._lock:
            if self._posts.pop(name, None) is not None:
                self._tell()

    def deliver(self, to: str, letter: Letter) -> None:
        """Into the mailbox of `to`, if it is there."""
        if (post := self._posts.get(to)) is not None:
            post.mailbox.put(letter)

    def names(self) -> frozenset[str]:
        """Who is there."""
        return frozenset(self._posts)

    def _tell(self) -> None:
        for post in self._posts.values():
            post.mailbox.put(_CHANGE)


class MemoryPost(Post):
    """One site's end. Made by `Exchange.join`."""

    def __init__(self, exchange: Exchange, name: str) -> None:
        self.me, self.rejected, self.sent, self.received, self.overhead = name, Counter(), Counter(), Counter(), 0
        self.mailbox: queue.SimpleQueue = queue.SimpleQueue()
        self._exchange = exchange

    def send(self, to: str, letter: Letter) -> None:
        self.sent[letter.kind] += len(letter.body)
        self._exchange.deliver(to, letter._replace(sender=self.me))

    def receive(self, timeout: float | None) -> Letter | None:
        try:
            found = self.mailbox.get(timeout=timeout)
        except queue.Empty:
            return None
        if found is _CHANGE:
            return None
        self.received[found.kind] += len(found.body)
        return found

    def present(self) -> frozenset[str]:
        return self._exchange.names() - {self.me}

    def close(self) -> None:
        self._exchange.leave(self.me)
