"""From the records of a coupled problem's run to the columns of a history."""

from typing import Any

import jax
import numpy as np

from .loop import Records
from .tabulate import Columns, Sent, Traffic, host, of_round

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
            **market_columns(snapshot),
            "messages": sent.sum(1),
            "bytes": sent.sum(1) * self.sizes["up"],
            "bytes_down": received.sum(1) * self.sizes["down"],
            "participants": vitals.participants.astype(np.int64),
            "steps": vitals.steps,
        }
        scalars |= dict(vitals.scalars.items())
        scalars |= price_columns(snapshot, self.row_names)
        scalars |= target_columns(snapshot, scalars["round"], self.optimum, self.has_target, self.prices)
        agents = {}
        if self.keep_agents:
            agents = {"loss": snapshot.loss, "bytes": sent * self.sizes["up"]}
        return scalars, agents


class PeerMarketTabulator:
    """The same of peers, who keep a copy of the price each.

    Args:
        message_bytes: payload of one message. Else as `MarketTabulator`.
    """

    def __init__(
        self,
        message_bytes: int,
        row_names: tuple[str, ...],
        optimum: Any,
        has_target: bool,
        keep_agents: bool,
        prices: Any = None,
    ):
        self.message_bytes, self.row_names, self.prices = message_bytes, row_names, prices
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
        rows = jax.tree.map(lambda leaf: host(leaf)[:count], records.rows)
        snapshot, messages = rows.snapshot, self._sent.count(rows.sent)
        scalars = {
            "round": rows.round.astype(np.int64),
            **market_columns(snapshot),
            "messages": messages.sum(1),
            "bytes": messages.sum(1) * self.message_bytes,
        }
        scalars |= price_columns(snapshot, self.row_names)
        scalars |= target_columns(snapshot, scalars["round"], self.optimum, self.has_target, self.prices)
        agents = {name: np.asarray(column) for name, column in rows.report.items()}
        if self.keep_agents:
            agents |= {"loss": snapshot.loss, "disagreement": snapshot.disagreement, "bytes": messages * self.message_bytes}
        return scalars, agents


def market_columns(snapshot: Any) -> Columns:
    """What is said of plans and price, whoever sets it."""
    return {
        "objective": snapshot.objective,
        "violation": snapshot.violation,
        "dual": snapshot.dual,
        "duality_gap": snapshot.gap,
        "slackness": snapshot.slackness,
        "consensus_error": snapshot.consensus_error,
        "movement": snapshot.movement,
    }


def price_columns(snapshot: Any, row_names: tuple[str, ...]) -> Columns:
    """The price of every row, unless there are too many."""
    if len(row_names) > PRICE_COLUMNS:
        return {}
    return {f"price of {name}": snapshot.price[:, j] for j, name in enumerate(row_names)}


def target_columns(snapshot: Any, rounds: np.ndarray, optimum: Any, has_target: bool, prices: Any) -> Columns:
    """Gap and distances to a reference, where there is one."""
    found = {} if optimum is None else {"gap": snapshot.objective - of_round(optimum, rounds)}
    if has_target:
        found["error"] = snapshot.error
    if prices is not None:
        found["price_error"] = np.linalg.norm(snapshot.price - of_round(prices, rounds), axis=1)
    return found
