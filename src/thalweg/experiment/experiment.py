"""An experiment: everything that a run needs, as checked tables, and how to run it."""

import dataclasses
import hashlib
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from pydantic import Field

from thalweg.algorithm import PeerAlgorithm, peer
from thalweg.engine import Stop, refusals, solve
from thalweg.engine.setup import ENGINES
from thalweg.observe import History, Result
from thalweg.problem import Problem, Reference, reference

from . import problems, records
from .folder import RunFolder
from .mistakes import Mistake, named, read
from .networks import NetworkTable
from .problems import ProblemTable
from .signature import Table, arguments

RUNS = Path("runs")


def algorithms() -> dict[str, type[PeerAlgorithm]]:
    """Name → class of every exported algorithm."""
    found = {name: getattr(peer, name) for name in peer.__all__}
    return {name: kind for name, kind in found.items() if inspect.isclass(kind) and issubclass(kind, PeerAlgorithm)}


class RunTable(Table):
    """`[run]`: how long, with which random numbers, in which precision and where."""

    rounds: int = Field(1000, ge=0, description="a whole number ≥ 0")
    seed: int = Field(0, ge=0, description="a whole number ≥ 0")
    dtype: Literal["float64", "float32"] = Field("float64", description='"float64" or "float32"')
    engine: Literal[tuple(ENGINES)] = Field("simulated", description=f"one of {', '.join(ENGINES)}")  # pyright: ignore
    deterministic: bool = Field(False, description="true or false")
    every: int | None = Field(None, ge=1, description="a whole number ≥ 1")
    report: list[str] = Field([], description="a list of names of the agents' Info")
    reference: bool = Field(True, description="true or false")


class AlgorithmTable(NamedTuple):
    """`[algorithm]`: a class and its hyper-parameters."""

    kind: type[PeerAlgorithm]
    table: Table

    def build(self) -> PeerAlgorithm:
        """The algorithm.

        Raises:
            Mistake: it refuses its hyper-parameters.
        """
        return _made("algorithm", self.kind, self.table)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """An experiment whose names and types are checked, and nothing of which is built yet. Made by `load`.

    Attributes:
        name: of the file, without its ending.
        base: the folder that relative paths start from.
        source: the text of the file.
        problem, network, algorithm, stop, settings: its tables; `settings` is `[run]`.
    """

    name: str
    base: Path
    source: str
    problem: ProblemTable
    network: NetworkTable
    algorithm: AlgorithmTable
    stop: Table | None
    settings: RunTable

    @property
    def content(self) -> dict[str, Any]:
        """Plain data, without comments, order and what is left at its default: equal experiments have equal content."""
        content = {
            "problem": {"kind": self.problem.kind} | self.problem.given(),
            "network": self.network.given(),
            "algorithm": {"name": self.algorithm.kind.__name__} | self.algorithm.table.given(),
            "run": self.settings.given(),
        }
        return content if self.stop is None else content | {"stop": self.stop.given()}

    @property
    def hash(self) -> str:
        """SHA-256 of the content; records in a file enter by what they are, not by where they lie."""
        content = self.content
        contents = records.digest(getattr(self.problem, "data", None), self.base)
        if contents is not None:
            content["problem"] |= {"data": contents}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def with_settings(self, **changes: Any) -> "Experiment":
        """The same with other entries of `[run]`; None changes nothing.

        Raises:
            Mistake: an unknown entry or an impossible value.
        """
        changes = {key: value for key, value in changes.items() if value is not None}
        return dataclasses.replace(self, settings=read(RunTable, self.settings.given() | changes, "run"))

    def run(
        self,
        out: str | Path | None = None,
        *,
        progress: bool | Callable[[int, History], None] | None = None,
        resume: bool = False,
    ) -> tuple[Result, RunFolder]:
        """Run it, and leave everything about it in a folder.

        With `dtype = "float64"` JAX's 64-bit mode is switched on, for the whole process.

        Args:
            out: the folder of the run; a new one under `runs` when None.
            progress: as for `thalweg.solve`.
            resume: continue the run that `out` holds.

        Raises:
            Mistake: something in the file cannot be built.
            ValueError, TypeError: an impossible combination; `out` already holds a run, or that of another experiment.
        """
        if self.settings.dtype == "float64":
            jax.config.update("jax_enable_x64", True)
        folder = RunFolder.fresh(RUNS, self.name) if out is None else RunFolder(Path(out))
        if folder.started and not resume:
            raise ValueError(f"{folder} already holds a run: `thalweg resume {folder}` continues it, or choose another folder")
        stated = problems.build(self.problem, self.base, np.dtype(self.settings.dtype))
        network = self.network.build(stated.problem.n, self.base)
        algorithm, stop = self.algorithm.build(), None if self.stop is None else _made("stop", Stop, self.stop)
        _checked("network", refusals.check_sizes, stated.problem, network)
        _checked("algorithm", refusals.check_steps, algorithm, stated.problem.n)
        central = self._reference(stated.problem)
        with folder.starting(self.name, self.base, self.source, self.content, self.hash):
            result = solve(
                stated.problem,
                algorithm,
                network,
                rounds=self.settings.rounds,
                stop=stop,
                seed=self.settings.seed,
                every=self.settings.every,
                engine=self.settings.engine,
                deterministic=self.settings.deterministic,
                report=tuple(self.settings.report),
                reference=central,
                checkpoint=folder.path,
                resume=resume,
                progress=progress,
            )
        folder.write(result, stated.score(result))
        return result, folder

    def _reference(self, problem: Problem) -> Reference | None:
        if not self.settings.reference:
            return None
        try:
            return reference(problem)
        except RuntimeError as error:
            raise Mistake(f"run.reference: got true, but there is {error}; or write reference = false") from error


def _made(where: str, kind: type, table: Table) -> Any:
    """An object of class `kind` from its table; what it refuses is a mistake in the file."""
    return _checked(where, lambda: kind(**arguments(kind, table)))


def _checked(where: str, function: Callable, *args: Any) -> Any:
    """`function(*args)`; what it refuses is a mistake in table `where` of the file."""
    try:
        return function(*args)
    except (ValueError, TypeError) as error:
        raise named(where, error) from error
