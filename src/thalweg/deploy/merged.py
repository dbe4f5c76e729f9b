"""What several sites ended with, put together into one result: what they can know together, and nothing more.

There is no global objective: no site knows those of the others. Own losses are φ_i(x_i) = n·w_i·f_i(x_i), each at the site's own
answer; how far answers are apart is known at the end, when they lie side by side.

Axes: `n` sites, `k` records.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from thalweg.experiment.folder import read_algorithm
from thalweg.observe import History, Ledger, Outcome, Result, Table

from .folder import SiteFolder

_ENDED_WELL = (Outcome.CONVERGED, Outcome.ROUND_LIMIT)


def merged(folders: Sequence[SiteFolder]) -> tuple[Result, tuple[Table, ...]]:
    """The result of the sites whose folders these are, in the order of the experiment, and tables for its report.

    Raises:
        FileNotFoundError: a site has not ended.
        ValueError: there are none, they are of different experiments, or a site is there twice; only the one that leads is there.
    """
    answers = [folder.answer() for folder in folders]
    if not answers:
        raise ValueError("got no folder of a site that has ended, expected at least one")
    hashes = sorted({answer["config"]["hash"] for answer in answers})
    if len(hashes) > 1:
        raise ValueError(
            f"got sites of {len(hashes)} experiments: {', '.join(text[:12] for text in hashes)}; give those of one"
        )
    names = [answer["site"] for answer in answers]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"got two folders of the site {twice!r}, expected one of each")
    first = answers[0]
    leader = next((answer for answer in answers if answer["site"] == answer["server"]), None)
    own = sorted((a for a in answers if a is not leader), key=lambda answer: first["sites"].index(answer["site"]))
    if not own:
        raise ValueError(f"got the folder of {first['site']!r} alone, which leads; give those of the other sites too")
    present = [answer["site"] for answer in own]
    agents, central = _stacked([answer["x"] for answer in own]), None if leader is None else _stacked([leader["x"]])
    shared = None if central is None else _mean(central)
    outcome, reason = _outcome(answers if leader is None else [leader])
    said = [text for answer in answers for text in answer["warnings"]]
    everybody = [*first["sites"], *([first["server"]] if first["server"] else [])]
    if absent := [name for name in everybody if name not in names]:
        said.append(f"sites whose folders are not here: {', '.join(absent)}")
    if first["server"] is None and agents is not None:
        shared = _mean(agents)
    result = Result(
        x=agents if first["market"] else shared,
        agents=agents,
        outcome=outcome,
        reason=reason,
        rounds=max(answer["rounds"] for answer in answers),
        history=_history(own, agents) if first["server"] is None else _led(leader, own),
        ledger=_ledger(own, leader if leader is not None else first if first["server"] else None),
        algorithm=read_algorithm(**first["algorithm"]),
        names=tuple(present),
        graph=_graph(first["graph"], first["sites"], present),
        config=first["config"],
        warnings=tuple(dict.fromkeys(said)),
        price=shared if first["market"] and first["server"] else None,
    )
    return result, _tables(answers)


def _stacked(answers: list[dict[str, np.ndarray]]) -> Any:
    """Every site's x with a leading axis n, as one array or by the paths of its parts; None where a site has none."""
    if not all(answers):
        return None
    stacked = {path.partition("/")[2]: np.stack([own[path] for own in answers]) for path in answers[0]}
    return stacked.get("", stacked)


def _mean(agents: Any) -> Any:
    return {name: a.mean(0) for name, a in agents.items()} if isinstance(agents, dict) else agents.mean(0)


def _apart(agents: Any) -> float:
    """√(mean_i ‖x_i − x̄‖²)."""
    parts = agents.values() if isinstance(agents, dict) else [agents]
    return float(np.sqrt(sum(np.sum((a - a.mean(0)) ** 2) for a in parts) / len(next(iter(parts)))))


def _outcome(answers: list[dict[str, Any]]) -> tuple[Outcome, str]:
    """That of all, or of the first that ended worse than the others."""
    ended = [(Outcome[answer["outcome"]], answer["reason"], answer["site"]) for answer in answers]
    worst = next((one for one in ended if one[0] not in _ENDED_WELL), None)
    if worst is None:
        worst = next((one for one in ended if one[0] is not Outcome.CONVERGED), ended[0])
    return worst[0], worst[1] if len({one[:2] for one in ended}) == 1 else f"{worst[2]}: {worst[1]}"


