"""An experiment: everything that a run needs, as checked tables, and how to run it."""

import contextlib
import dataclasses
import hashlib
import inspect
import json
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from pydantic import Field

from thalweg._version import __version__
from thalweg.algorithm import AsynchronousAlgorithm, PeerAlgorithm, ServerAlgorithm, asynchronous, peer, price, server
from thalweg.engine import EventDriven, Hosts, Sharded, Stop, refusals, refusals_server, solve
from thalweg.engine.hosts import here
from thalweg.engine.setup import ENGINES
from thalweg.fleet import Clocks, Fleet
from thalweg.observe import History, Result
from thalweg.privacy import Budget
from thalweg.problem import Coupled, Problem, Reference, reference

from . import problems, records
from .deployment import DeployTable, check_names
from .folder import RunFolder
from .mistakes import Mistake, missing, named, read, shown
from .networks import NetworkTable
from .pipelines import StageTable
from .problems import ProblemTable
from .signature import Choice, Table, arguments

RUNS = Path("runs")
# What the site that leads is called, where no [deploy] says otherwise.
SERVER = "server"


Kind = PeerAlgorithm | AsynchronousAlgorithm | ServerAlgorithm


def algorithms() -> dict[str, Callable[..., Kind]]:
    """Name → class of every exported algorithm, or the function that makes one."""
    found = {name: getattr(package, name) for package in (peer, asynchronous, server, price) for name in package.__all__}
    return {name: value for name, value in found.items() if issubclass(_made_by(value), Kind)}


def _made_by(value: Any) -> type:
    """The class of what a class, or a function that says what it returns, makes."""
    made = value if inspect.isclass(value) else typing.get_type_hints(value).get("return")
    return made if inspect.isclass(made) else type(None)


class RunTable(Table):
    """`[run]`: how long, with which random numbers, in which precision and where."""

    rounds: int = Field(1000, ge=0, description="a whole number ≥ 0")
    seed: int = Field(0, ge=0, description="a whole number ≥ 0")
    dtype: Literal["float64", "float32"] = Field("float64", description='"float64" or "float32"')
    engine: Literal[tuple(ENGINES)] = Field("simulated", description=f"one of {', '.join(ENGINES)}")  # pyright: ignore
    buffer: int = Field(1, ge=1, description="a whole number ≥ 1, the messages of one update of the event-driven engine")
    staleness: float = Field(0.0, ge=0, description="a number ≥ 0, by which the event-driven engine discounts late messages")
    deterministic: bool = Field(False, description="true or false")
    every: int | None = Field(None, ge=1, description="a whole number ≥ 1")
    report: list[str] = Field([], description="a list of names of the agents' Info")
    reference: bool | None = Field(None, description="true or false")

    def made_engine(self) -> Any:
        """The engine with its parameters."""
        if self.engine == "event-driven":
            return EventDriven(buffer=self.buffer, staleness=self.staleness)
        for name in self.given().keys() & {"buffer", "staleness"}:
            raise Mistake(
                f'run.{name}: got {shown(getattr(self, name))}, expected nothing: only engine = "event-driven" has it'
            )
        return self.engine


