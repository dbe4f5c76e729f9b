"""The experiment file: problem, network, algorithm, stop rule and run in one TOML file.

For example
    [problem]                           # what is minimised, and whose records
    kind = "logistic_regression"
    data = "heart_disease"
    l2 = 0.03

    [network]                           # any builder of thalweg.network, with its arguments
    kind = "ring"

    [algorithm]                         # any algorithm, with its hyper-parameters
    name = "GradientTracking"

    [stop]                              # the arguments of thalweg.Stop; left out, all rounds are done
    progress = 1e-8

    [run]
    rounds = 5000

An algorithm without rounds (thalweg.asynchronous) may have [clocks]: the arguments of thalweg.Clocks.

An algorithm with a server (thalweg.server) or a price-setter (thalweg.price) has no [network], and may have a [fleet]: the
arguments of thalweg.Fleet. Price algorithms are for coupled problems: kind = "allocation", "bids" or "network_utility".

What is done to messages is a stage of thalweg.message, or a list of stages: [link] between peers, [uplink] and [downlink] with a
server; see `thalweg.experiment.pipelines`.
Any may have an [aggregate], what stands in place of the mean of messages, and an [adversary], who lies, each with a kind:
[aggregate] kind = "trimmed_mean", f = 0.2. `thalweg list aggregators`, `mixers` and `adversaries` name them. A run that adds noise
may have a budget, [privacy] epsilon = 2.0, delta = 1e-5.

[deploy] names the sites that run it as processes of their own; see `thalweg.experiment.deployment`.

What may stand in a table is read off the signature of what it describes; see `thalweg.experiment.signature`.
"""

import tomllib
from pathlib import Path
from typing import Any

from thalweg.adversary import Adversary
from thalweg.engine import Stop
from thalweg.fleet import Clocks, Fleet
from thalweg.message import Aggregator, Mixer
from thalweg.privacy import Budget

from .coupled import CoupledTable
from .deployment import DeployTable
from .experiment import AlgorithmTable, Experiment, RunTable, algorithms
from .folder import RunFolder
from .mistakes import Mistake, missing, read, shown, unknown_key, unknown_name, wrong
from .networks import NetworkTable
from .pipelines import PIPELINES, StageTable
from .problems import KINDS, ProblemTable
from .signature import KNOWN, read_choice, read_table

TABLES = (
    "problem",
    "network",
    "algorithm",
    "stop",
    "run",
    "fleet",
    "clocks",
    "aggregate",
    "adversary",
    "privacy",
    "deploy",
    *PIPELINES,
)