def _history(answers: list[dict[str, Any]], agents: Any) -> History:
    """Records of rounds that all sites have recorded."""
    histories = [answer["history"] for answer in answers]
    common = sorted(set.intersection(*(set(history["round"]) for history in histories)))
    rows = [[history["round"].index(k) for k in common] for history in histories]
    column = lambda name: np.array([[h[name][r] for r in own] for h, own in zip(histories, rows, strict=True)], float).T
    loss, sent, seconds = (column(name).reshape(len(common), len(answers)) for name in ("loss", "bytes", "seconds"))
    apart = np.full(len(common), np.nan)
    if agents is not None and common and {answer["rounds"] for answer in answers} == {common[-1]}:
        apart[-1] = _apart(agents)
    scalars = {
        "round": np.array(common, np.int64),
        "consensus_error": apart,
        "bytes": sent.sum(1),
        "seconds": seconds.max(1, initial=0),
    }
    return History(scalars, {"own_loss": loss, "bytes": sent})


def _led(leader: dict[str, Any] | None, answers: list[dict[str, Any]]) -> History:
    """What the site that leads has recorded, and the clients' losses in rounds that they took part in, NaN elsewhere."""
    told = {} if leader is None else leader["history"]
    rounds = told.get("round") or sorted({k for answer in answers for k in answer["history"]["round"]})
    scalars = {name: np.array(values, float) for name, values in told.items()} | {"round": np.array(rounds, np.int64)}
    loss = np.full((len(rounds), len(answers)), np.nan)
    for i, answer in enumerate(answers):
        known = dict(zip(answer["history"]["round"], answer["history"]["loss"], strict=True))
        loss[:, i] = [known.get(k, np.nan) for k in rounds]
    return History(scalars, {} if np.isnan(loss).all() else {"own_loss": loss})


def _ledger(answers: list[dict[str, Any]], leader: dict[str, Any] | None) -> Ledger:
    """Under a site that leads, a client has received as many messages as it has answered."""
    ledgers = [answer["ledger"] for answer in answers]
    messages = np.array([ledger["messages"] for ledger in ledgers], np.int64)
    size = lambda ledger, name: ledger[name] // max(1, ledger["messages"])
    each = lambda name: max(size(ledger, name) for ledger in ledgers)
    seconds = max((answer["history"]["seconds"][-1] for answer in answers if answer["history"]["seconds"]), default=0.0)
    served = {} if leader is None else {"received": messages, "received_bytes": size(leader["ledger"], "payload")}
    return Ledger(messages, each("payload"), each("headers"), 0, seconds=seconds, compile_seconds=float("nan"), **served)


def _graph(graph: dict[str, Any] | None, everybody: Sequence[str], present: Sequence[str]) -> dict[str, Any]:
    """The network among those whose folders are here."""
    if graph is None:
        return {"edges": np.zeros((0, 2), int), "positions": None, "directed": False, "facts": {}}
    place = {everybody.index(name): i for i, name in enumerate(present)}
    edges = [(place[a], place[b]) for a, b in graph["edges"] if a in place and b in place]
    positions = None if graph["positions"] is None else np.array([graph["positions"][j] for j in place])
    return {"edges": np.array(edges, int).reshape(-1, 2), "positions": positions, "directed": graph["directed"], "facts": {}}


def _tables(answers: list[dict[str, Any]]) -> tuple[Table, ...]:
    """Scores on what each site held out, and what each site has to say of the run."""
    tables, scores = [], [answer["score"] for answer in answers if answer["score"] is not None]
    if scores:
        title, columns, _ = scores[0]
        note = "Every site's own answer on its own records that were not trained on, as it reported them."
        tables.append(Table(title, columns, [row for _, _, row in scores], note))
    led, private = answers[0]["server"] is not None, any(answer.get("epsilon") is not None for answer in answers)
    rows = []
    for answer in answers:
        ledger, rejected = answer["ledger"], ", ".join(f"{count} {why}" for why, count in answer["rejected"].items() if count)
        epochs = () if led else (ledger["epochs"],)
        outcome = Outcome[answer["outcome"]].value
        epsilon = () if not private else ("" if answer.get("epsilon") is None else f"{answer['epsilon']:.4g}",)
        rows.append((answer["site"], outcome, answer["rounds"], *epochs, *epsilon, ledger["again"], rejected or "none"))
    columns = (
        "site", "outcome", "rounds", *(() if led else ("epochs",)), *(("ε spent",) if private else ()), "sent again", "rejected",
    )  # fmt: skip
    tables.append(Table("Sites", columns, rows, "" if led else "An epoch is a stretch of rounds with the same members."))
    return tuple(tables)
