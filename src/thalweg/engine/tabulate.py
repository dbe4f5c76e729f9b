"""From the device's records to the columns of a history."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from .loop import Records

Columns = dict[str, np.ndarray]


class Tabulator:
    """Turns buffers of records into columns.

    Args:
        messages: their counter.
        columns: `columns(rows, messages) -> (scalars [count], per agent [count, n])`, `messages` as `Messages.count` gives them.
    """

    def __init__(self, messages: "Messages", columns: Callable):
        self.messages, self._columns = messages, columns

    def resume(self, counters: Any, local: Any) -> None:
        """Go on counting from `counters` (None: from nothing), at the device's 32-bit counters."""
        self.messages.resume(counters, local)

    @property
    def counters(self) -> Any:
        """What `resume` wants."""
        return self.messages.counters

    def __call__(self, records: Records, count: int) -> tuple[Columns, Columns]:
        """Of the first `count` records."""
        rows = jax.tree.map(lambda leaf: host(leaf)[:count], records.rows)
        return self._columns(rows, self.messages.count(rows))


@dataclasses.dataclass(frozen=True)
class PeerColumns:
    """The columns of peers who look for one answer.

    Attributes:
        scale: `[n]` n·w_i, by which the engine's φ_i exceed the f_i that people want to see.
        message_bytes: payload of one message.
        optimum: objective of the reference, `[K + 1]` where it moves, or None.
        has_target: whether "error" was measured against a reference.
        keep_agents: keep a row per agent.
    """

    scale: np.ndarray
    message_bytes: int
    optimum: Any
    has_target: bool
    keep_agents: bool

    def __call__(self, rows: Any, messages: dict[str, np.ndarray]) -> tuple[Columns, Columns]:
        """See `Tabulator`."""
        snapshot, sent = rows.snapshot, messages["sent"]
        scalars = {
            "round": rows.round.astype(np.int64),
            "objective": snapshot.objective,
            "consensus_error": snapshot.consensus_error,
            "optimality": snapshot.optimality,
            "movement": snapshot.movement,
            "messages": sent.sum(1),
            "bytes": sent.sum(1) * self.message_bytes,
        }
        if self.optimum is not None:
            scalars["gap"] = snapshot.objective - of_round(self.optimum, scalars["round"])
        if self.has_target:
            scalars["error"] = snapshot.error
        agents = {name: np.asarray(column) for name, column in rows.report.items()}
        if self.keep_agents:
            scale = np.where(self.scale > 0, self.scale, np.nan)
            agents |= {
                "loss": snapshot.loss / scale,
                "disagreement": snapshot.disagreement,
                "bytes": sent * self.message_bytes,
            }
        return scalars, agents


def of_round(optimum: Any, rounds: np.ndarray) -> Any:
    """What belongs to these rounds, of one value for all or `[K + 1, ...]`."""
    return optimum[rounds] if np.ndim(optimum) else optimum


def host(leaf) -> np.ndarray:
    """On the host; floats that NumPy does not know by itself (bfloat16) as float32, for files and data frames."""
    array = np.asarray(leaf)
    return array.astype(np.float32) if array.dtype.kind == "V" else array


class Messages:
    """Messages of every agent, counted from the device's counters `names` ("sent", "received").

    The device counts modulo 2³²; differences between records are right whatever the total. Without `keep_agents` all agents are
    counted together.
    """

    def __init__(self, *names: str, keep_agents: bool = True):
        self.names, self.keep_agents = names, keep_agents
        self._counts: dict[str, np.ndarray] = {}
        self._device: dict[str, np.ndarray] = {}

    def resume(self, counters: Any, local: Any) -> None:
        """Go on counting from `counters` (None: from nothing), at the device's 32-bit counters."""
        pick = lambda name: np.asarray(getattr(local, name), np.uint32)
        summed = lambda column: column if self.keep_agents else column.sum(keepdims=True, dtype=np.uint32)
        self._device = {name: summed(pick(name)) for name in self.names}
        given = counters or {name: np.zeros(len(column), np.int64) for name, column in self._device.items()}
        self._counts = {name: np.asarray(given[name], np.int64) for name in self._device}

    @property
    def counters(self) -> dict[str, list[int]]:
        """What `resume` wants."""
        return {name: column.tolist() for name, column in self._counts.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        """So far, int64 `[n]`, or `[1]` for all agents together."""
        return self._counts[name]

    def count(self, rows: Any) -> dict[str, np.ndarray]:
        """name → messages up to each of these records, `[count, n]`."""
        totals = {}
        for name in self.names:
            column = getattr(rows, name)
            steps = np.diff(np.concatenate([self._device[name][None], column]), axis=0).astype(np.int64)
            totals[name] = self._counts[name] + np.cumsum(steps, axis=0)
            if len(column):
                self._counts[name], self._device[name] = totals[name][-1], column[-1]
        return totals
