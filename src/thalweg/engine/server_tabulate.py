"""From the records of a server's run to the columns of a history."""

from typing import Any

import jax
import numpy as np

from .loop import Records
from .tabulate import Columns, Traffic, host, of_round


class ServerTabulator:
    """Turns buffers of records into columns; counts messages and bytes.

    Args:
        sizes: payload of one client's messages in a round, "up" and "down".
        weights: `[n]` w_i.
        optimum: objective of the reference, `[K + 1]` where it moves, or None.
        has_target: whether "error" was measured against a reference.
        keep_agents: keep a row per client.
    """

    def __init__(self, sizes: dict[str, int], weights, optimum: Any, has_target: bool, keep_agents: bool):
        self.sizes, self.weights = sizes, np.asarray(weights)
        self.optimum, self.has_target, self.keep_agents = optimum, has_target, keep_agents
        self._traffic = Traffic(keep_agents)

    def resume(self, counters: Any, local: Any) -> None:
        """Go on counting from `counters` (None: from nothing), at the device's 32-bit counters."""
        self._traffic.resume(counters, local)

    @property
    def counters(self) -> dict[str, list[int]]:
        """What `resume` wants."""
        return self._traffic.counters

    @property
    def traffic(self) -> tuple[np.ndarray, np.ndarray]:
        """Messages (sent, received) so far, `[n]`, or `[1]` for all clients together."""
        return self._traffic.now

    def __call__(self, records: Records, count: int) -> tuple[Columns, Columns]:
        """(scalars `[count]`, per client `[count, n]`)."""
        rows = jax.tree.map(lambda leaf: host(leaf)[:count], records.rows)
        snapshot, vitals = rows.snapshot, rows.vitals
        sent, received = self._traffic.count(rows, count)
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
            scalars["gap"] = snapshot.objective - of_round(self.optimum, scalars["round"])
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
