"""Problems that an experiment file can state: `[problem] kind = "…"`."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import numpy as np
from pydantic import Field, model_validator

from thalweg import problem as problems
from thalweg.data import FederatedData, auc
from thalweg.observe import Result
from thalweg.observe import Table as ReportTable
from thalweg.problem import losses

from . import records
from .coupled import Allocation, Bids, NetworkUtility
from .mistakes import Mistake, missing, named, shown, wrong
from .stated import Piece, ProblemTable, Stated


class LinearModelTable(ProblemTable):
    """A linear model on examples with features and a label, fitted to the examples of all agents."""

    data: str | None = Field(None, description='"heart_disease" or the path of a CSV file')
    features: list[str] | None = Field(None, description="a list of column names of the CSV file")
    label: str | None = Field(None, description="a column name of the CSV file")
    agent: str | None = Field(None, description="the column of the CSV file that says whose record it is")
    scale: dict[str, list[float]] | None = Field(
        None, description="a table column = [centre, scale] of public reference values"
    )
    test: float = Field(0.3, ge=0, lt=1, description="the share of each agent's records that is held out, in [0, 1)")
    split_seed: int = Field(0, ge=0, description="a whole number ≥ 0")
    l1: float = Field(0.0, ge=0, description="a number ≥ 0")
    l2: float = Field(0.0, ge=0, description="a number ≥ 0")
    weights: Literal["examples", "uniform"] | list[float] = Field(
        "examples", description='"examples", "uniform" or a list with one number per agent'
    )
    batch_size: int | None = Field(None, ge=1, description="a whole number ≥ 1")
    fit_intercept: bool = Field(True, description="true or false")

    loss: ClassVar[Callable]
    measure: ClassVar[str] = "root mean square error"

    def build(self, base: Path, dtype: Any) -> Stated:
        data = self._records(base)
        self._check_labels(data)
        model = self._model()
        weights = self.weights if isinstance(self.weights, str) else np.asarray(self.weights)
        return Stated(self._fitted(model, data, dtype, weights), lambda result: self._score(model, data, result))

    def agent_names(self, base: Path) -> tuple[str, ...] | None:
        return None if self.data is None else self._records(base).names

    def piece(self, base: Path, dtype: Any, sites: Sequence[str], place: int, data: Path | None) -> Piece:
        if data is None:
            own = _part(self._records(base), sites, place)
        else:
            own = records.read_own(data, sites[place], place, **self._columns(), test=self.test, seed=self.split_seed)
        self._check_labels(own)
        model = self._model()
        title, columns, row = self._scoring(model)
        return Piece(
            self._fitted(model, own, dtype, "examples"),
            weight=self._weight(sites, place),
            columns=own.features,
            score=(lambda x: (title, columns, row(x, own, 0))) if len(own.test[0][1]) else None,
        )

    def form(self, base: Path, dtype: Any, sites: Sequence[str]) -> Piece:
        features = self.features
        if features is None:
            if self.data is None:
                raise missing(
                    "problem.features", "a list of column names: the site that leads has no records to read them from"
                )
            features = self._records(base).features
        nothing = (np.zeros((1, len(features))), np.zeros(1))
        blank = FederatedData([nothing], [nothing], ("nobody",), tuple(features))
        return Piece(self._fitted(self._model(), blank, dtype, "examples"), columns=blank.features)

    def _weight(self, sites: Sequence[str], place: int) -> float | None:
        if isinstance(self.weights, str):
            return None if self.weights == "examples" else 1.0
        if len(self.weights) != len(sites):
            raise Mistake(f"problem.weights: got {len(self.weights)} numbers, expected one for each of {len(sites)} sites")
        return float(self.weights[place])

    def _model(self) -> Any:
        return losses.linear_model(type(self).loss, self.fit_intercept)

    def _fitted(self, model: Any, data: FederatedData, dtype: Any, weights: Any) -> problems.EmpiricalRisk:
        cast = lambda examples: tuple(np.asarray(part, dtype) for part in examples)
        return problems.EmpiricalRisk(
            model,
            [cast(examples) for examples in data.train],
            model.start(data.d, dtype=dtype),
            weights=weights,
            batch_size=self.batch_size,
            regularizer=problems.elastic_net(self.l1, self.l2) if self.l1 or self.l2 else None,
            names=data.names,
        )

    def _columns(self) -> dict[str, Any]:
        return {"features": self.features, "label": self.label, "agent": self.agent, "scale": self.scale}

    def _records(self, base: Path) -> FederatedData:
        if self.data is None:
            raise missing(
                "problem.data",
                '"heart_disease" or the path of a CSV file; without it, every site has a file of its own: `thalweg join --data`',
            )
        path = records.locate(self.data, base)
        if path is not None:
            return records.read_examples(path, **self._columns(), test=self.test, seed=self.split_seed)
        for key, value in self._columns().items():
            if value is not None:
                raise Mistake(
                    f"problem.{key}: got {shown(value)}, expected nothing: the records of {self.data!r} are ready as they are"
                )
        return records.data_sets()[self.data](test=self.test, seed=self.split_seed)

    def _check_labels(self, data: FederatedData) -> None:
        """Refuse labels that the loss has no use for."""

    def _score(self, model: Any, data: FederatedData, result: Result) -> tuple[ReportTable, ...]:
        if not any(len(labels) for _, labels in data.test):
            return ()
        x = jax.tree.map(np.asarray, result.x)
        title, columns, row = self._scoring(model)
        rows = [row(x, data, i) for i in range(data.n)]
        return (ReportTable(title, columns, rows, "The common model on records that it was not trained on."),)

    def _scoring(self, model: Any) -> tuple[str, tuple[str, ...], Callable[[Any, FederatedData, int], tuple]]:
        """Title, columns, and (x, data, agent) → row of the table of scores."""

        def row(x: Any, data: FederatedData, i: int) -> tuple:
            features, labels = data.test[i]
            score = self._measured(np.asarray(model.predict(x, features)), labels) if len(labels) else None
            return data.names[i], len(data.train[i][1]), len(labels), score

        return "On held-out examples", ("agent", "training examples", "test examples", self.measure), row

    def _measured(self, prediction: np.ndarray, labels: np.ndarray) -> float:
        return float(np.sqrt(np.mean((prediction - labels) ** 2)))


class LeastSquares(LinearModelTable):
    """Linear regression: half the squared error, ½(xᵀa + c − b)²."""

    loss = staticmethod(losses.squared)


class RobustRegression(LinearModelTable):
    """Linear regression that forgives outliers: the Huber loss with δ = 1."""

    loss = staticmethod(losses.huber)


class Classification(LinearModelTable):
    """Two classes, labels 0 and 1."""

    measure = "AUC"

    def _check_labels(self, data: FederatedData) -> None:
        for name, (_, labels) in zip(data.names, data.train, strict=True):
            other = labels[~np.isin(labels, (0, 1))]
            if other.size:
                raise wrong("problem.label", float(other[0]), f"labels 0 and 1 (first seen with {name!r})")

    def _measured(self, prediction: np.ndarray, labels: np.ndarray) -> float:
        return auc(prediction, labels)


class LogisticRegression(Classification):
    """Logistic regression of labels 0 and 1: log(1 + exp(m)) − label·m, m = xᵀa + c."""

    loss = staticmethod(losses.logistic)


class SupportVectorMachine(Classification):
    """A smooth support vector machine for labels 0 and 1: the squared hinge loss."""

    loss = staticmethod(losses.hinge_squared)


class Averaging(ProblemTable):
    """The mean of what the agents measured: ½‖x − m_i‖² each."""

    values: list[float] | None = Field(None, min_length=1, description="a list with one number per agent")
    data: str | None = Field(None, description="the path of a CSV file with one row per agent")
    column: str | None = Field(None, description="the column of the CSV file that holds the measurements")
    agent: str | None = Field(None, description="the column of the CSV file that holds the agents' names")
    noise: float = Field(0.0, ge=0, description="a standard deviation ≥ 0")

    @model_validator(mode="after")
    def _one_source(self) -> "Averaging":
        if (self.values is None) == (self.data is None):
            raise ValueError("expected either values = [ … ] or data = the path of a CSV file")
        return self

    def build(self, base: Path, dtype: Any) -> Stated:
        values, names = self._measured(base)
        return Stated(problems.Measurements(np.asarray(values, dtype), noise=self.noise, names=names), lambda result: ())

    def agent_names(self, base: Path) -> tuple[str, ...] | None:
        values, names = self._measured(base)
        return tuple(f"agent-{i}" for i in range(len(values))) if names is None else tuple(names)

    def piece(self, base: Path, dtype: Any, sites: Sequence[str], place: int, data: Path | None) -> Piece:
        values = self._measured(base)[0] if data is None else self._read(data, "--data")[0]
        if len(values) != (len(sites) if data is None else 1):
            expected = f"one for each of {len(sites)} sites" if data is None else f"the one of {sites[place]!r}"
            raise Mistake(f"problem: got {len(values)} measurements, expected {expected}")
        own = values[place if data is None else 0]
        return Piece(problems.Measurements(np.asarray([own], dtype), noise=self.noise, names=[sites[place]]))

    def _measured(self, base: Path) -> tuple[Sequence[float], list[str] | None]:
        """(measurements, names)."""
        if self.data is None:
            return self.values, None
        if (path := records.locate(self.data, base)) is None:
            raise wrong("problem.data", self.data, "the path of a CSV file with one row per agent")
        return self._read(path, "problem.data")

    def _read(self, path: Path, where: str) -> tuple[Sequence[float], list[str] | None]:
        if not path.is_file():
            raise wrong(where, str(path), "a CSV file; there is none")
        known, rows = records.columns(path)
        values = records.numbers(path, rows, [records.column("column", self.column, known)])[:, 0]
        return values, None if self.agent is None else [row[records.column("agent", self.agent, known)] for row in rows]


KINDS: dict[str, type[ProblemTable]] = {
    "logistic_regression": LogisticRegression,
    "support_vector_machine": SupportVectorMachine,
    "least_squares": LeastSquares,
    "robust_regression": RobustRegression,
    "averaging": Averaging,
    "allocation": Allocation,
    "bids": Bids,
    "network_utility": NetworkUtility,
}


def build(table: ProblemTable, base: Path, dtype: Any) -> Stated:
    """`table.build`, whose errors name the table.

    Raises:
        Mistake: the problem cannot be stated.
    """
    try:
        return table.build(base, dtype)
    except Mistake:
        raise
    except (ValueError, TypeError) as error:
        raise named("problem", error) from error


def piece(table: ProblemTable, base: Path, dtype: Any, sites: Sequence[str], place: int, data: Path | None) -> Piece:
    """`table.piece`, whose errors name the table.

    Raises:
        Mistake: the piece cannot be stated.
    """
    try:
        return table.piece(base, dtype, sites, place, data)
    except Mistake:
        raise
    except (ValueError, TypeError) as error:
        raise named("problem", error) from error


def _part(data: FederatedData, sites: Sequence[str], place: int) -> FederatedData:
    """The records of the agent at `place`, where sites stand in the order of the agents."""
    if data.n != len(sites):
        raise Mistake(f"deploy.sites: got {len(sites)} sites, expected one for each of the {data.n} agents of the data")
    if set(data.names) == set(sites) and data.names != tuple(sites):
        raise Mistake(f"deploy.sites: got {', '.join(sites)}, expected the order of the data: {', '.join(data.names)}")
    return dataclasses.replace(data, train=[data.train[place]], test=[data.test[place]], names=(sites[place],))


def form(table: ProblemTable, base: Path, dtype: Any, sites: Sequence[str]) -> Piece:
    """`table.form`, whose errors name the table.

    Raises:
        Mistake: the form is not known.
    """
    try:
        return table.form(base, dtype, sites)
    except Mistake:
        raise
    except (ValueError, TypeError) as error:
        raise named("problem", error) from error
