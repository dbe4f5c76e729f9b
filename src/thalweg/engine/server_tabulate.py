"""From the records of a server's run to the columns of a history."""

from typing import Any

import jax
import numpy as np

from .loop import Records
from .tabulate import Columns, host


class ServerTabulator:
    """Turns buffers of records into columns; counts messages and bytes.

    Args:
        sizes: payload of one client's messages in a round, "up" and "down".
        weights: `[n]` w_i.
        optimum: objective of the reference, or None.
        has_target: whether "error" was measured against a reference.
        keep_agents: keep a row per client.
    """

    def __init__(self, sizes: dict[str, int], weights, optimum: float | None, has_target: bool, keep_agents: bool):
        self.sizes, self.weights = sizes, np.asarray(weights)
        self.optimum, self.has_target, self.keep_agents = optimum, has_target, keep_agents
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
    def traffic(self) -> tuple[np.ndarray, np.ndarray]:
        """Messages (sent, received) so far, `[n]`, or `[1]` for all clients together."""
        return self._counts["sent"], self._counts["received"]

    def __call__(self, records: Records, count: int) -> tuple[Columns, Columns]:
        """(scalars `[count]`, per client `[count, n]`)."""
        rows = jax.tree.map(lambda leaf: host(leaf)[:count], records.rows)
        snapshot, vitals = rows.snapshot, rows.vitals
        totals = {}
        for name in ("sent", "received"):
            # The device counts modulo 2³²; differences between records are right whatever the total.
            column = getattr(rows, name)
            steps = np.diff(np.concatenate([self._device[name][None], column]), axis=0).astype(np.int64)
            totals[name] = self._counts[name] + np.cumsum(steps, axis=0)
            if count:
                self._counts[name], self._device[name] = totals[name][-1], column[-1]
        sent, received = totals["sent"], totals["received"]
        scalars = {
            "round": rows.round.astype(np.int64),
            "clock": rows.clock.astype(float),
            "objective": snapshot.objective,
            "consensus_error": snapshot.consensus_error,
            "optimality": snapshot.optimality,
            "dissimilarity": snapshot.dissimilarity,
            "movement": snapshot.movement,
            "messages": sent.sum(1),
            "bytes": sent.sum(1) * self.sizes["up"],
            "bytes_down": received.sum(1) * self.sizes["down"],
            "participants": vitals.participants.astype(np.int64),
            "train_loss": vitals.train_loss,
            "drift": vitals.drift,
            "dispersion": vitals.dispersion,
            "steps": vitals.steps,
        }
        scalars |= dict(vitals.scalars.items())
        if self.optimum is not None:
            scalars["gap"] = snapshot.objective - self.optimum
        if self.has_target:
            scalars["error"] = snapshot.error
        agents = {}
        for name, column in rows.evaluated.items():
            if column.ndim == 1:
                scalars[name] = column
            else:
                scalars |= self._summary(name, column)
                agents |= {name: column} if self.keep_agents else {}
        if self.keep_agents:
            agents |= {"loss": snapshot.loss, "bytes": sent * self.sizes["up"]}
            if snapshot.own.shape[1]:
                agents |= {"own_loss": snapshot.own, "disagreement": snapshot.disagreement}
        return scalars, agents

    def _summary(self, name: str, column: np.ndarray) -> Columns:
        """Of one value per client `[count, n]`: weighted mean, worst client, mean of the worst tenth, spread."""
        ordered = np.sort(column, axis=1)
        tenth = max(1, column.shape[1] // 10)
        return {
            name: (column * self.weights).sum(1),
            f"{name}_lowest": ordered[:, 0],
            f"{name}_lowest_tenth": ordered[:, :tenth].mean(1),
            f"{name}_highest": ordered[:, -1],
            f"{name}_highest_tenth": ordered[:, -tenth:].mean(1),
            f"{name}_spread": column.std(1),
        }
