"""What every `[problem]` table has in common, and what becomes of it."""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from pydantic import Field

from thalweg.observe import Result
from thalweg.observe import Table as ReportTable
from thalweg.problem import Coupled, Problem

from .mistakes import Mistake, shown
from .signature import Table


@dataclasses.dataclass(frozen=True)
class Stated:
    """A problem built from its table.

    Attributes:
        problem: what is minimised.
        score: tables for the report, computed from a result.
    """

    problem: Problem | Coupled
    score: Callable[[Result], tuple[ReportTable, ...]]


@dataclasses.dataclass(frozen=True)
class Piece:
    """What one site holds.

    Attributes:
        problem: of one agent.
        weight: w_i up to a common factor; None: its number of examples, or 1.
        columns: names of the features, which must be the same on all sites; public.
        score: x → (title, columns, the site's row) of a table for the report; None where there is nothing to score.
    """

    problem: Problem | Coupled
    weight: float | None = None
    columns: tuple[str, ...] = ()
    score: Callable[[Any], tuple[str, tuple[str, ...], tuple]] | None = None


class ProblemTable(Table, abc.ABC):
    """What all kinds have in common."""

    kind: str = Field(description="the kind of problem")

    @abc.abstractmethod
    def build(self, base: Path, dtype: Any) -> Stated:
        """The problem, with relative paths read from `base` and arrays of `dtype`."""

    def agent_names(self, base: Path) -> tuple[str, ...] | None:
        """The agents' names, without building anything; None where they have none."""
        return None

    def piece(self, base: Path, dtype: Any, sites: Sequence[str], place: int, data: Path | None) -> Piece:
        """What the site at `place` holds: the records in its own file `data`, or else its agent's part of the named ones.

        Raises:
            Mistake: there is no such piece.
        """
        raise Mistake(
            f"problem.kind: got {shown(self.kind)}, whose pieces cannot be given to sites yet; simulate it with `thalweg run`"
        )

    def form(self, base: Path, dtype: Any, sites: Sequence[str]) -> Piece:
        """What a site that leads knows of the pieces: their form, and nobody's records.

        Raises:
            Mistake: the file does not say enough.
        """
        one = self.piece(base, dtype, sites, 0, None)
        blank = one.problem.with_pieces(jax.tree.map(jnp.zeros_like, one.problem.pieces))
        return dataclasses.replace(one, problem=blank, weight=None, score=None)
