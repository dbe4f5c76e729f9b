"""A problem that knows its place among those of all sites, from what they tell of themselves."""

import copy
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from thalweg.problem import Consensus, Coupled, EmpiricalRisk, Problem
from thalweg.problem.constants import Memo
from thalweg.problem.coupling import Coupling, heard
from thalweg.problem.measurements import Measurements
from thalweg.problem.pricing import Pricing, Survey, priced
from thalweg.problem.scattered import Scattered

from .card import Card, survey_of


def among(problem: Scattered, cards: Sequence[Card], place: int | None) -> Scattered:
    """The problem of all sites, of which only the piece of the site at `place` is here (with a leading axis of 1); with None it
    is nobody's, and stands for the form of all.

    Raises:
        ValueError: a kind of problem that cannot be put together from cards.
    """
    weights = np.array([card.weight for card in cards])
    if not weights.sum() > 0:
        raise ValueError(f"weights: got {weights} from the sites, expected a positive sum")
    return _seated(problem, cards, place, weights / weights.sum())


@functools.singledispatch
def _seated(problem: Any, cards: Sequence[Card], place: int | None, weights: np.ndarray) -> Any:
    raise ValueError(
        f"got {type(problem).__name__}, expected a Consensus, EmpiricalRisk, Measurements or Coupled problem: only those can be "
        "put together from what sites tell of themselves; others are for tw.solve"
    )


@_seated.register
def _(problem: Consensus, cards, place, weights):
    return _changed(problem, cards, weights=weights, pieces=_scaled(problem, weights, place), curvature=_curvature(cards))


@_seated.register
def _(problem: Measurements, cards, place, weights):
    return _changed(problem, cards, weights=np.full(len(cards), 1 / len(cards)))


@_seated.register
def _(problem: EmpiricalRisk, cards, place, weights):
    counts = np.array([card.examples for card in cards])
    piece = _scaled(problem, weights, place)
    if place is not None and len(set(counts.tolist())) > 1:
        own, longest = int(counts[place]), int(counts.max())
        # As in `data.padding.stack`: the first example again, of weight 0.
        rows = np.where(np.arange(longest) < own, np.arange(longest), 0)
        piece = dataclasses.replace(
            piece,
            data=jax.tree.map(lambda leaf: leaf[:, rows], piece.data),
            count=jnp.asarray([own], jnp.int32),
            mask=jnp.asarray(np.arange(longest)[None] < own, problem.dtype),
        )
    return _changed(problem, cards, weights=weights, pieces=piece, counts=counts, curvature=_curvature(cards))


@_seated.register
def _(problem: Coupled, cards, place, weights):
    """Rows and shares of the total are those on the cards; shares that no card has are equal ones, of those who touch a row. Who
    leads has the rows and shares of all, and otherwise the form of one n times."""
    n, coupling, pieces = len(cards), problem.coupling, problem.pieces
    table = None if pieces.rows is None else _rows(cards, pieces.rows.shape[1], problem.m)
    touching = np.full(problem.m, n) if table is None else np.bincount(table[table >= 0], minlength=problem.m)
    coupling = dataclasses.replace(coupling, touching=jnp.asarray(touching, problem.dtype))
    rows = None if table is None else jnp.asarray(table)
    share = _shares(cards, coupling, rows)
    coupling.check_parts(None if all(card.share is None for card in cards) else share, rows)
    if place is None and rows is not None:
        data = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n, *leaf.shape[1:])), pieces.data)
        pieces = dataclasses.replace(pieces, data=data, rows=rows, share=share)
    else:
        mine = 0 if place is None else place
        pieces = dataclasses.replace(pieces, share=share[mine : mine + 1])
    found = Survey.joined([survey_of(card) for card in cards])
    return _changed(problem, cards, weights=np.ones(n), pieces=pieces, coupling=coupling, constants=_Joined(found))


def _rows(cards: Sequence[Card], r: int, m: int) -> np.ndarray:
    """`[n, r]`, which of m rows each site touches, −1 for none."""
    for card in cards:
        if card.rows is None or len(card.rows) != r or not all(-1 <= row < m for row in card.rows):
            raise ValueError(f"rows: got {card.rows} from site {card.name!r}, expected {r} of {m} rows, −1 for none")
    return np.array([card.rows for card in cards], np.int32)


def _shares(cards: Sequence[Card], coupling: Coupling, rows: Int[Array, "n r"] | None) -> Float[Array, "n r"]:
    """What the sites have of the total; where a card has no share, and another has, it has it all."""
    n, of_all = len(cards), lambda values: heard(values, rows)
    each = of_all(coupling.initial / coupling.touching)
    each = jnp.broadcast_to(each, (n, each.shape[-1]))
    if all(card.share is None for card in cards):
        return each
    whole = np.broadcast_to(of_all(coupling.initial), each.shape)
    for card in cards:
        if card.share is not None and len(card.share) != each.shape[1]:
            raise ValueError(
                f"share: got {len(card.share)} numbers from site {card.name!r}, expected {each.shape[1]}, one per row"
            )
    share = jnp.asarray([own if card.share is None else card.share for card, own in zip(cards, whole, strict=True)], each.dtype)
    return share


class _Joined:
    """The constants of the dual, from what all sites have measured. No compiled code depends on them, so all are equal."""

    def __init__(self, found: Survey):
        self._found = found

    def __call__(self, problem: Coupled) -> Pricing:
        return priced(problem, self._found)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Joined)

    def __hash__(self) -> int:
        return hash(_Joined)


def _scaled(problem: Problem, weights: np.ndarray, place: int | None) -> Any:
    if place is None:
        return problem.pieces
    scale = jnp.asarray(len(weights) * weights[place : place + 1], problem.dtype)
    return eqx.tree_at(lambda piece: piece.scale, problem.pieces, scale)


def _curvature(cards: Sequence[Card]) -> tuple[np.ndarray | None, np.ndarray | None]:
    if any(card.smoothness is None for card in cards):
        return None, None
    return np.array([card.smoothness for card in cards]), np.array([card.strong_convexity for card in cards])


def _changed(problem: Any, cards: Sequence[Card], **fields: Any) -> Any:
    changed = copy.copy(problem)
    for name, value in (fields | {"names": tuple(card.name for card in cards), "memo": Memo()}).items():
        object.__setattr__(changed, name, value)  # a frozen module that nobody has seen yet
    return changed
