"""`[link]`, `[uplink]`, `[downlink]`: stages of `thalweg.message` by their names, with their own arguments.

One stage is a table; a list of tables is a chain. A stage around another one has it as a table, or a list, of its own:

    [uplink]
    kind = "error_feedback"
    stage = [{ kind = "top_k", fraction = 0.01 }, { kind = "quantise", bits = 8 }]
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from thalweg import message
from thalweg.message import Stage

from .mistakes import missing, named, read, unknown_key, unknown_name, wrong
from .signature import Table, arguments, kinds, makers, parameters, table_of

PIPELINES = ("link", "uplink", "downlink")


def builders() -> dict[str, Callable[..., Stage]]:
    """Name → function of every stage; a chain is written as a list."""
    return {name: builder for name, builder in makers(Stage).items() if builder is not message.chain}


@dataclasses.dataclass(frozen=True)
class StageTable:
    """A table that describes a stage, checked but not built.

    Attributes:
        where: its path in the file, for messages.
        kind: name of the builder; "chain" of a list.
        arguments: what the file gives to the builder; None of a chain.
        parts: argument → the stage there; of a chain, number → stage.
    """

    where: str
    kind: str
    arguments: Table | None
    parts: dict[str, "StageTable"]

    @staticmethod
    def read(table: Any, where: str) -> "StageTable":
        """The table, or list of tables, at `where`.

        Raises:
            Mistake: an unknown stage or argument, a missing one, or a value of the wrong type.
        """
        if isinstance(table, list) and table:
            parts = {str(k): StageTable.read(one, f"{where}[{k}]") for k, one in enumerate(table)}
            return StageTable(where, "chain", None, parts) if len(parts) > 1 else parts["0"]
        if not isinstance(table, dict):
            raise wrong(where, table, f"a table [{where}], or a list of tables, one for each stage")
        known = builders()
        if "kind" not in table:
            raise missing(f"{where}.kind", f"one of {', '.join(known)}")
        if table["kind"] not in known:
            raise unknown_name(f"{where}.kind", table["kind"], known)
        builder, given = known[table["kind"]], {key: value for key, value in table.items() if key != "kind"}
        inner = _stages(builder)
        for key in given:
            if key not in kinds(builder):
                raise unknown_key(where, key, ["kind", *kinds(builder)])
        for key in inner:
            if key not in given:
                raise missing(f"{where}.{key}", "a table that describes a stage, or a list of them")
        plain = {key: value for key, value in given.items() if key not in inner}
        parts = {key: StageTable.read(given[key], f"{where}.{key}") for key in inner}
        return StageTable(where, table["kind"], read(table_of(builder, optional=inner), plain, where), parts)

    def given(self) -> Any:
        """Its plain content, without what is left at its default."""
        inside = {key: part.given() for key, part in self.parts.items()}
        return list(inside.values()) if self.arguments is None else {"kind": self.kind, **self.arguments.given(), **inside}

    def build(self) -> Stage:
        """The stage.

        Raises:
            Mistake: the builder refuses its arguments, or what they are put around or behind.
        """
        parts = {key: part.build() for key, part in self.parts.items()}
        try:
            if self.arguments is None:
                return message.chain(*parts.values())
            builder = builders()[self.kind]
            return builder(**arguments(builder, self.arguments), **parts)
        except (ValueError, TypeError) as error:
            raise named(self.where, error) from error


def _stages(builder: Callable) -> tuple[str, ...]:
    """The arguments of a builder that are stages."""
    return tuple(name for name, parameter in parameters(builder).items() if parameter.annotation is Stage)
