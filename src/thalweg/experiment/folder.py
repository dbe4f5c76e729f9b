"""The folder of a run: what was run, the state to continue from, and the result to look at again.

    experiment.toml   the file as it was written
    experiment.json   what was run: its content with what the command line changed, its hash
    run.json, …       the checkpoint of `thalweg.solve`
    result.json       outcome, configuration, tables; result.npz has the arrays (no pickles)
    history.csv       one row per record
    report.html       the report

A folder without a result is that of a run that was killed; one without `experiment.json` was not run from a file.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from thalweg.algorithm import ServerAlgorithm, asynchronous, peer, price, server
from thalweg.algorithm.step import PerAgent
from thalweg.engine.checkpoint import META
from thalweg.observe import History, Ledger, Outcome, Result, Table
from thalweg.observe.describing import shown
from thalweg.problem import Certificate

SOURCE, EXPERIMENT, RESULT, ARRAYS = "experiment.toml", "experiment.json", "result.json", "result.npz"
HISTORY, REPORT = "history.csv", "report.html"


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The folder of one run."""

    path: Path

    @staticmethod
    def fresh(parent: Path, name: str) -> "RunFolder":
        """A folder in `parent` that does not exist yet: name, name-2, name-3, …"""
        path, number = parent / name, 2
        while path.exists():
            path, number = parent / f"{name}-{number}", number + 1
        return RunFolder(path)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def started(self) -> bool:
        """Whether a run left its state here."""
        return (self.path / META).exists()

    @property
    def report(self) -> Path:
        """Where the report is."""
        return self.path / REPORT

    @contextlib.contextmanager
    def starting(self, name: str, base: Path, source: str, content: dict[str, Any], digest: str) -> Iterator[None]:
        """Write down what is run before it runs; take it back if the run was refused and left nothing.

        What is said of a run that is there already changes only once that run has been continued.
        """
        about = {"name": name, "base": str(base), "hash": digest, "content": content}
        continued, made = self.started, not self.path.exists()
        if not continued:
            self._write_down(source, about)
        try:
            yield
        except BaseException:
            if not self.started:
                for file in (SOURCE, EXPERIMENT):
                    (self.path / file).unlink(missing_ok=True)
                if made:
                    self.path.rmdir()
            raise
        if continued:
            self._write_down(source, about)

    def _write_down(self, source: str, about: dict[str, Any]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / SOURCE).write_text(source, encoding="utf-8")
        (self.path / EXPERIMENT).write_text(json.dumps(about, indent=1), encoding="utf-8")

    def experiment(self) -> dict[str, Any]:
        """Name, base, hash, content and source of what was run here.

        Raises:
            FileNotFoundError: nothing was run here from an experiment file.
        """
        if not (self.path / EXPERIMENT).exists():
            raise FileNotFoundError(f"there is no run of an experiment file in {self} ({EXPERIMENT} is missing)")
        about = json.loads((self.path / EXPERIMENT).read_text(encoding="utf-8"))
        return about | {"source": (self.path / SOURCE).read_text(encoding="utf-8")}

    def write(self, result: Result, tables: Iterable[Table] = ()) -> Path:
        """Store the result with its history and its report, and return where the report is."""
        tables = tuple(tables)
        self.path.mkdir(parents=True, exist_ok=True)
        plain, arrays = _taken_apart(result)
        plain["tables"] = [dataclasses.asdict(table) for table in tables]
        np.savez(self.path / ARRAYS, **arrays)
        (self.path / RESULT).write_text(json.dumps(plain, indent=1, default=plain_value), encoding="utf-8")
        result.history.to_csv(self.path / HISTORY)
        return result.report(self.report, tables=tables)

    def read(self) -> tuple[Result, tuple[Table, ...]]:
        """The stored result (without the agents' records) and its tables.

        Raises:
            FileNotFoundError: no run was finished or interrupted here.
        """
        if not (self.path / RESULT).exists():
            hint = f"; `thalweg resume {self}` continues the run" if self.started else ""
            raise FileNotFoundError(f"there is no result in {self} ({RESULT} is missing){hint}")
        plain = json.loads((self.path / RESULT).read_text(encoding="utf-8"))
        with np.load(self.path / ARRAYS, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return _put_together(plain, arrays), tuple(Table(**table) for table in plain["tables"])


def _taken_apart(result: Result) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    ledger = dataclasses.asdict(result.ledger)
    plain = {
        "outcome": result.outcome.name,
        "reason": result.reason,
        "rounds": result.rounds,
        "names": result.names,
        "warnings": result.warnings,
        "config": result.config,
        "algorithm": plain_algorithm(result.algorithm),
        "ledger": {name: value for name, value in ledger.items() if name not in ("messages", "received")},
        "graph": {name: value for name, value in result.graph.items() if name not in ("edges", "positions")},
    }
    if result.certificate is not None:
        plain["certificate"] = dataclasses.asdict(result.certificate)
    arrays = {"messages": result.ledger.messages, "edges": result.graph["edges"]}
    if result.price is not None:
        arrays["price"] = result.price
    if result.ledger.received is not None:
        arrays["received"] = result.ledger.received
    if result.graph["positions"] is not None:
        arrays["positions"] = result.graph["positions"]
    arrays |= {f"scalars/{name}": column for name, column in result.history.scalars.items()}
    arrays |= {f"per_agent/{name}": column for name, column in result.history.agents.items()}
    for kind, tree in (("x", result.x), ("agents", result.agents)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            arrays["/".join([kind, *(str(getattr(step, "key", getattr(step, "name", step))) for step in path)])] = leaf
    return plain, {name: np.asarray(array) for name, array in arrays.items()}


def _put_together(plain: dict[str, Any], arrays: dict[str, np.ndarray]) -> Result:
    under = lambda kind: {name[len(kind) + 1 :]: a for name, a in arrays.items() if name.startswith(f"{kind}/")}
    return Result(
        x=arrays.get("x", under("x")),
        agents=arrays.get("agents", under("agents") or None),
        outcome=Outcome[plain["outcome"]],
        reason=plain["reason"],
        rounds=plain["rounds"],
        history=History(under("scalars"), under("per_agent")),
        ledger=Ledger(messages=arrays["messages"], received=arrays.get("received"), **plain["ledger"]),
        algorithm=read_algorithm(**plain["algorithm"]),
        names=tuple(plain["names"]),
        graph=plain["graph"] | {"edges": arrays["edges"], "positions": arrays.get("positions")},
        config=plain["config"],
        warnings=tuple(plain["warnings"]),
        price=arrays.get("price"),
        certificate=Certificate(**plain["certificate"]) if "certificate" in plain else None,
    )


class Said(str):
    """What a hyper-parameter that is no plain value was printed as."""

    def __repr__(self) -> str:
        return str(self)


def _said(value: Any) -> Any:
    """A hyper-parameter of an algorithm with a server: plain values as they are, rules and solvers as they print."""
    plain = value is None or isinstance(value, bool | int | float | str | PerAgent)
    return value if plain else float(value) if np.ndim(value) == 0 and hasattr(value, "dtype") else {"said": shown(value)}


def plain_algorithm(algorithm: Any) -> dict[str, Any]:
    """An algorithm's name and hyper-parameters, as `read_algorithm` takes them back."""
    hyper = {field.name: getattr(algorithm, field.name) for field in dataclasses.fields(algorithm)}
    if isinstance(algorithm, ServerAlgorithm):
        hyper = {name: _said(value) for name, value in hyper.items()}
    return {"name": type(algorithm).__name__, "arguments": hyper}


def read_algorithm(name: str, arguments: dict[str, Any]) -> Any:
    """The algorithm of a stored result. One with a server is there to be looked at, not to be run again."""
    hyper = {key: PerAgent(np.asarray(value)) if isinstance(value, list) else value for key, value in arguments.items()}
    if (kind := getattr(peer, name, None) or getattr(asynchronous, name, None)) is not None:
        return kind(**hyper)
    kind = getattr(server, name, None) or getattr(price, name)
    algorithm = object.__new__(kind)
    for key, value in hyper.items():
        object.__setattr__(algorithm, key, Said(value["said"]) if isinstance(value, dict) else value)
    return algorithm


def plain_value(value: Any) -> Any:
    """What `json` does not know: NumPy and JAX numbers, per-agent hyper-parameters."""
    return np.asarray(value.values if isinstance(value, PerAgent) else value).tolist()
