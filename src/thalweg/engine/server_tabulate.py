"""From the records of a server's run to the columns of a history."""

import dataclasses
from typing import Any

import numpy as np

from .tabulate import Columns, of_round


@dataclasses.dataclass(frozen=True)
class ServerColumns:
    """The columns of a server's run.

    Attributes:
        sizes: payload of one client's messages in a round, "up" and "down".
        weights: `[n]` w_i.
        optimum: objective of the reference, `[K + 1]` where it moves, or None.
        has_target: whether "error" was measured against a reference.
        keep_agents: keep a row per client.
    """

    sizes: dict[str, int]
    weights: np.ndarray
    optimum: Any
    has_target: bool
    keep_agents: bool

    def __call__(self, rows: Any, messages: dict[str, np.ndarray]) -> tuple[Columns, Columns]:
        """See `Tabulator`."""
        sent, received, snapshot, vitals = messages["sent"], messages["received"], rows.snapshot, rows.vitals
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
        """Of one value per client `[count, n]`: weighted mean, worst client, mean of the worst tenth, spread; without liars."""
        honest = ~np.isnan(column).all(0) if len(column) else np.ones(column.shape[1], bool)
        column, weights = column[:, honest], self.weights[honest] / self.weights[honest].sum()
        ordered = np.sort(column, axis=1)
        tenth = max(1, column.shape[1] // 10)
        return {
            name: (column * weights).sum(1),
            f"{name}_lowest": ordered[:, 0],
            f"{name}_lowest_tenth": ordered[:, :tenth].mean(1),
            f"{name}_highest": ordered[:, -1],
            f"{name}_highest_tenth": ordered[:, -tenth:].mean(1),
            f"{name}_spread": column.std(1),
        }
