"""`[network]`: any builder of `thalweg.network` by its name, with its own arguments; networks of networks are nested tables."""

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from thalweg import network as networks
from thalweg.network import Failures, Network

from .mistakes import Mistake, missing, named, read, unknown_key, unknown_name, wrong
from .signature import Table, arguments, kinds, parameters, table_of

READERS = {".graphml": "read_graphml", ".gml": "read_gml", ".edgelist": "read_edgelist", ".adjlist": "read_adjlist"}
OWN_KEYS = ("kind", "failures")


def builders() -> dict[str, Callable[..., Network]]:
    """Name → function of every exported builder."""
    return {name: getattr(networks, name) for name in networks.__all__ if inspect.isfunction(getattr(networks, name))}


@dataclasses.dataclass(frozen=True)
class NetworkTable:
    """A table that describes a network, checked but not built.

    Attributes:
        where: its path in the file, for messages.
        kind: name of the builder.
        arguments: what the file gives to the builder.
        parts: argument → tables of the networks that this one is made of.
        failures: what `Network.with_failures` gets.
    """

    where: str
    kind: str
    arguments: Table
    parts: dict[str, "NetworkTable | list[NetworkTable]"]
    failures: Table | None

    @staticmethod
    def read(table: Any, where: str = "network") -> "NetworkTable":
        """The table at `where`.

        Raises:
            Mistake: an unknown builder or argument, a missing one, or a value of the wrong type.
        """
        if not isinstance(table, dict):
            raise wrong(where, table, f"a table [{where}]")
        if "kind" not in table:
            raise missing(f"{where}.kind", f"one of {', '.join(builders())}")
        if table["kind"] not in builders():
            raise unknown_name(f"{where}.kind", table["kind"], builders())
        builder = builders()[table["kind"]]
        for key in table:
            if key not in OWN_KEYS and key not in kinds(builder):
                raise unknown_key(where, key, [*OWN_KEYS, *kinds(builder)])
        given = {key: value for key, value in table.items() if key not in OWN_KEYS}
        return NetworkTable(
            where=where,
            kind=table["kind"],
            arguments=read(table_of(builder, optional=("n",)), given, where),
            parts={key: _part(given[key], f"{where}.{key}") for key in _networks(builder) if key in given},
            failures=read(table_of(Failures), table["failures"], f"{where}.failures") if "failures" in table else None,
        )

    def given(self) -> dict[str, Any]:
        """Its plain content, without what is left at its default."""
        content = {"kind": self.kind, **self.arguments.given()}
        for key, part in self.parts.items():
            content[key] = [one.given() for one in part] if isinstance(part, list) else part.given()
        return content if self.failures is None else content | {"failures": self.failures.given()}

    def build(self, n: int, base: Path) -> Network:
        """The network; `n` agents where the builder asks for a number and the file gives none.

        Raises:
            Mistake: the builder refuses its arguments.
        """
        builder = builders()[self.kind]
        values = arguments(builder, self.arguments)
        for key, part in self.parts.items():
            values[key] = [one.build(n, base) for one in part] if isinstance(part, list) else part.build(n, base)
        size = parameters(builder).get("n")
        if size is not None and size.default is inspect.Parameter.empty:
            values.setdefault("n", n)
        if self.kind == "from_networkx":
            values["graph"] = _read_graph(f"{self.where}.graph", base / values["graph"])
        try:
            network = builder(**values)
        except (ValueError, TypeError, ImportError) as error:
            raise named(self.where, error) from error
        try:
            return network if self.failures is None else network.with_failures(**arguments(Failures, self.failures))
        except (ValueError, TypeError) as error:
            raise named(f"{self.where}.failures", error) from error


def _networks(builder: Callable) -> list[str]:
    """The arguments that are networks, or lists of them."""
    return [name for name, kind in kinds(builder).items() if kind.accepts in (dict[str, Any], list[dict[str, Any]])]


def _part(value: Any, where: str) -> NetworkTable | list[NetworkTable]:
    if isinstance(value, list):
        return [NetworkTable.read(one, f"{where}[{k}]") for k, one in enumerate(value)]
    return NetworkTable.read(value, where)


def _read_graph(where: str, path: Path) -> Any:
    """A networkx graph from a file."""
    import networkx

    if path.suffix not in READERS or not path.is_file():
        raise wrong(where, str(path), f"an existing {', '.join(READERS)} file")
    try:
        return getattr(networkx, READERS[path.suffix])(path)
    except (ValueError, TypeError, networkx.NetworkXException, SyntaxError) as error:
        raise Mistake(f"{where}: {path} cannot be read as {path.suffix}: {error}") from error
