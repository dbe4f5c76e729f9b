"""What is shown of a run under a server: clients instead of agents, one answer, evaluated metrics, who fares worst."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .result import Result


def has_server(result: "Result") -> bool:
    """Whether a server led the run: then clients also receive."""
    return result.ledger.received is not None


def member(result: "Result") -> str:
    """What one participant is called."""
    return "client" if has_server(result) and result.price is None else "agent"


def _one(result: "Result") -> str:
    return "an agent" if member(result) == "agent" else "a client"


def members(result: "Result") -> int:
    """How many there are; a run of very many keeps no row, and no name, for each."""
    return len(result.names) if result.ids is None else len(result.ids)


def honest(result: "Result", name: str) -> np.ndarray:
    """`[records, h]` what the history has of each agent, without those of an adversary, of which it has nothing."""
    rows = np.asarray(result.history.agents[name], float)
    return rows[:, ~np.isnan(rows).all(axis=0)] if "adversary" in result.config else rows


def evaluated(result: "Result") -> tuple[str, ...]:
    """Metrics that were evaluated, in the order given."""
    return tuple(name for name in result.config.get("evaluate", {}) if name in result.history.scalars)


def extremes(result: "Result") -> list[tuple[str, str]]:
    """(what, sentence): of the loss and of every metric evaluated per client, the worst client, the worst tenth, the spread.

    Whether more of a metric is better is not known: both ends are said.
    """
    if not has_server(result) or not len(result.history):
        return []
    lines = []
    local = "loss" if result.price is None else "cost"
    for name, label in (("loss", f"{local} of {_one(result)}"), ("own_loss", "loss with its own answer")):
        if name in result.history.agents:
            values = np.asarray(result.history.agents[name][-1], float)
            known = values[~np.isnan(values)]  # liars have none
            if known.size and np.isfinite(known).all():
                tenth = np.sort(known)[-max(1, len(known) // 10) :].mean()
                worst = int(np.nanargmax(values))
                text = f"worst {values[worst]:.4g} ({result.names[worst]}), worst tenth {tenth:.4g}, spread {known.std():.3g}"
                lines.append((label, text))
    for name in evaluated(result):
        last = {key: result.history.scalars.get(f"{name}_{key}", (np.nan,))[-1] for key in ENDS}
        if not np.isfinite(list(last.values())).all():
            continue
        who = {"lowest": "", "highest": ""}
        if name in result.history.agents:
            values = np.asarray(result.history.agents[name][-1], float)
            who = {"lowest": f" ({result.names[np.nanargmin(values)]})", "highest": f" ({result.names[np.nanargmax(values)]})"}
        low, high = (f"{end} {last[end]:.4g}{who[end]}, {end} tenth {last[f'{end}_tenth']:.4g}" for end in who)
        lines.append((f"{name} of {_one(result)}", f"{low}; {high}; spread {last['spread']:.3g}"))
    return lines


def by_group(result: "Result") -> list[tuple[str, np.ndarray, dict[str, np.ndarray]]]:
    """(group, positions of its members, metric → their last values) of runs whose agents were given groups, in order of name."""
    labels = np.asarray(result.config.get("groups") or ())
    agents = result.history.agents if len(result.history) else {}
    kept = {name: np.asarray(agents[name][-1], float) for name in ("loss", "own_loss", *evaluated(result)) if name in agents}
    kept = {name: values for name, values in kept.items() if values.shape == labels.shape}
    places = [(group, np.flatnonzero(labels == group)) for group in np.unique(labels)] if kept else []
    return [(str(group), own, {name: values[own] for name, values in kept.items()}) for group, own in places]


def group_lines(result: "Result") -> list[tuple[str, str]]:
    """(what, sentence) for the printed result: the mean of every measure in every group."""
    found, local = by_group(result), "loss" if result.price is None else "cost"
    measures = found[0][2] if found else ()
    say = {"loss": f"{local} by group", "own_loss": "loss with its own answer by group"}
    listed = lambda name: ", ".join(f"{group} {values[name].mean():.4g}" for group, _, values in found)
    return [(say.get(name, f"{name} by group"), listed(name)) for name in measures]


ENDS = ("lowest", "lowest_tenth", "highest", "highest_tenth", "spread")


def server(result: "Result") -> str:
    """What the one that leads is called."""
    return "server" if result.price is None else "price-setter"


def has_picture(result: "Result") -> bool:
    """Whether agents have a place in a picture: in a network, or as clients of a server. Under a price-setter they have none."""
    return not has_server(result) or result.price is None


def grid(n: int) -> np.ndarray:
    """`[n, 2]` positions in rows, in order: clients have no neighbours."""
    columns = max(1, int(np.ceil(np.sqrt(1.6 * n))))
    k = np.arange(n)
    return np.stack([k % columns, -(k // columns)], axis=1).astype(float)
