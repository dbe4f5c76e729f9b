"""Tables of the experiment file made from signatures: what an algorithm or a builder accepts, its table accepts.

Nothing is listed by hand: a new algorithm, a new builder or a new argument can be written in a file the day it is exported.
"""

import dataclasses
import functools
import importlib
import inspect
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, get_args, get_origin

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import AbstractArray
from pydantic import BaseModel, ConfigDict, Field, create_model

from thalweg.algorithm.step import PerAgent
from thalweg.network import Network

from .mistakes import missing, read, unknown_name, wrong


class Table(BaseModel):
    """A table of the file: unknown keys are refused, and nothing is converted silently."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=(), arbitrary_types_allowed=True
    )

    def given(self) -> dict[str, Any]:
        """Key → plain value, without what is left at its default; equal content gives equal dictionaries."""
        return self.model_dump(by_alias=True, exclude_defaults=True)


class Kind(NamedTuple):
    """How an annotation reads in a file: the type that accepts it, in words, and what makes the argument of it.

    `makers` has, by name, what can make the argument where a table `{ kind = "name", … }` stands for it.
    """

    accepts: Any
    words: str
    convert: Callable[[Any], Any] = lambda value: value
    makers: dict[str, Callable] = {}


PLAIN = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}


@functools.cache
def parameters(target: Callable) -> dict[str, inspect.Parameter]:
    """The parameters of a function, or of a class, with their annotations resolved."""
    import networkx

    signature = inspect.signature(target)
    hints = typing.get_type_hints(target, localns={"nx": networkx})
    if dataclasses.is_dataclass(target) and signature.parameters.keys() - {field.name for field in dataclasses.fields(target)}:
        # An __init__ of its own says what the class takes; fields say what becomes of it.
        hints |= typing.get_type_hints(target.__init__)
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


def read_table(target: Callable, table: Any, where: str, optional: tuple[str, ...] = ()) -> Table:
    """The table at `where` as the arguments of `target`; so are the tables in it that say what makes an argument.

    Raises:
        Mistake: the first mistake, with the path of its key.
    """
    if isinstance(table, dict):
        table = {key: _read_choice(kinds(target).get(key), value, f"{where}.{key}") for key, value in table.items()}
    return read(table_of(target, optional), table, where)


def _read_choice(kind: Kind | None, value: Any, where: str) -> Any:
    """A table `{ kind = "name", … }` without what is left at its default; anything else as it is."""
    if kind is None or not kind.makers or not isinstance(value, dict):
        return value
    if "kind" not in value:
        raise missing(f"{where}.kind", f"one of {', '.join(kind.makers)}")
    name = value["kind"]
    if not isinstance(name, str) or name not in kind.makers:
        raise unknown_name(f"{where}.kind", name, kind.makers)
    given = {key: part for key, part in value.items() if key != "kind"}
    return {"kind": name, **read_table(kind.makers[name], given, where, optional=KNOWN).given()}


def arguments(target: Callable, table: Table, **known: Any) -> dict[str, Any]:
    """The arguments that `table` gives to `target`; what was left out is left to the target's own default.

    `known` are arguments that a file need not give, here and in tables inside: `n`. Relative paths start from `known["base"]`.
    """
    given, made = table.given(), {}
    for name, kind in kinds(target).items():
        if name not in given:
            continue
        value = given[name]
        if kind.makers and isinstance(value, dict):
            made[name] = _make(kind.makers[value["kind"]], value, known)
        else:
            value = kind.convert(value)
            made[name] = known["base"] / value if isinstance(value, Path) and "base" in known else value
    wanted = [name for name in KNOWN if name in known and name in parameters(target) and name not in made]
    return made | {name: known[name] for name in wanted}


def _make(maker: Callable, value: dict[str, Any], known: dict[str, Any]) -> Any:
    table = table_of(maker, KNOWN).model_validate({key: part for key, part in value.items() if key != "kind"})
    return maker(**arguments(maker, table, **known))


class Choice(NamedTuple):
    """A table `[name]` that says by its `kind` what makes a `hint`; `value` has its keys, `kind` among them."""

    hint: type
    value: dict[str, Any]

    def given(self) -> dict[str, Any]:
        """As it stands in the file, without what is left at its default."""
        return self.value

    def build(self, **known: Any) -> Any:
        """What it describes."""
        return _make(makers(self.hint)[self.value["kind"]], self.value, known)


def read_choice(hint: type, table: Any, where: str) -> Choice:
    """The table at `where` as what makes a `hint`.

    Raises:
        Mistake: the first mistake, with the path of its key.
    """
    if not isinstance(table, dict):
        raise wrong(where, table, f"a table [{where}]")
    return Choice(hint, _read_choice(kind_of(hint), table, where))


# Optimisers of optax that a file may name; their learning rates are numbers there.
OPTIMIZERS: dict[str, Callable] = {
    name: getattr(optax, name)
    for name in ("sgd", "adam", "adamw", "adagrad", "yogi", "rmsprop", "adabelief", "nadam", "lion", "lamb")
}


# What the problem knows: a file may leave it out.
KNOWN = ("n",)


@functools.cache
def makers(hint: type) -> dict[str, Callable]:
    """Name → what makes a `hint`: the functions of its package that return one, or else its subclasses there."""
    package = importlib.import_module(hint.__module__.rpartition(".")[0])
    exported = {name: getattr(package, name) for name in getattr(package, "__all__", ())}
    is_one = lambda kind: inspect.isclass(kind) and issubclass(kind, hint)
    returned = lambda value: typing.get_type_hints(value).get("return") if inspect.isfunction(value) else None
    functions = {name: value for name, value in exported.items() if is_one(returned(value))}
    return functions or {n: v for n, v in exported.items() if is_one(v) and v is not hint and not inspect.isabstract(v)}


@functools.cache
def kind_of(hint: Any) -> Kind | None:
    """How a value of the annotation `hint` is written in a file; None where it cannot be."""
    origin = get_origin(hint)
    if hint in PLAIN:
        return Kind(hint, PLAIN[hint])
    if origin is Literal:
        return Kind(hint, f"one of {', '.join(map(repr, get_args(hint)))}".replace("'", '"'))
    if hint is Path:
        return Kind(str, "the path of a file", Path)
    if origin in (typing.Union, types.UnionType):
        # A path may be given as text.
        parts = [part for part in get_args(hint) if not (part is str and Path in get_args(hint))]
        return _union([kind for part in parts if (kind := kind_of(part)) is not None])
    if hint is optax.GradientTransformation:
        return Kind(dict[str, Any], f'a table {{ kind = "…", … }} with one of {", ".join(OPTIMIZERS)}', makers=OPTIMIZERS)
    if hint is Network:
        return Kind(dict[str, Any], "a table that describes a network")
    if origin is dict:
        one = kind_of(get_args(hint)[1])
        return None if one is None else Kind(dict[str, one.accepts], f"a table name = {one.words}")
    if origin is tuple and Ellipsis not in get_args(hint) and len(set(get_args(hint))) > 1:
        each = [kind_of(part) for part in get_args(hint)]
        accepts = functools.reduce(lambda a, b: a | b, (one.accepts for one in each))
        return Kind(list[accepts], f"a list [{', '.join(one.words for one in each)}]", tuple)
    if origin in (tuple, list, Sequence):
        one = kind_of(get_args(hint)[0])
        return None if one is None else Kind(list[one.accepts], f"a list, each entry {one.words}", _listed(origin, one))
    if inspect.isclass(hint) and issubclass(hint, AbstractArray) and hint.dim_str == "m":
        return Kind(list[float], "a list with one number per row", lambda value: jnp.asarray(value, float))
    if hint is PerAgent:
        return Kind(list[float], "a list with one number per agent", lambda value: PerAgent(np.asarray(value, float)))
    if inspect.isclass(hint) and hint.__module__.startswith("networkx"):
        return Kind(str, "the path of a .graphml, .gml, .edgelist or .adjlist file")
    if hint is Any:
        return Kind(Any, "text or a list")
    if inspect.isclass(hint) and dataclasses.is_dataclass(hint) and makers(hint):
        return Kind(dict[str, Any], f'a table {{ kind = "…", … }} with one of {", ".join(makers(hint))}', makers=makers(hint))
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
    made = {name: maker for part in parts for name, maker in part.makers.items()}
    return Kind(accepts, ", or ".join(dict.fromkeys(part.words for part in parts)), convert, made)


def _fits(value: Any, kind: Kind) -> bool:
    """Which member of a union a value that pydantic accepted belongs to."""
    container = get_origin(kind.accepts) or kind.accepts
    if inspect.isclass(container) and issubclass(container, BaseModel):
        return isinstance(value, dict)
    if container in (list, dict):
        return isinstance(value, container)
    return not isinstance(value, list | dict)
