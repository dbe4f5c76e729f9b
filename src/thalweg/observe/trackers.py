"""Where the numbers of a run go while it runs: JSON lines, TensorBoard, MLflow, Weights & Biases, or anything of yours.

A tracker has three methods, and `solve(…, trackers=[…])` calls them:

- `start(config)`, before the first round: plain data about the run (problem, algorithm, network, seed, versions, …). Its
  "resumed_at" is the round up to which an earlier process has logged already, 0 for a new run.
- `log(k, scalars)`, once for every record of the history, in order: the round, and name → number.
- `finish(result)`, at the end; None if the run was ended by an exception.

Packages are imported when a run starts; those that are absent cost nothing.
"""

import json
import math
import os
import time
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from thalweg._extras import require

from .result import Result

__all__ = ["JsonLines", "MLflow", "TensorBoard", "Tracker", "WandB"]


@runtime_checkable
class Tracker(Protocol):
    """What `solve(trackers=[…])` calls; any object with these three methods will do."""

    def start(self, config: dict[str, Any]) -> None:
        """Before the first round; may raise."""

    def log(self, k: int, scalars: dict[str, float]) -> None:
        """A record of the history after `k` rounds."""

    def finish(self, result: Result | None) -> None:
        """The end; None after an exception."""


class JsonLines:
    """One line of JSON per record: {"round": 10, "objective": 0.5, …}; values that are no numbers are null.

    The first line holds {"config": …}, the last {"outcome": …, "reason": …}. A resumed run goes on in the same file: lines
    after its checkpoint, which a run that was killed may have left, are dropped.

    Args:
        path: of the file; it must not exist, unless the run is resumed.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def start(self, config: dict[str, Any]) -> None:
        """Write the first line, or cut the file back to the checkpoint.

        Raises:
            ValueError: the file exists, and the run is a new one.
        """
        resumed = config["resumed_at"]
        if self.path.exists() and not resumed:
            raise ValueError(f"JsonLines({str(self.path)!r}): got a file that exists, expected a new one for a new run")
        lines = [json.dumps({"config": config}, default=str)]
        if self.path.exists():
            kept = [line for line in self.path.read_text(encoding="utf-8").splitlines() if _until(line, resumed)]
            lines = kept or lines
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(self.path.name + ".part")
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")
        os.replace(part, self.path)

    def log(self, k: int, scalars: dict[str, float]) -> None:
        """Append a line."""
        self._append({"round": k} | {name: value if math.isfinite(value) else None for name, value in scalars.items()})

    def finish(self, result: Result | None) -> None:
        """Append the outcome."""
        if result is not None:
            self._append({"outcome": result.outcome.value, "reason": result.reason, "rounds": result.rounds})

    def _append(self, row: dict[str, Any]) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def _until(line: str, k: int) -> bool:
    """Whether a line is the configuration or a record up to round `k`; half a line, of a crash, is neither."""
    try:
        row = json.loads(line)
    except ValueError:
        return False
    return "config" in row or ("outcome" not in row and row.get("round", k + 1) <= k)


class TensorBoard:
    """Scalars for TensorBoard (the extra "tensorboard"); look at them with `tensorboard --logdir FOLDER`.

    Args:
        folder: of the event files.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._writer: Any = None

    def start(self, config: dict[str, Any]) -> None:
        """Open an event file; of a resumed run, records after its checkpoint are purged."""
        resumed = config["resumed_at"]
        package = require("tensorboardX", "tensorboard")
        self._writer = package.SummaryWriter(str(self.folder), purge_step=resumed + 1 if resumed else None)
        self._writer.add_text("config", "\n".join(f"- **{name}**: {value}" for name, value in _flat(config).items()), 0)

    def log(self, k: int, scalars: dict[str, float]) -> None:
        """One scalar per column, at step `k`."""
        for name, value in scalars.items():
            self._writer.add_scalar(name.replace(" ", "_"), value, k)

    def finish(self, result: Result | None) -> None:
        """Close the file."""
        if result is not None:
            self._writer.add_text("outcome", f"{result.outcome.value}: {result.reason}", result.rounds)
        self._writer.close()


class MLflow:
    """Parameters and metrics for MLflow (the extra "mlflow").

    Args:
        experiment: name of the experiment; made if there is none.
        name: of the run; MLflow invents one when None.
        uri: of the tracking server, or a folder or database; MLflow's own setting when None.
        run: id of a run to go on with, as after `solve(resume=True)`. After `start` it is that of this run.
    """

    def __init__(self, experiment: str = "thalweg", *, name: str | None = None, uri: str | None = None, run: str | None = None):
        self.experiment, self.name, self.uri, self.run = experiment, name, uri, run
        self._client: Any = None

    def start(self, config: dict[str, Any]) -> None:
        """Make the run, or take the one that was named; write the parameters."""
        self._client = require("mlflow.tracking", "mlflow").MlflowClient(tracking_uri=self.uri)
        if self.run is not None:
            self._client.update_run(self.run, status="RUNNING")
            return
        found = self._client.get_experiment_by_name(self.experiment)
        experiment = self._client.create_experiment(self.experiment) if found is None else found.experiment_id
        self.run = self._client.create_run(experiment, run_name=self.name).info.run_id
        for name, value in _flat(config).items():
            self._client.log_param(self.run, name, str(value)[:500])  # MLflow's limit

    def log(self, k: int, scalars: dict[str, float]) -> None:
        """One metric per column, at step `k`; what is not finite is left out."""
        metric, now = require("mlflow.entities", "mlflow").Metric, int(time.time() * 1000)
        finite = [metric(name, value, now, k) for name, value in scalars.items() if math.isfinite(value)]
        self._client.log_batch(self.run, metrics=finite)

    def finish(self, result: Result | None) -> None:
        """Write the outcome, end the run."""
        if result is not None:
            self._client.set_tag(self.run, "outcome", f"{result.outcome.value}: {result.reason}")
        self._client.set_terminated(self.run, "FAILED" if result is None else "FINISHED")


class WandB:
    """Configuration and metrics for Weights & Biases (the extra "wandb").

    Args:
        project: name of the project.
        settings: passed to `wandb.init`: entity, name, group, tags, mode="offline", dir, or id to go on with a run.
    """

    def __init__(self, project: str = "thalweg", **settings: Any):
        self.project, self.settings = project, settings
        self._run: Any = None

    def start(self, config: dict[str, Any]) -> None:
        """`wandb.init`."""
        again = {"resume": "allow"} if "id" in self.settings else {}
        self._run = require("wandb", "wandb").init(project=self.project, config=config, **(again | self.settings))

    def log(self, k: int, scalars: dict[str, float]) -> None:
        """All columns, at step `k`."""
        self._run.log(dict(scalars), step=k)

    def finish(self, result: Result | None) -> None:
        """Write the outcome, end the run."""
        if result is not None:
            self._run.summary["outcome"] = f"{result.outcome.value}: {result.reason}"
        self._run.finish(exit_code=1 if result is None else 0)


def _flat(config: dict[str, Any], within: str = "") -> dict[str, Any]:
    """Nested names joined by points."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= _flat(value, f"{within}{name}.") if isinstance(value, dict) else {f"{within}{name}": value}
    return found
