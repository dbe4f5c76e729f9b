"""What a site tells the others of its own piece, once, before the first round.

Everything here is public: it goes to every site. No record is in it.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from thalweg.problem import Coupled, EmpiricalRisk
from thalweg.problem.coupling import heard
from thalweg.problem.pricing import Survey, survey
from thalweg.problem.scattered import Scattered


@dataclasses.dataclass(frozen=True)
class Card:
    """One site's.

    Attributes:
        name: of the site; run: hash of what it means to run.
        layout: structure, shapes and dtypes of x and of its data, without the number of examples.
        examples: m_i (1 where a local function is no mean over examples).
        weight: w_i up to a common factor.
        smoothness, strong_convexity: L_i and μ_i of its f_i; None where nobody needs them.
        survey: of a coupled problem, what is measured of its costs and quantities (the fields of a `pricing.Survey`, as lists).
        rows: of a coupled problem, which rows it touches, −1 for none; None: all.
        share: of a coupled problem, its part of their total; None: the whole, or an equal one if nobody has another.
        columns: names of the features of its data, where they have any.
    """

    name: str
    run: str
    layout: str
    examples: int = 1
    weight: float = 1.0
    smoothness: float | None = None
    strong_convexity: float | None = None
    survey: dict[str, Any] | None = None
    rows: list[int] | None = None
    share: list[float] | None = None
    columns: list[str] = dataclasses.field(default_factory=list)


def read_card(told: Any) -> Card:
    """A card that came over the wire as JSON.

    Raises:
        ValueError, TypeError: it is none.
    """
    card = Card(**told)
    try:
        good = _is_card(card)
    except OverflowError as error:
        raise ValueError(told) from error
    if not good:
        raise ValueError(told)
    return card


def _is_card(card: Card) -> bool:
    number = lambda value: isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    if card.survey is not None:
        fields = {field.name for field in dataclasses.fields(Survey)}
        if not (isinstance(card.survey, dict) and card.survey.keys() == fields):
            return False
        if not all(isinstance(part, dict) for part in card.survey.values()):
            return False
        survey_of(card)  # raises where there are no numbers
    listed = lambda values, good: values is None or (isinstance(values, list) and all(map(good, values)))
    return (
        # Texts are shown to people, and sent back to whoever is refused.
        all(isinstance(text, str) and text.isprintable() for text in (card.name, card.run, card.layout))
        and all(value is None or number(value) for value in (card.smoothness, card.strong_convexity))
        and (isinstance(card.examples, int) and number(card.examples) and 0 < card.examples < 2**31)
        and (number(card.weight) and 0 <= card.weight < math.inf)
        and listed(card.rows, lambda row: isinstance(row, int) and number(row) and -1 <= row < 2**31)
        and listed(card.share, number)
        and (isinstance(card.columns, list) and all(isinstance(text, str) and text.isprintable() for text in card.columns))
    )


def read_json(body: bytes | memoryview) -> Any:
    """What came over the wire as JSON.

    Raises:
        ValueError: it is none.
    """
    try:
        return json.loads(bytes(body))
    except RecursionError:
        raise ValueError("nested too deep") from None


def read_cards(told: Any, sites: Sequence[str]) -> list[Card]:
    """The cards of all sites, in order, that came over the wire as JSON.

    Raises:
        ValueError, TypeError: they are none.
    """
    cards = list(map(read_card, told))
    if [card.name for card in cards] != list(sites):
        raise ValueError(cards)
    return cards


def card_of(
    name: str, run: str, problem: Scattered, weight: float | None, constants: bool, columns: Sequence[str] = ()
) -> Card:
    """The card of the site that holds the one piece of `problem`.

    Args:
        weight: w_i up to a common factor; None: the number of examples, or 1 where there are none.
        constants: whether L_i and μ_i are needed.

    Raises:
        ValueError: the problem is not that of one site, or its constants are no numbers.
    """
    if problem.n != 1:
        raise ValueError(f"site {name!r}: got a problem of {problem.n} agents, expected the one piece that this site holds")
    if isinstance(problem, Coupled):
        coupling, (rows, share) = problem.coupling, (problem.pieces.rows, problem.pieces.share[0].tolist())
        whole = heard(coupling.initial, None if rows is None else rows[0]).tolist()
        return Card(
            name, run, layout(problem), survey=_listed(survey(problem)), columns=list(columns),
            rows=None if rows is None else rows[0].tolist(), share=None if share == whole else share,
        )  # fmt: skip
    examples = int(getattr(problem, "counts", [1])[0])
    weight = float(getattr(problem, "counts", [1.0])[0]) if weight is None else float(weight)
    if not (np.isfinite(weight) and weight >= 0):
        raise ValueError(f"site {name!r}: got weight {weight}, expected a finite number ≥ 0")
    found = (float(problem.smoothness[0]), float(problem.strong_convexity[0])) if constants else (None, None)
    return Card(name, run, layout(problem), examples, weight, *found, columns=list(columns))


def asks_for_constants(algorithm: Any) -> bool:
    """Whether an algorithm of peers may want L_i and μ_i."""
    return bool(algorithm.needs & {"smooth", "strongly_convex"}) or "constants" in algorithm.handles


def layout(problem: Scattered) -> str:
    """What must be alike between sites, for people to compare."""
    axes = 2 if isinstance(problem, EmpiricalRisk) else 1
    shown = lambda tree, skip: ", ".join(
        f"{jax.tree_util.keystr(path) or 'array'} {list(np.shape(leaf)[skip:])} {np.asarray(leaf).dtype}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    )
    touched = getattr(problem.pieces, "rows", None)
    rows = "" if touched is None else f"; touches {touched.shape[1]} rows"
    return f"{type(problem).__name__}: x {shown(problem.x0, 0)}; data {shown(problem.pieces.data, axes)}{rows}"


def survey_of(card: Card) -> Survey:
    """What a card says of the constants of a coupled problem."""
    arrays = {field: {name: np.asarray(value, float) for name, value in card.survey[field].items()} for field in card.survey}
    return Survey(**arrays | {"worst": {name: float(value) for name, value in arrays["worst"].items()}})


def misfit(mine: Card, card: Card, known: Card | None) -> str | None:
    """Why the site of `card` cannot take part beside that of `mine`, which may have `known` another card of it; None if it can."""
    if card.run != mine.run:
        return (
            f"site {card.name!r} has another experiment, of hash {card.run[:12]}; that of {mine.name!r} is {mine.run[:12]}: give "
            "all sites the same file, and the same version of Thalweg"
        )
    if card.columns != mine.columns:
        return f"site {card.name!r} has other features than {mine.name!r}: {_other_columns(card, mine)}: give both the same"
    if card.layout != mine.layout:
        return (
            f"site {card.name!r} has data of another form: got {card.layout}; {mine.name!r} has {mine.layout}: bring them into one "
            "form"
        )
    if known is not None and known != card:
        return f"site {card.name!r} came back with other data: got {card}, it had {known}: give it back its data"
    return None


def _other_columns(card: Card, mine: Card) -> str:
    """How the features of two sites differ."""
    theirs, own = card.columns, mine.columns
    alone = lambda who, extra: f"only {who.name!r} has {', '.join(extra[:5])}{', …' * (len(extra) > 5)}"
    said = [f"got {len(theirs)}, {mine.name!r} has {len(own)}"] if len(theirs) != len(own) else []
    for who, one, other in ((card, theirs, own), (mine, own, theirs)):
        if extra := [name for name in one if name not in other]:
            said.append(alone(who, extra))
    return "; ".join(said) or "they stand in another order"


def _listed(found: Survey) -> dict[str, Any]:
    """As JSON gives it back."""
    return jax.tree.map(lambda value: np.asarray(value).tolist(), dataclasses.asdict(found))
