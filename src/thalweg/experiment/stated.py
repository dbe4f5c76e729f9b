"""What every `[problem]` table has in common, and what becomes of it."""

import abc
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field

from thalweg.observe import Result
from thalweg.observe import Table as ReportTable
from thalweg.problem import Coupled, Problem

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


class ProblemTable(Table, abc.ABC):
    """What all kinds have in common."""

    kind: str = Field(description="the kind of problem")

    @abc.abstractmethod
    def build(self, base: Path, dtype: Any) -> Stated:
        """The problem, with relative paths read from `base` and arrays of `dtype`."""
