"""Who gets which example: what every strategy of `partition` keeps, and those that do not look at classes.

Axes: `m` examples, `n` clients.
"""

import abc
import dataclasses
from typing import Any

import numpy as np


def whole(name: str, value: Any, meaning: str) -> int:
    """`value` as an integer.

    Raises:
        ValueError: not an integer ≥ 1.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name}: got {value!r}, expected an integer ≥ 1, {meaning}")
    return int(value)


class Strategy(abc.ABC):
    """A rule that gives each of m examples to exactly one of n clients; called, it returns their indices.

        parts = dirichlet(0.3)(labels, clients=100, seed=0)       # 100 ascending index arrays

    The same labels, clients and seed give the same parts. To write your own, define `_split`, or pass `partition` any function
    of (labels, clients, seed).
    """

    def __call__(self, labels: Any, clients: Any = None, seed: Any = 0) -> list[np.ndarray]:
        """The indices of every client's examples, int64 `[m_i]`, ascending, m_i ≥ 1.

        Args:
            labels: `[m]` classes, for strategies that look at them; else anything of length m.
            clients: n, with 1 ≤ n ≤ m.
            seed: of all that is drawn.

        Raises:
            ValueError: no such number of clients, or labels, or a client that would get no example.
        """
        labels = np.asarray(labels)
        if labels.ndim == 0 or len(labels) == 0:
            raise ValueError(f"labels: got shape {labels.shape}, expected [m] with m ≥ 1, one for each example")
        clients = whole("clients", self._clients(clients, len(labels)), "the number of clients")
        if clients > len(labels):
            raise ValueError(
                f"clients: got {clients} for {len(labels)} examples, expected at most {len(labels)}, so that every client has one"
            )
        parts = self._split(labels, clients, np.random.default_rng(seed))
        return [np.sort(np.asarray(part, dtype=np.int64)) for part in parts]

    def names(self, clients: int) -> tuple[str, ...]:
        """What the clients are called."""
        return tuple(f"client {i}" for i in range(clients))

    def _clients(self, clients: Any, examples: int) -> Any:
        return clients

    @abc.abstractmethod
    def _split(self, labels: np.ndarray, clients: int, generator: np.random.Generator) -> list[np.ndarray]:
        """The parts, in any order of indices; labels and clients are checked."""


@dataclasses.dataclass(frozen=True)
class IID(Strategy):
    """See `iid`."""

    def _split(self, labels, clients, generator):
        return np.array_split(generator.permutation(len(labels)), clients)


@dataclasses.dataclass(frozen=True, eq=False)
class Natural(Strategy):
    """See `natural`."""

    ids: np.ndarray

    def names(self, clients):
        return tuple(str(name) for name in np.unique(self.ids))

    def _clients(self, clients, examples):
        if len(self.ids) != examples:
            raise ValueError(f"natural ids: got {len(self.ids)} for {examples} examples, expected one for each example")
        found = len(np.unique(self.ids))
        if clients is not None and clients != found:
            raise ValueError(f"clients: got {clients} with {found} different ids, expected {found}; leave `clients` out")
        return found

    def _split(self, labels, clients, generator):
        _, owner = np.unique(self.ids, return_inverse=True)
        return np.split(np.argsort(owner, kind="stable"), np.cumsum(np.bincount(owner))[:-1])


def iid() -> Strategy:
    """Examples dealt at random, in parts of equal size (give or take one)."""
    return IID()


def natural(ids: Any) -> Strategy:
    """Every example to its natural owner: the writer, the patient's hospital, the telephone.

    The clients are the different ids, in sorted order, and are named after them; their number need not be given.

    Args:
        ids: `[m]` integers or strings.

    Raises:
        ValueError: not one axis, or NaN among the ids; when called, not one id for each example.
    """
    ids = np.asarray(ids)
    if ids.ndim != 1 or len(ids) == 0:
        raise ValueError(f"natural ids: got shape {ids.shape}, expected [m], one id for each example")
    if ids.dtype.kind == "f" and np.isnan(ids).any():
        raise ValueError(
            f"natural ids: got NaN for {np.isnan(ids).sum()} examples, expected an owner for each; drop the others"
        )
    return Natural(ids)
