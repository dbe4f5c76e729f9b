"""Records named in an experiment file: a data set that Thalweg ships, or a CSV file with one agent per value of a column.

Axes: `m` examples, `d` features.
"""

import csv
import hashlib
import inspect
from pathlib import Path
from typing import Any

import numpy as np

from thalweg import data as shipped
from thalweg.data import FederatedData

from .mistakes import Mistake, missing, shown, unknown_name, wrong


def data_sets() -> dict[str, Any]:
    """Name → function of every data set that Thalweg ships and that needs no more than the share and the seed of a split."""
    functions = {name: getattr(shipped, name) for name in shipped.__all__ if inspect.isfunction(getattr(shipped, name))}
    return {name: f for name, f in functions.items() if f.__annotations__.get("return") is FederatedData and _is_ready(f)}


def _is_ready(function: Any) -> bool:
    parameters = inspect.signature(function).parameters
    return {"test", "seed"} <= parameters.keys() and all(p.default is not p.empty for p in parameters.values())


def locate(data: str, base: Path) -> Path | None:
    """The file that `problem.data` means, None for a data set that Thalweg ships.

    Raises:
        Mistake: it is neither.
    """
    if data in data_sets():
        return None
    path = (base / data).expanduser()
    if not path.suffix:
        raise unknown_name("problem.data", data, [*data_sets(), "the path of a .csv file"])
    if not path.is_file():
        raise wrong("problem.data", data, f"a CSV file; there is none at {path}")
    return path


def digest(data: str | None, base: Path) -> str | None:
    """SHA-256 of the file that holds the records; None where there is no such file."""
    path = None if data is None else locate(data, base)
    return None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()


def columns(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """(column names, rows) of a CSV file with a header.

    Raises:
        Mistake: no rows, or rows that are longer or shorter than the header.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    names = list(reader.fieldnames or [])
    if not rows:
        raise Mistake(f"problem.data: got no rows in {path}, expected a header and one row per record")
    for line, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise Mistake(f"problem.data: got a row of another length than the header at line {line} of {path}")
    return names, rows


def numbers(path: Path, rows: list[dict[str, str]], names: list[str]) -> np.ndarray:
    """Columns `names` as float64 `[m, d]`.

    Raises:
        Mistake: naming line and column of the first cell that is not a finite number.
    """
    table = np.empty((len(rows), len(names)))
    for line, row in enumerate(rows):
        for column, name in enumerate(names):
            try:
                table[line, column] = float(row[name])
            except ValueError:
                table[line, column] = np.nan
            if not np.isfinite(table[line, column]):
                raise Mistake(
                    f"problem.data: got {row[name]!r} at line {line + 2}, column {name!r} of {path.name}, expected a number; "
                    "fill such cells or drop their rows, and code categories as 0/1 columns"
                )
    return table


def column(key: str, name: str | None, known: list[str]) -> str:
    """The column that `problem.key` names.

    Raises:
        Mistake: it is left out, or there is no such column.
    """
    if name is None:
        raise missing(f"problem.{key}", f"a column of the CSV file: {', '.join(known)}")
    if name not in known:
        raise unknown_name(f"problem.{key}", name, known)
    return name


def read_examples(
    path: Path,
    *,
    features: list[str] | None,
    label: str | None,
    agent: str | None,
    scale: dict[str, list[float]] | None,
    test: float,
    seed: int,
) -> FederatedData:
    """The examples of a CSV file, one agent per value of the column `agent`, each split into training and test parts.

    Nothing is computed over agents: a feature is scaled, if at all, by the given (centre, scale) alone.

    Raises:
        Mistake: unknown columns, cells that are not numbers, an agent without training examples.
    """
    known, rows = columns(path)
    label, agent = column("label", label, known), column("agent", agent, known)
    features, x, y = _examples(path, known, rows, features, label, agent, scale)
    owners = [row[agent] for row in rows]
    names = tuple(dict.fromkeys(owners))
    parts = []
    for i, name in enumerate(names):
        mine = np.flatnonzero([owner == name for owner in owners])
        kept, held = _split(name, mine, test, [seed, i])
        parts.append(((x[kept], y[kept]), (x[held], y[held])))
    return FederatedData([train for train, _ in parts], [held for _, held in parts], names, features)


def read_own(
    path: Path,
    name: str,
    place: int,
    *,
    features: list[str] | None,
    label: str | None,
    agent: str | None,
    scale: dict[str, list[float]] | None,
    test: float,
    seed: int,
) -> FederatedData:
    """The examples of a CSV file that all belong to the agent `name`, at `place` among all: split as `read_examples` would.

    The column `agent` may be missing; where it is there, it must not name several.

    Raises:
        Mistake: as `read_examples`, and records of several agents.
    """
    if not path.is_file():
        raise Mistake(f"--data: got {shown(str(path))}, expected a CSV file; there is none")
    known, rows = columns(path)
    label = column("label", label, known)
    owners = {row[agent] for row in rows} if agent in known else set()
    if len(owners) > 1:
        raise Mistake(
            f"--data: got records of {len(owners)} agents in {path.name} ({', '.join(sorted(owners)[:4])}), expected those of "
            f"{name!r} alone"
        )
    features, x, y = _examples(path, known, rows, features, label, agent, scale)
    kept, held = _split(name, np.arange(len(rows)), test, [seed, place])
    return FederatedData([(x[kept], y[kept])], [(x[held], y[held])], (name,), features)


def _examples(
    path: Path,
    known: list[str],
    rows: list[dict[str, str]],
    features: list[str] | None,
    label: str,
    agent: str | None,
    scale: dict[str, list[float]] | None,
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """(names of features, features `[m, d]`, labels `[m]`)."""
    if features is None:
        features = [name for name in known if name not in (label, agent)]
    features = [column("features", name, known) for name in features]
    x, y = numbers(path, rows, features), numbers(path, rows, [label])[:, 0]
    for name, pair in (scale or {}).items():
        j = features.index(column("scale", name, features))
        if len(pair) != 2 or not pair[1] > 0:
            raise wrong(f"problem.scale.{name}", pair, "[centre, scale] with a scale above 0")
        x[:, j] = (x[:, j] - pair[0]) / pair[1]
    return tuple(features), x, y


def _split(name: str, mine: np.ndarray, test: float, seed: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """(kept, held out) of an agent's records, both in order."""
    held = np.random.default_rng(seed).permutation(mine)[: round(test * len(mine))]
    kept = np.setdiff1d(mine, held)
    if not kept.size:
        raise Mistake(
            f"problem.test: got {test}, which leaves {name!r} no training example of {len(mine)}; use a smaller share"
        )
    return kept, np.sort(held)