class AlgorithmTable(NamedTuple):
    """`[algorithm]`: a class, or a function that makes one of it, and its hyper-parameters."""

    kind: Callable[..., Kind]
    table: Table

    @property
    def has_server(self) -> bool:
        """Whether it has a server, or else a network."""
        return issubclass(_made_by(self.kind), ServerAlgorithm)

    @property
    def has_rounds(self) -> bool:
        """Whether it goes in rounds, or else by each agent's own clock."""
        return not issubclass(_made_by(self.kind), AsynchronousAlgorithm)

    @property
    def sets_prices(self) -> bool:
        """Whether it is for coupled problems."""
        return "prices" in _made_by(self.kind).handles

    def build(self) -> Kind:
        """The algorithm.

        Raises:
            Mistake: it refuses its hyper-parameters.
        """
        return made("algorithm", self.kind, self.table)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """An experiment whose names and types are checked, and nothing of which is built yet. Made by `load`.

    Attributes:
        name: of the file, without its ending.
        base: the folder that relative paths start from.
        source: the text of the file.
        problem, network, algorithm, stop, settings, fleet, clocks, aggregate, adversary, privacy: its tables; `settings` is
            `[run]`. Peers have a network, an algorithm with a server may have a fleet, one without rounds may have clocks.
        pipelines: of "link", "uplink" and "downlink" those that the file has.
        deploy: `[deploy]`, of which a simulated run takes no notice.
    """

    name: str
    base: Path
    source: str
    problem: ProblemTable
    network: NetworkTable | None
    algorithm: AlgorithmTable
    stop: Table | None
    settings: RunTable
    fleet: Table | None = None
    clocks: Table | None = None
    pipelines: dict[str, StageTable] = dataclasses.field(default_factory=dict)
    aggregate: Choice | None = None
    adversary: Choice | None = None
    privacy: Table | None = None
    deploy: DeployTable | None = None

    @property
    def content(self) -> dict[str, Any]:
        """Plain data, without comments, order and what is left at its default: equal experiments have equal content."""
        content = {
            "problem": {"kind": self.problem.kind} | self.problem.given(),
            "algorithm": {"name": self.algorithm.kind.__name__} | self.algorithm.table.given(),
            "run": self.settings.given(),
        }
        for name in ("network", "stop", "fleet", "clocks", "aggregate", "adversary", "privacy"):
            table = getattr(self, name)
            content |= {} if table is None else {name: table.given()}
        return content | {name: pipeline.given() for name, pipeline in self.pipelines.items()}

    @property
    def hash(self) -> str:
        """SHA-256 of the content; records in a file enter by what they are, not by where they lie."""
        content = self.content
        contents = records.digest(getattr(self.problem, "data", None), self.base)
        if contents is not None:
            content["problem"] |= {"data": contents}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def sites(self) -> tuple[str, ...]:
        """The names of those that hold the pieces, in order: the file's, or else the data's own.

        Raises:
            Mistake: neither names them.
        """
        if self.deploy is not None:
            return self.deploy.agents
        names = _checked("problem", self.problem.agent_names, self.base)
        if names is None:
            raise missing("deploy", "a table [deploy] with sites")
        _checked("problem", check_names, names)
        return names

    @property
    def server(self) -> str | None:
        """The name of the site that leads; None of peers."""
        if not self.algorithm.has_server:
            return None
        return SERVER if self.deploy is None else self.deploy.server

    @property
    def everybody(self) -> tuple[str, ...]:
        """The names of all sites, of the one that leads among them."""
        return self.sites if self.server is None else (self.server, *self.sites)

    @property
    def shared(self) -> dict[str, Any]:
        """What all sites of a deployed run must have in common, Thalweg's version among it: not where each has its own records, or
        can be reached."""
        content, run = self.content, self.settings
        content["problem"].pop("data", None)
        content["run"] = {key: getattr(run, key) for key in ("rounds", "seed", "dtype", "deterministic", "every")}
        if run.engine == "event-driven":  # a server that does not wait
            content["run"] |= {key: getattr(run, key) for key in ("engine", "buffer", "staleness")}
        return content | {"sites": self.sites, "server": self.server, "version": __version__}

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

        With `dtype = "float64"` JAX's 64-bit mode is switched on, for the whole process. After `thalweg.distribute`, on the sharded
        engine, process 0 alone writes to the folder; the others, to resume, read it.

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
        hosts = here() if self.settings.engine == Sharded.name else Hosts()
        folder = RunFolder(Path(hosts.text(str(RunFolder.fresh(RUNS, self.name)))) if out is None else Path(out))
        if folder.started and not resume:
            raise ValueError(f"{folder} already holds a run: `thalweg resume {folder}` continues it, or choose another folder")
        stated = problems.build(self.problem, self.base, np.dtype(self.settings.dtype))
        algorithm, stop = self.algorithm.build(), None if self.stop is None else made("stop", Stop, self.stop)
        around = (
            self._with_server(algorithm, stated.problem.n) if self.network is None else self._with_network(algorithm, stated)
        )
        around |= {name: pipeline.build() for name, pipeline in self.pipelines.items()}
        central = self._reference(stated.problem)
        with contextlib.ExitStack() as around_run:
            if hosts.leads:
                about = self.name, self.base, self.source, self.content, self.hash
                around_run.enter_context(folder.starting(*about))
            result = solve(
                stated.problem,
                algorithm,
                rounds=self.settings.rounds,
                stop=stop,
                seed=self.settings.seed,
                every=self.settings.every,
                engine=self.engine(),
                deterministic=self.settings.deterministic,
                reference=central,
                **around,
                **self._protection(),
                checkpoint=folder.path,
                resume=resume,
                progress=progress,
            )
        hosts.together(lambda: hosts.leads and folder.write(result, stated.score(result)))
        return result, folder

    def engine(self) -> Any:
        """The engine of a simulated run with its parameters.

        Raises:
            Mistake: an engine that the algorithm does not run on.
        """
        if self.algorithm.has_rounds:
            return self.settings.made_engine()
        name, given = self.algorithm.kind.__name__, self.settings.given()
        if given.get("engine") == EventDriven.name:
            del given["engine"]
        for key in given.keys() & {"engine", "buffer", "staleness", "report"}:
            raise Mistake(
                f"run.{key}: got {shown(given[key])}, expected nothing: {name} has no rounds, and runs on the event-driven engine "
                "with [clocks]"
            )
        return EventDriven(clocks=self.made_clocks())

    def made_clocks(self) -> Clocks | None:
        """The clocks of a run without rounds; None where the file has none.

        Raises:
            Mistake: the table is refused.
        """
        return None if self.clocks is None else made("clocks", Clocks, self.clocks, base=self.base)

    def _with_network(self, algorithm: Any, stated: problems.Stated) -> dict[str, Any]:
        """What `solve` is told about peers."""
        assert self.network is not None
        network = self.network.build(stated.problem.n, self.base)
        _checked("network", refusals.check_sizes, stated.problem, network)
        _checked("algorithm", refusals.check_steps, algorithm, stated.problem.n)
        return {"network": network, "report": tuple(self.settings.report)}

    def _with_server(self, algorithm: Any, n: int) -> dict[str, Any]:
        """What `solve` is told about clients."""
        _checked("algorithm.cohort", refusals_server.cohort_of, algorithm, n)
        return {"fleet": None if self.fleet is None else made("fleet", Fleet, self.fleet, n=n, base=self.base)}

    def _protection(self) -> dict[str, Any]:
        """What `solve` is told about aggregator, adversary and privacy."""
        budget = None if self.privacy is None else made("privacy", Budget, self.privacy)
        return {"privacy": budget} | {
            name: None if table is None else _checked(name, table.build)
            for name, table in (("aggregate", self.aggregate), ("adversary", self.adversary))
        }

    def _reference(self, problem: Problem | Coupled) -> Reference | None:
        """The central solution: unless it is said otherwise, of all but coupled problems, whose results have a certificate."""
        asked = self.settings.reference
        if not (not self.algorithm.sets_prices if asked is None else asked):
            return None
        try:
            return reference(problem)
        except (RuntimeError, ValueError) as error:
            raise Mistake(f"run.reference: got true, but there is {error}; or write reference = false") from error


def made(where: str, kind: Callable, table: Table, **known: Any) -> Any:
    """What `kind` makes of its table and of what is `known`; what it refuses is a mistake in the file."""
    return _checked(where, lambda: kind(**arguments(kind, table, **known)))


def _checked(where: str, function: Callable, *args: Any) -> Any:
    """`function(*args)`; what it refuses is a mistake in table `where` of the file."""
    try:
        return function(*args)
    except (ValueError, TypeError, OSError) as error:
        raise named(where, error) from error
