"""From the records of a coupled problem's run to the columns of a history."""

import dataclasses
from typing import Any

import numpy as np

from .moving import Goal
from .tabulate import Columns, of_round

# Prices of more rows than this have no columns of their own.
PRICE_COLUMNS = 32


@dataclasses.dataclass(frozen=True)
class MarketColumns:
    """The columns of a run with a price-setter.

    Attributes:
        sizes: payload of one agent's messages in a round, "up" and "down".
        row_names: of the coupling's rows.
        goal: what the run is measured against.
        has_target: whether "error" was measured against a reference.
        keep_agents: keep a row per agent.
    """

    sizes: dict[str, int]
    row_names: tuple[str, ...]
    goal: Goal
    has_target: bool
    keep_agents: bool

    def __call__(self, rows: Any, messages: dict[str, np.ndarray]) -> tuple[Columns, Columns]:
        """See `Tabulator`."""
        sent, received, snapshot, vitals = messages["sent"], messages["received"], rows.snapshot, rows.vitals
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
        scalars |= target_columns(snapshot, scalars["round"], self.goal, self.has_target)
        agents = {}
        if self.keep_agents:
            agents = {"loss": snapshot.loss, "bytes": sent * self.sizes["up"]}
        return scalars, agents


@dataclasses.dataclass(frozen=True)
class PeerMarketColumns:
    """The same of peers, who keep a copy of the price each; `message_bytes` is the payload of one message."""

    message_bytes: int
    row_names: tuple[str, ...]
    goal: Goal
    has_target: bool
    keep_agents: bool

    def __call__(self, rows: Any, messages: dict[str, np.ndarray]) -> tuple[Columns, Columns]:
        """See `Tabulator`."""
        snapshot, sent = rows.snapshot, messages["sent"]
        scalars = {
            "round": rows.round.astype(np.int64),
            **market_columns(snapshot),
            "messages": sent.sum(1),
            "bytes": sent.sum(1) * self.message_bytes,
        }
        scalars |= price_columns(snapshot, self.row_names)
        scalars |= target_columns(snapshot, scalars["round"], self.goal, self.has_target)
        agents = {name: np.asarray(column) for name, column in rows.report.items()}
        if self.keep_agents:
            agents |= {"loss": snapshot.loss, "disagreement": snapshot.disagreement, "bytes": sent * self.message_bytes}
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


def target_columns(snapshot: Any, rounds: np.ndarray, goal: Goal, has_target: bool) -> Columns:
    """Gap and distances to a reference, where there is one."""
    found = {} if goal.optimum is None else {"gap": snapshot.objective - of_round(goal.optimum, rounds)}
    if has_target:
        found["error"] = snapshot.error
    if goal.price is not None:
        found["price_error"] = np.linalg.norm(snapshot.price - of_round(goal.price, rounds), axis=1)
    return found
