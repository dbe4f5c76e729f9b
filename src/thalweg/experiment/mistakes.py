"""What a user may get wrong in an experiment file, said as: key path, got, expected, nearest valid name."""

import json
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError

from thalweg.engine.refusals import nearest


class Mistake(ValueError):
    """An experiment file that cannot be run; the message names the key."""


def unknown_name(where: str, got: Any, known: Iterable[str]) -> Mistake:
    """`got` is none of the `known` names."""
    known = list(known)
    return Mistake(f"{where}: got {shown(got)}, expected one of {', '.join(known)}{nearest(str(got), known)}")


def unknown_key(where: str, key: str, known: Iterable[str]) -> Mistake:
    """Table `where` has a `key` that is none of the `known` ones; `where` is empty for the file itself."""
    known, what = list(known), "key" if where else "table"
    path = f"{where}.{key}" if where else key
    return Mistake(f"{path}: got an unknown {what}, expected one of {', '.join(known)}{nearest(key, known)}")


def missing(where: str, expected: str) -> Mistake:
    """Nothing stands where something has to."""
    return Mistake(f"{where}: got nothing, expected {expected}")


def wrong(where: str, got: Any, expected: str) -> Mistake:
    """A value of the wrong type, or out of bounds."""
    return Mistake(f"{where}: got {shown(got)}, expected {expected}")


def named(where: str, error: Exception) -> Mistake:
    """An error of the library itself, with the table it belongs to."""
    return Mistake(f"{where}: {error}")


def shown(value: Any) -> str:
    """A value as it stands in the file, shortened."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"


def read(model: type[BaseModel], table: Any, where: str) -> BaseModel:
    """`table` as `model`.

    Every field of `model` has a description, which says what is expected in it.

    Raises:
        Mistake: the first mistake in the table: an unknown key before a missing one, before a wrong value.
    """
    if not isinstance(table, dict):
        raise wrong(where, table, f"a table [{where}]")
    try:
        return model.model_validate(table)
    except ValidationError as error:
        raise _first(error, model, table, where) from None


def fields(model: type[BaseModel]) -> dict[str, str]:
    """Key in the file → what is expected there."""
    return {field.alias or name: field.description or "" for name, field in model.model_fields.items()}


def _first(error: ValidationError, model: type[BaseModel], table: dict, where: str) -> Mistake:
    rank = {"extra_forbidden": 0, "missing": 1}
    # A key inside a table that may also be something else (a number, a list) is named by the table's own key.
    first = min(error.errors(), key=lambda e: rank.get(e["type"], 2) if len(e["loc"]) == 1 else 2)
    key, expected, context = str(first["loc"][0]) if first["loc"] else "", fields(model), first.get("ctx", {})
    path = f"{where}.{key}" if where else key
    if first["type"] == "extra_forbidden" and key not in expected:
        return unknown_key(where, key, expected)
    if first["type"] == "missing" and key not in table:
        return missing(path, expected[key])
    if not key:
        return Mistake(f"{where}: {context['error']}")
    if first["type"] == "value_error":
        return Mistake(f"{path}: got {shown(table[key])}, {context['error']}")
    got, choices = table[key], context.get("expected") if first["type"] == "literal_error" else None
    hint = nearest(got, choices.replace(" or ", ", ").replace("'", "").split(", ")) if choices and isinstance(got, str) else ""
    return Mistake(f"{path}: got {shown(got)}, expected {expected[key]}{hint}")
