"""From the device's records to the columns of a history."""

import jax
import numpy as np

from .loop import Records

Columns = dict[str, np.ndarray]


class Tabulator:
    """Turns buffers of records into columns; counts messages and bytes.

    Args:
        scale: `[n]` n·w_i, by which the engine's φ_i exceed the f_i that people want to see.
        message_bytes: payload of one message.
        optimum: objective of the reference, or None.
        keep_agents: keep a row per agent.
        has_target: whether "error" was measured against a reference.
    """

    def __init__(self, scale, message_bytes: int, optimum: float | None, has_target: bool, keep_agents: bool):
        self.scale, self.message_bytes = np.asarray(scale), message_bytes
        self.optimum, self.has_target, self.keep_agents = optimum, has_target, keep_agents
        self._messages, self._counter = None, None

    def resume(self, messages: np.ndarray, counter: np.ndarray) -> None:
        """Go on counting from `messages` sent so far, at the device's 32-bit `counter`."""
        self._messages, self._counter = np.asarray(messages, np.int64), np.asarray(counter, np.uint32)

    @property
    def messages(self) -> np.ndarray:
        """`[n]` messages sent so far, int64."""
        return self._messages

    def __call__(self, records: Records, count: int) -> tuple[Columns, Columns]:
        """(scalars `[count]`, per agent `[count, n]`)."""
        records = jax.tree.map(lambda leaf: _host(leaf)[:count] if np.ndim(leaf) else leaf, records)
        snapshot = records.snapshot
        # The device counts modulo 2³²; differences between records are right whatever the total.
        counters = np.concatenate([self._counter[None], records.sent])
        messages = self._messages + np.cumsum(np.diff(counters, axis=0).astype(np.int64), axis=0)
        if count:
            self._messages, self._counter = messages[-1], records.sent[-1]
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
            scalars["gap"] = snapshot.objective - self.optimum
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


def _host(leaf) -> np.ndarray:
    """On the host; floats that NumPy does not know by itself (bfloat16) as float32, for files and data frames."""
    array = np.asarray(leaf)
    return array.astype(np.float32) if array.dtype.kind == "V" else array
