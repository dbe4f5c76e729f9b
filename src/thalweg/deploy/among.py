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

from thalweg.problem import Consensus, Coupled, EmpiricalRisk, Problem
from thalweg.problem.constants import Memo
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
    """Shares of the total are equal ones: a site knows the total, and that nobody's part of it is special."""
    n, rows = len(cards), problem.coupling
    touching = jnp.full_like(rows.touching, n)
    share = jnp.broadcast_to(rows.initial / touching, problem.pieces.share.shape)
    found = Survey.joined([survey_of(card) for card in cards])
    return _changed(
        problem, cards,
        weights=np.ones(n),
        pieces=dataclasses.replace(problem.pieces, share=share),
        coupling=dataclasses.replace(rows, touching=touching),
        constants=_Joined(found),
    )  # fmt: skip


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