def load(path: str | Path) -> Experiment:
    """The experiment in the file `path`, with every name, key and type in it checked. Nothing is built yet.

    Raises:
        Mistake: naming the file, the key, what was got, what is expected, and the nearest valid name.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no experiment file {path}")
    try:
        source = path.read_text(encoding="utf-8")
        return parse(tomllib.loads(source), name=path.stem, base=path.parent.resolve(), source=source)
    except UnicodeDecodeError as error:
        raise Mistake(f"{path}: got bytes that are not UTF-8, expected a TOML file: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise Mistake(f"{path}: got a line that is not TOML: {error}") from None
    except Mistake as mistake:
        raise Mistake(f"{path}: {mistake}") from mistake.__cause__


def reopen(folder: str | Path) -> tuple[Experiment, RunFolder]:
    """The experiment that a run folder was made by, and the folder.

    Raises:
        FileNotFoundError: no run was started there.
    """
    run = RunFolder(Path(folder))
    made = run.experiment()
    experiment = parse(made["content"], name=made["name"], base=Path(made["base"]), source=made["source"])
    return experiment, run


def parse(tables: dict[str, Any], *, name: str, base: Path, source: str) -> Experiment:
    """The experiment that the parsed file `tables` describes.

    Raises:
        Mistake: without the name of the file.
    """
    for key in tables:
        if key not in TABLES:
            raise unknown_key("", key, TABLES)
    for key in ("problem", "algorithm"):
        if key not in tables:
            raise missing(key, f"a table [{key}]")
    algorithm = _algorithm(tables["algorithm"])
    settings = read(RunTable, tables.get("run", {}), "run")
    problem = _problem(tables["problem"])
    _check_prices(problem, algorithm)
    _check_surroundings(tables, algorithm, settings)
    if settings.reference is not algorithm.sets_prices:
        # What is done anyhow, said aloud.
        settings = settings.model_copy(update={"reference": None})
    return Experiment(
        name=name,
        base=base,
        source=source,
        problem=problem,
        network=NetworkTable.read(tables["network"]) if "network" in tables else None,
        algorithm=algorithm,
        stop=read_table(Stop, tables["stop"], "stop") if "stop" in tables else None,
        privacy=read_table(Budget, tables["privacy"], "privacy") if "privacy" in tables else None,
        settings=settings,
        fleet=_fleet(tables["fleet"]) if "fleet" in tables else None,
        clocks=read_table(Clocks, tables["clocks"], "clocks", KNOWN) if "clocks" in tables else None,
        pipelines={name: StageTable.read(tables[name], name) for name in PIPELINES if name in tables},
        aggregate=read_choice(Aggregator if algorithm.has_server else Mixer, tables["aggregate"], "aggregate")
        if "aggregate" in tables
        else None,
        adversary=read_choice(Adversary, tables["adversary"], "adversary") if "adversary" in tables else None,
        deploy=_deploy(tables["deploy"], algorithm) if "deploy" in tables else None,
    )


def _check_prices(problem: ProblemTable, algorithm: AlgorithmTable) -> None:
    """Coupled problems are for price algorithms, and the other way round."""
    coupled = isinstance(problem, CoupledTable)
    if coupled == algorithm.sets_prices:
        return
    name = algorithm.kind.__name__
    if coupled:
        expected = [known for known in algorithms() if AlgorithmTable(algorithms()[known], None).sets_prices]
        raise Mistake(
            f"algorithm.name: got {shown(name)}, expected one of {', '.join(expected)}: the problem {problem.kind!r} is "
            "coupled, and agents agree on a price, not on an answer"
        )
    expected = [kind for kind, table in KINDS.items() if issubclass(table, CoupledTable)]
    raise Mistake(
        f"problem.kind: got {shown(problem.kind)}, expected one of {', '.join(expected)}: {name} sets prices, which coupled "
        "problems have"
    )


def _check_surroundings(tables: dict[str, Any], algorithm: AlgorithmTable, settings: RunTable) -> None:
    """Peers have a network; clients of a server have none, and may have a fleet."""
    name = algorithm.kind.__name__
    setter = "price-setter" if algorithm.sets_prices else "server"
    for pipeline in PIPELINES:
        if pipeline in tables and algorithm.has_server == (pipeline == "link"):
            who, mend = (f"has a {setter}", "[uplink] and [downlink]") if algorithm.has_server else ("has no server", "[link]")
            raise Mistake(
                f"{pipeline}: got a table [{pipeline}], expected none: {name} {who}; what is done to messages is {mend}"
            )
    for other in ("link", "aggregate", "adversary", "privacy"):
        if other in tables and not algorithm.has_rounds:
            raise Mistake(f"{other}: got a table [{other}], expected none: {name} has no rounds, for which it is made")
    if "clocks" in tables and algorithm.has_rounds:
        raise Mistake(
            f"clocks: got a table [clocks], expected none: {name} goes in rounds; use AsynchronousADMM or AsynchronousPushSum"
        )
    if not algorithm.has_server:
        if "network" not in tables:
            raise missing("network", f"a table [network], in which {name} has its neighbours")
        if "fleet" in tables:
            raise Mistake(
                f"fleet: got a table [fleet], expected none: {name} has no server; what fails between peers is network.failures"
            )
        return
    if "network" in tables:
        raise Mistake(
            f"network: got a table [network], expected none: {name} has a {setter}; who takes part is algorithm.cohort, and the "
            "devices are [fleet]"
        )
    if settings.report:
        raise Mistake(
            f"run.report: got {shown(settings.report)}, expected nothing: {name} has a {setter}, and no peers that report"
        )


def _fleet(table: Any) -> Any:
    if isinstance(table, dict) and "n" in table:
        raise Mistake("fleet.n: got a number of devices, expected nothing: every client of the problem has one")
    return read_table(Fleet, table, "fleet", KNOWN)


def _deploy(table: Any, algorithm: AlgorithmTable) -> DeployTable:
    found = read(DeployTable, table, "deploy")
    found.check(algorithm.kind.__name__, algorithm.has_server)
    return found


def _problem(table: Any) -> ProblemTable:
    if isinstance(table, dict) and isinstance(table.get("kind"), str):
        table = table | {"kind": table["kind"].replace("-", "_")}
    kind = _name_in("problem", table, "kind", KINDS)
    return read(KINDS[kind], table, "problem")


def _algorithm(table: Any) -> AlgorithmTable:
    name = _name_in("algorithm", table, "name", algorithms())
    kind = algorithms()[name]
    given = {key: value for key, value in table.items() if key != "name"}
    return AlgorithmTable(kind, read_table(kind, given, "algorithm"))


def _name_in(where: str, table: Any, key: str, known: dict[str, Any]) -> str:
    """The entry of the table that says which of `known` it describes."""
    if not isinstance(table, dict):
        raise wrong(where, table, f"a table [{where}]")
    if key not in table:
        raise missing(f"{where}.{key}", f"one of {', '.join(known)}")
    if table[key] not in known:
        raise unknown_name(f"{where}.{key}", table[key], known)
    return table[key]
