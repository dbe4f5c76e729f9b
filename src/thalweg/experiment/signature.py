"""Tables of the experiment file made from signatures: what an algorithm or a builder accepts, its table accepts.

Nothing is listed by hand: a new algorithm, a new builder or a new argument can be written in a file the day it is exported.
"""

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, get_args, get_origin

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, create_model

from thalweg.algorithm.step import PerAgent
from thalweg.network import Network


class Table(BaseModel):
    """A table of the file: unknown keys are refused, and nothing is converted silently."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=(), arbitrary_types_allowed=True
    )

    def given(self) -> dict[str, Any]:
        """Key → plain value, without what is left at its default; equal content gives equal dictionaries."""
        return self.model_dump(by_alias=True, exclude_defaults=True)


class Kind(NamedTuple):
    """How an annotation reads in a file: the type that accepts it, in words, and what makes the argument of it."""

    accepts: Any
    words: str
    convert: Callable[[Any], Any] = lambda value: value


PLAIN = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}


@functools.cache
def parameters(target: Callable) -> dict[str, inspect.Parameter]:
    """The parameters of a function, or the fields of a class, with their annotations resolved."""
    import networkx

    signature = inspect.signature(target)
    hints = typing.get_type_hints(target, localns={"nx": networkx})
    return {
        name: parameter.replace(annotation=hints.get(name, Any))
        for name, parameter in signature.parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }


@functools.cache
def kinds(target: Callable) -> dict[str, Kind]:
    """Parameter → how it is written in a file; parameters that no file can hold are left out."""
    found = {name: kind_of(parameter.annotation) for name, parameter in parameters(target).items()}
    return {name: kind for name, kind in found.items() if kind is not None}


@functools.cache
def table_of(target: Callable, optional: tuple[str, ...] = ()) -> type[Table]:
    """The table whose keys are the parameters of `target`; those in `optional` may be left out, whatever `target` says."""
    entries = {}
    for name, kind in kinds(target).items():
        default = parameters(target)[name].default
        required = default is inspect.Parameter.empty and name not in optional
        default = None if default is inspect.Parameter.empty else default
        field = Field(... if required else default, alias=name, description=kind.words)
        # The prefix keeps an argument from hiding a method of pydantic's (`copy`, `json`, …).
        entries[f"key_{name}"] = (kind.accepts if required else kind.accepts | None, field)
    return create_model(f"{target.__name__}Table", __base__=Table, **entries)


def arguments(target: Callable, table: Table) -> dict[str, Any]:
    """The arguments that `table` gives to `target`; what was left out is left to the target's own default."""
    given = table.given()
    return {name: kind.convert(given[name]) for name, kind in kinds(target).items() if name in given}


@functools.cache
def kind_of(hint: Any) -> Kind | None:
    """How a value of the annotation `hint` is written in a file; None where it cannot be."""
    origin = get_origin(hint)
    if hint in PLAIN:
        return Kind(hint, PLAIN[hint])
    if origin is Literal:
        return Kind(hint, f"one of {', '.join(map(repr, get_args(hint)))}".replace("'", '"'))
    if origin in (typing.Union, types.UnionType):
        return _union([kind for part in get_args(hint) if (kind := kind_of(part)) is not None])
    if hint is Network:
        return Kind(dict[str, Any], "a table that describes a network")
    if origin in (tuple, list, Sequence):
        one = kind_of(get_args(hint)[0])
        return None if one is None else Kind(list[one.accepts], f"a list, each entry {one.words}", _listed(origin, one))
    if hint is PerAgent:
        return Kind(list[float], "a list with one number per agent", lambda value: PerAgent(np.asarray(value, float)))
    if inspect.isclass(hint) and hint.__module__.startswith("networkx"):
        return Kind(str, "the path of a .graphml, .gml, .edgelist or .adjlist file")
    if hint is Any:
        return Kind(Any, "text or a list")
    if inspect.isclass(hint) and dataclasses.is_dataclass(hint):
        table = table_of(hint)
        return Kind(table, f"a table {{ {', '.join(f'{name} = …' for name in kinds(hint))} }}", lambda given: hint(**given))
    return None


def _listed(origin: Any, one: Kind) -> Callable[[Any], Any]:
    make = list if origin is list else tuple
    return lambda values: make(one.convert(value) for value in values)


def _union(parts: list[Kind]) -> Kind | None:
    if not parts:
        return None

    def convert(value: Any) -> Any:
        return next(part for part in parts if _fits(value, part)).convert(value)

    accepts = functools.reduce(lambda a, b: a | b, (part.accepts for part in parts))
    return Kind(accepts, ", or ".join(dict.fromkeys(part.words for part in parts)), convert)


def _fits(value: Any, kind: Kind) -> bool:
    """Which member of a union a value that pydantic accepted belongs to."""
    container = get_origin(kind.accepts) or kind.accepts
    if inspect.isclass(container) and issubclass(container, BaseModel):
        return isinstance(value, dict)
    if container in (list, dict):
        return isinstance(value, container)
    return not isinstance(value, list | dict)
