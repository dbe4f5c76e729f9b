"""From the records of a coupled problem's run to the columns of a history."""

from typing import Any

import jax
import numpy as np

from .loop import Records
from .tabulate import Columns, Traffic, host, of_round

# Prices of more rows than this have no columns of their own.
PRICE_COLUMNS = 32


class MarketTabulator:
    """Turns buffers of records into columns; counts messages and bytes.

    Args:
        sizes: payload of one agent's messages in a round, "up" and "down".
        row_names: of the coupling's rows.
        optimum: cost of the reference, `[K + 1]` where it moves, or None.
        has_target: whether "error" was measured against a reference.
        keep_agents: keep a row per agent.
        prices: `[K + 1, m]` of a reference that moves, or None.
    """

    def __init__(
        self,
        sizes: dict[str, int],
        row_names: tuple[str, ...],
        optimum: Any,
        has_target: bool,
        keep_agents: bool,
        prices: Any = None,
    ):
        self.prices = prices
        self.sizes, self.row_names = sizes, row_names
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
        """Messages (sent, received) so far, `[n]`, or `[1]` for all agents together."""
        return self._traffic.now

    def __call__(self, records: Records, count: int) -> tuple[Columns, Columns]:
        """(scalars `[count]`, per agent `[count, n]`)."""
        rows = jax.tree.map(lambda leaf: host(leaf)[:count], records.rows)
        snapshot, vitals = rows.snapshot, rows.vitals
        sent, received = self._traffic.count(rows, count)
        scalars = {
            "round": rows.round.astype(np.int64),
            "clock": rows.clock.astype(float),
            "objective": snapshot.objective,
            "violation": snapshot.violation,
            "dual": snapshot.dual,
            "duality_gap": snapshot.gap,
            "slackness": snapshot.slackness,
            "consensus_error": snapshot.consensus_error,
            "movement": snapshot.movement,
            "messages": sent.sum(1),
            "bytes": sent.sum(1) * self.sizes["up"],
            "bytes_down": received.sum(1) * self.sizes["down"],
            "participants": vitals.participants.astype(np.int64),
            "steps": vitals.steps,
        }
        scalars |= dict(vitals.scalars.items())
        if len(self.row_names) <= PRICE_COLUMNS:
            scalars |= {f"price of {name}": snapshot.price[:, j] for j, name in enumerate(self.row_names)}
        if self.optimum is not None:
            scalars["gap"] = snapshot.objective - of_round(self.optimum, scalars["round"])
        if self.has_target:
            scalars["error"] = snapshot.error
        if self.prices is not None:
            scalars["price_error"] = np.linalg.norm(snapshot.price - of_round(self.prices, scalars["round"]), axis=1)
        agents = {}
        if self.keep_agents:
            agents = {"loss": snapshot.loss, "bytes": sent * self.sizes["up"]}
        return scalars, agents
