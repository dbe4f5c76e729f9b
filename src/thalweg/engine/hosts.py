"""The processes that run one engine together: what they agree on, and how they fail together."""

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# Longest text that one process hands the others, in bytes, and most facts about a run that they compare.
LONGEST, MOST = 4096, 32


@dataclasses.dataclass(frozen=True)
class Hosts:
    """The processes of a run, as one of them sees them.

    All of them call every method below that talks, in the same order; with one process nothing is said.

    Attributes:
        processes: how many there are.
        rank: which of them this is. Process 0 leads: it alone prints, and writes files.
    """

    processes: int = 1
    rank: int = 0

    @property
    def leads(self) -> bool:
        """Whether this process prints and writes files."""
        return self.rank == 0

    def told(self, words: Any) -> np.ndarray:
        """`[processes, k]`: what each of them says, `words [k]` of 32-bit integers here."""
        words = np.asarray(words, np.int32)
        if self.processes == 1:
            return words[None]
        one_each, all_of_it = _line(self.processes)
        mine = jax.make_array_from_process_local_data(one_each, words[None], (self.processes, len(words)))
        with self.in_touch():
            return np.asarray(all_of_it(mine).addressable_data(0))

    @contextlib.contextmanager
    def in_touch(self) -> Iterator[None]:
        """Within, what JAX says of processes that are gone is said in one line.

        Raises:
            RuntimeError: this process computes with others, and its computation failed.
        """
        try:
            yield
        except jax.errors.JaxRuntimeError as error:
            if self.processes == 1:
                raise
            raise RuntimeError(
                f"process {self.rank} of {self.processes} has lost the others ({' '.join(str(error).split())}); look at what they "
                "said, start all of them again, and continue from the checkpoint if there is one"
            ) from error

    def text(self, words: str) -> str:
        """What process 0 says."""
        letters = words.encode()
        if len(letters) > LONGEST:
            raise ValueError(f"got a text of {len(letters)} bytes to hand to other processes, expected at most {LONGEST}")
        heard = self.told(np.frombuffer(letters.ljust(LONGEST, b"\0"), np.uint8))[0]
        return heard.astype(np.uint8).tobytes().rstrip(b"\0").decode()

    def together(self, act: Callable[[], Any]) -> Any:
        """What `act` gives here; if it fails anywhere it fails everywhere, and nobody waits for one who has gone.

        Raises:
            RuntimeError: it failed in other processes alone.
        """
        if self.processes == 1:
            return act()
        try:
            result, failure = act(), None
        except Exception as error:
            result, failure = None, error
        failed = np.flatnonzero(self.told([failure is not None])[:, 0])
        if failure is not None:
            raise failure
        if failed.size:
            raise RuntimeError(
                f"process {', '.join(map(str, failed))} of {self.processes} ended this run; its own error says why"
            )
        return result

    def check_alike(self, stated: dict[str, Any]) -> None:
        """All processes ask for the same run.

        Raises:
            ValueError: another one asks for something else; the message says what differs.
        """
        if self.processes == 1:
            return
        digest = lambda entry: hashlib.sha256(json.dumps(entry, default=str).encode()).digest()[:4]
        words = b"".join(map(digest, stated.items()))
        said = self.told(np.frombuffer(words.ljust(4 * MOST, b"\0"), np.int32))
        different = (said != said[0]).any(0)
        if different.any():
            name = list(stated)[min(int(np.argmax(different)), len(stated) - 1)]
            others = ", ".join(map(str, np.flatnonzero((said != said[0])[:, np.argmax(different)])))
            raise ValueError(
                f"solve: process {others} has another {name} than process 0 (here, in process {self.rank}: {stated[name]!r}); all "
                "processes solve one problem: give them the same program and the same data"
            )


def here() -> Hosts:
    """All processes that JAX knows of."""
    return Hosts(jax.process_count(), jax.process_index())


@functools.cache
def _line(processes: int):
    """(one row on each process, a function that gives all rows to all)."""
    mesh = Mesh(np.asarray([_first_device(rank) for rank in range(processes)]), ("processes",))
    everywhere = NamedSharding(mesh, PartitionSpec())
    return NamedSharding(mesh, PartitionSpec("processes")), jax.jit(lambda words: words, out_shardings=everywhere)


def _first_device(rank: int) -> Any:
    return next(device for device in jax.devices() if device.process_index == rank)
