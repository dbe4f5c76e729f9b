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

An algorithm with a server (thalweg.server) has no [network], and may have a [fleet]: the arguments of thalweg.Fleet.

What may stand in a table is read off the signature of what it describes; see `thalweg.experiment.signature`.
"""

import tomllib
from pathlib import Path
from typing import Any

from thalweg.engine import Stop
from thalweg.fleet import Fleet

from .experiment import AlgorithmTable, Experiment, RunTable, algorithms
from .folder import RunFolder
from .mistakes import Mistake, missing, read, shown, unknown_key, unknown_name, wrong
from .networks import NetworkTable
from .problems import KINDS, ProblemTable
from .signature import KNOWN, read_table

TABLES = ("problem", "network", "algorithm", "stop", "run", "fleet")


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
    _check_surroundings(tables, algorithm, settings)
    return Experiment(
        name=name,
        base=base,
        source=source,
        problem=_problem(tables["problem"]),
        network=NetworkTable.read(tables["network"]) if "network" in tables else None,
        algorithm=algorithm,
        stop=read_table(Stop, tables["stop"], "stop") if "stop" in tables else None,
        settings=settings,
        fleet=_fleet(tables["fleet"]) if "fleet" in tables else None,
    )


def _check_surroundings(tables: dict[str, Any], algorithm: AlgorithmTable, settings: RunTable) -> None:
    """Peers have a network; clients of a server have none, and may have a fleet."""
    name = algorithm.kind.__name__
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
            f"network: got a table [network], expected none: {name} has a server; who takes part is algorithm.cohort, and the "
            "devices are [fleet]"
        )
    if settings.report:
        raise Mistake(
            f"run.report: got {shown(settings.report)}, expected nothing: {name} has a server, and no peers that report"
        )


def _fleet(table: Any) -> Any:
    if isinstance(table, dict) and "n" in table:
        raise Mistake("fleet.n: got a number of devices, expected nothing: every client of the problem has one")
    return read_table(Fleet, table, "fleet", KNOWN)


def _problem(table: Any) -> ProblemTable:
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
