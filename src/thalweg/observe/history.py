"""What was measured, record by record."""

import csv
import dataclasses
from pathlib import Path

import numpy as np

from thalweg._extras import require


@dataclasses.dataclass(frozen=True)
class History:
    """Records of a run: scalars `[records]` and values per agent `[records, n]`.

    Attributes:
        scalars: name → `[records]`. Always "round", "objective", "consensus_error", "optimality", "movement", "messages"
            and "bytes" (payload sent by all agents so far); with a reference also "gap" (objective minus optimum) and
            "error" (√mean_i ‖x_i − x*‖²); with one for every round also "regret", the sum of the gaps. Without rounds also "events"
            so far, and "clock", virtual seconds.
        agents: name → `[records, n]`: "loss", "disagreement" (unless there are too many agents), "bytes", and what was
            reported.
    """

    scalars: dict[str, np.ndarray]
    agents: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.scalars["round"])

    def __getitem__(self, name: str) -> np.ndarray:
        """The column `name`, of the network or per agent."""
        if name in self.scalars:
            return self.scalars[name]
        if name in self.agents:
            return self.agents[name]
        raise KeyError(f"got {name!r}, expected one of {', '.join([*self.scalars, *self.agents])}")

    @property
    def beside(self) -> tuple[str, float]:
        """(what, value) that the last objective is to be read with: violation of coupled problems, else disagreement."""
        name = "violation" if "violation" in self.scalars else "consensus_error"
        return name.removesuffix("_error"), float(self.scalars[name][-1])

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of `to_pandas`."""
        return tuple(self.scalars)

    def to_pandas(self):
        """A `pandas.DataFrame` with one row per record (needs the extra "tables")."""
        return require("pandas", "tables").DataFrame(self.scalars)

    def to_csv(self, path: str | Path) -> None:
        """One row per record, numbers at full precision."""
        with open(path, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(self.scalars)
            writer.writerows(zip(*(column.tolist() for column in self.scalars.values()), strict=True))

    def to_parquet(self, path: str | Path) -> None:
        """One row per record (needs the extra "tables")."""
        arrow, parquet = require("pyarrow", "tables"), require("pyarrow.parquet", "tables")
        parquet.write_table(arrow.table({name: arrow.array(column) for name, column in self.scalars.items()}), path)

    @staticmethod
    def empty() -> "History":
        """No record yet."""
        return History({"round": np.zeros(0, np.int64)}, {})

    def without_last(self) -> "History":
        """This history but for its last record."""
        cut = lambda columns: {name: column[:-1] for name, column in columns.items()}
        return History(cut(self.scalars), cut(self.agents))

    def extended(self, scalars: dict[str, np.ndarray], agents: dict[str, np.ndarray]) -> "History":
        """This history followed by more records with the same columns."""
        if not len(self):
            return History(dict(scalars), dict(agents))
        join = lambda old, new: {name: np.concatenate([old[name], new[name]]) for name in old}
        return History(join(self.scalars, scalars), join(self.agents, agents))
