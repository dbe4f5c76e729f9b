"""What a run returns."""

import dataclasses
import html
from pathlib import Path
from typing import Any

import numpy as np

from .describing import describe
from .history import History
from .ledger import Ledger, human_bytes
from .outcome import Outcome
from .serving import evaluated, extremes, group_lines, has_server, member, members, server


@dataclasses.dataclass(frozen=True)
class Result:
    """The answer, how it was reached, and what it cost.

    Attributes:
        x: the answer: the mean of the agents' estimates, in the structure of x0.
        agents: every agent's own estimate, like x with a leading axis n.
        outcome: why the run ended; `reason` says it in a sentence, naming agent and round where one is to blame.
        rounds: rounds done.
        history: what was measured, record by record.
        ledger: messages, bytes, seconds.
        algorithm: the algorithm with every hyper-parameter filled in (the step size that was used, for example).
        names: the agents' names.
        graph: what reports draw: "edges" `[E, 2]`, "positions" `[n, 2]` or None, "directed", "facts" (name → value).
        config: what was run, as plain data: problem, network, engine, seed, stop rule, versions.
        reference: the central solution that gaps are measured against, or None.
        warnings: what was said before the run.
        records: the agents' records, to continue from with `solve(start=result)`; None if read from a folder.
        ids: `[n]` the agents' ids, by which a later epoch knows them.

    Of a coupled problem `x` and `agents` are the agents' plans, with a leading axis n, and there are also
        price: `[m]`.
        certificate: how good price and plans are (`tw.certify`), checked after the run without the method.
    """

    x: Any
    agents: Any
    outcome: Outcome
    reason: str
    rounds: int
    history: History
    ledger: Ledger
    algorithm: Any
    names: tuple[str, ...]
    graph: dict[str, Any]
    config: dict[str, Any]
    reference: Any = None
    warnings: tuple[str, ...] = ()
    records: Any = dataclasses.field(default=None, repr=False)
    ids: np.ndarray | None = dataclasses.field(default=None, repr=False)
    price: np.ndarray | None = None
    certificate: Any = None

    @property
    def converged(self) -> bool:
        """Whether the stop rule ended the run."""
        return self.outcome is Outcome.CONVERGED

    def summary(self) -> list[tuple[str, str]]:
        """(what, value) lines of the printed result."""
        last = {name: column[-1] for name, column in self.history.scalars.items()} if len(self.history) else {}
        show = lambda name: f"{last[name]:.6g}"
        lines = [("outcome", f"{self.outcome.value}: {self.reason}"), ("rounds", f"{self.rounds:,}")]
        for name, label in (
            ("objective", "objective"),
            ("violation", "violation of the rows"),
            ("dual", "cost at least"),
            ("duality_gap", "relative duality gap"),
            ("gap", "gap to the optimum"),
            ("error", "distance to the optimum"),
            ("price_error", "distance to its price"),
            ("regret", "dynamic regret"),
            ("consensus_error", "consensus error"),
            ("optimality", "optimality residual"),
        ):
            if (
                name in last
                and np.isfinite(last[name])
                and not (name == "consensus_error" and has_server(self) and not last[name])
            ):
                lines.append((label, show(name)))
        if self.price is not None:
            shown = ", ".join(f"{value:.6g}" for value in self.price[:6])
            lines.append(("price", shown + (f", … ({len(self.price)} rows)" if len(self.price) > 6 else "")))
            lines += [] if self.certificate is None else [("certificate", str(self.certificate))]
        lines += [(name, show(name)) for name in evaluated(self) if name in last]
        lines += extremes(self) + group_lines(self)
        sent, n = self.ledger.bytes, members(self)
        busiest = f", {human_bytes(int(sent.max()))} by the busiest" if len(sent) == n else ""
        lines.append(("sent", f"{human_bytes(int(sent.sum()))} by {n:,} {member(self)}{'s' * (n != 1)}{busiest}"))
        if has_server(self):
            lines.append(
                (
                    "received",
                    f"{human_bytes(int(self.ledger.received.sum()) * self.ledger.received_bytes)} from the {server(self)}",
                )
            )
        if last.get("clock", 0) > 0:
            lines.append(("clock", f"{last['clock']:,.6g} simulated seconds"))
        if self.ledger.epsilon is not None and len(self.ledger.epsilon):
            lines.append(
                ("privacy", f"ε = {self.ledger.epsilon[-1]:.4g} at δ = {self.ledger.delta:g}, {self.config['privacy']}")
            )
        lines.append(("algorithm", describe(self.algorithm)))
        lines.append(("network", str(self.config.get("network", ""))))
        lines += [(name, self.config[name]) for name in ("aggregate", "adversary") if name in self.config]
        speed = self.rounds / self.ledger.seconds if self.ledger.seconds > 0 else float("inf")
        seconds, compiling = self.ledger.seconds, self.ledger.compile_seconds
        compiled = f", compiled in {compiling:.1f} s" if np.isfinite(compiling) else ", waiting and compiling included"
        lines.append(("time", f"{seconds:.2f} s ({speed:,.0f} rounds/s){compiled}"))
        lines += [("warning", text) for text in self.warnings]
        if self.outcome.remedy:
            lines.append(("remedy", self.outcome.remedy))
        return lines

    def __str__(self) -> str:
        width = max(len(label) for label, _ in self.summary())
        return "\n".join(f"{label:<{width}}  {value}" for label, value in self.summary())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(label)}</th><td>{html.escape(value)}</td></tr>"
            for label, value in self.summary()
        )
        return f"<table>{rows}</table>"

    def report(self, path: str | Path = "report.html", tables: tuple = ()) -> Path:
        """Write one self-contained HTML file that works without a network; see `thalweg.observe.write_report`."""
        from .report import write_report

        return write_report(self, path, tables)

    def plot(self, path: str | Path | None = None):
        """The report's figures as a picture (needs the extra "plot"); see `thalweg.observe.plot`."""
        from .plot import plot

        return plot(self, path)
