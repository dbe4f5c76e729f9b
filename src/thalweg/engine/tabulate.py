"""From the device's records to the columns of a history."""

from typing import Any

import jax
import numpy as np

from .loop import Records

Columns = dict[str, np.ndarray]


class Tabulator:
    """Turns buffers of records into columns; counts messages and bytes.

    Args:
        scale: `[n]` n·w_i, by which the engine's φ_i exceed the f_i that people want to see.
        message_bytes: payload of one message.
        optimum: objective of the reference, `[K + 1]` where it moves, or None.
        keep_agents: keep a row per agent.
        has_target: whether "error" was measured against a reference.
    """

    def __init__(self, scale, message_bytes: int, optimum: Any, has_target: bool, keep_agents: bool):
        self.scale, self.message_bytes = np.asarray(scale), message_bytes
        self.optimum, self.has_target, self.keep_agents = optimum, has_target, keep_agents
        self._sent = Sent()

    def resume(self, messages: Any, local: Any) -> None:
        """Go on counting from `messages` sent so far, at the device's 32-bit counter."""
        self._sent.resume(messages, local)

    @property
    def counters(self) -> list[int]:
        """What `resume` wants."""
        return self.messages.tolist()

    @property
    def messages(self) -> np.ndarray:
        """`[n]` messages sent so far, int64."""
        return self._sent.messages

    def __call__(self, records: Records, count: int) -> tuple[Columns, Columns]:
        """(scalars `[count]`, per agent `[count, n]`)."""
        records = jax.tree.map(lambda leaf: host(leaf)[:count], records.rows)
        snapshot = records.snapshot
        messages = self._sent.count(records.sent)
        scalars = {
            "round": records.round.astype(np.int64),
            "objective": snapshot.objective,
            "consensus_error": snapshot.consensus_error,
            "optimality": snapshot.optimality,
            "movement": snapshot.movement,
            "messages": messages.sum(1),
            "bytes": messages.sum(1) * self.message_bytes,
        }
        if self.optimum is not None:
            scalars["gap"] = snapshot.objective - of_round(self.optimum, scalars["round"])
        if self.has_target:
            scalars["error"] = snapshot.error
        agents = {name: np.asarray(column) for name, column in records.report.items()}
        if self.keep_agents:
            scale = np.where(self.scale > 0, self.scale, np.nan)
            agents |= {
                "loss": snapshot.loss / scale,
                "disagreement": snapshot.disagreement,
                "bytes": messages * self.message_bytes,
            }
        return scalars, agents


def of_round(optimum: Any, rounds: np.ndarray) -> Any:
    """What belongs to these rounds, of one value for all or `[K + 1, ...]`."""
    return optimum[rounds] if np.ndim(optimum) else optimum


def host(leaf) -> np.ndarray:
    """On the host; floats that NumPy does not know by itself (bfloat16) as float32, for files and data frames."""
    array = np.asarray(leaf)
    return array.astype(np.float32) if array.dtype.kind == "V" else array


class Sent:
    """Messages that peers sent, counted from the device's counter.

    The device counts modulo 2³²; differences between records are right whatever the total.
    """

    def __init__(self):
        self.messages, self._counter = None, None

    def resume(self, messages: Any, local: Any) -> None:
        """Go on counting from `messages` sent so far, at the device's 32-bit counter."""
        self.messages, self._counter = np.asarray(messages, np.int64), np.asarray(local.agents.sent, np.uint32)

    def count(self, sent: np.ndarray) -> np.ndarray:
        """Messages up to each of these records, `[count, n]`."""
        counters = np.concatenate([self._counter[None], sent])
        messages = self.messages + np.cumsum(np.diff(counters, axis=0).astype(np.int64), axis=0)
        if len(sent):
            self.messages, self._counter = messages[-1], sent[-1]
        return messages


class Traffic:
    """Messages between clients and a server, counted from the device's counters.

    The device counts modulo 2³²; differences between records are right whatever the total.
    """

    def __init__(self, keep_agents: bool):
        self.keep_agents = keep_agents
        self._counts: dict[str, np.ndarray] = {}
        self._device: dict[str, np.ndarray] = {}

    def resume(self, counters: Any, local: Any) -> None:
        """Go on counting from `counters` (None: from nothing), at the device's 32-bit counters."""
        pick = lambda name: np.asarray(getattr(local, name), np.uint32)
        summed = lambda column: column if self.keep_agents else column.sum(keepdims=True, dtype=np.uint32)
        self._device = {name: summed(pick(name)) for name in ("sent", "received")}
        given = counters or {name: np.zeros(len(column), np.int64) for name, column in self._device.items()}
        self._counts = {name: np.asarray(given[name], np.int64) for name in self._device}

    @property
    def counters(self) -> dict[str, list[int]]:
        """What `resume` wants."""
        return {name: column.tolist() for name, column in self._counts.items()}

    @property
    def now(self) -> tuple[np.ndarray, np.ndarray]:
        """Messages (sent, received) so far, `[n]`, or `[1]` for all clients together."""
        return self._counts["sent"], self._counts["received"]

    def count(self, rows: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(sent, received) up to each of these records, `[count, n]`."""
        totals = {}
        for name in ("sent", "received"):
            column = getattr(rows, name)
            steps = np.diff(np.concatenate([self._device[name][None], column]), axis=0).astype(np.int64)
            totals[name] = self._counts[name] + np.cumsum(steps, axis=0)
            if count:
                self._counts[name], self._device[name] = totals[name][-1], column[-1]
        return totals["sent"], totals["received"]
