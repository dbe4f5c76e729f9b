"""What the commands about sites share: how a status reads, and how the end of a run does."""

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from .console import BROKEN, ERR, INTERRUPTED, LOG_SECONDS, OUT, fail

if TYPE_CHECKING:
    from thalweg.deploy.site import Answer

Status = dict[str, Any]


def said(status: Status) -> str:
    """How far a site is, in a line."""
    if status["state"] == "waiting":
        missing = [name for name in status["sites"] if name not in status["here"]]
        reason = f" ({'; '.join(status['troubles'])})" if status["troubles"] else ""
        return f"waiting for {', '.join(missing)}{reason}" if missing else "beginning"
    line = f"round {status['round']:,} of {status['rounds']:,}, {len(status['members'])} of {len(status['sites'])} sites"
    return line if status["loss"] is None else f"{line}, own loss {status['loss']:.5g}"


def state_table(statuses: Iterable[Status], title: str | None = None) -> Group:
    """A row per site: state, round, lag, epoch, what was sent and rejected; and a line for each that waits or has failed."""
    from thalweg.observe.ledger import human_bytes

    table = Table(title=title and Text(title), box=None, title_justify="left", title_style="bold", pad_edge=False)
    for name, right in (
        ("site", False), ("state", False), ("round", True), ("lag", True), ("epoch", True), ("with", True),
        ("s/round", True), ("sent", True), ("rejected", True),
    ):  # fmt: skip
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    hints = []
    for status in statuses:
        pace = f"{status['seconds'] / status['timed']:.2g}" if status["timed"] else "–"
        rejected = [f"{count} {why}" for why, count in status["rejected"].items() if count]
        table.add_row(
            Text(status["site"]), status["state"], f"{status['round']:,}", f"{status['lag']:,}", str(status["epoch"]),
            f"{len(status['members'])}/{len(status['sites'])}", pace, human_bytes(sum(status["sent"].values())),
            str(sum(status["rejected"].values())),
        )  # fmt: skip
        if status["state"] == "waiting":
            hints.append(f"{status['site']}: {said(status)}")
        elif status["state"] in ("failed", "stopped") or status.get("outcome") == "too few agents":
            hints.append(f"{status['site']}: {status['reason']}")
        if rejected:
            hints.append(f"{status['site']} rejected {', '.join(rejected)}")
    return Group(table, *(Text(line, style="dim") for line in hints))


def watching() -> tuple[Any, Callable[[Status], None]]:
    """A context, and what in it shows a site's status: a live line where a person watches, else a line now and then."""
    if ERR.is_terminal:
        live = Live(console=ERR, transient=True)
        return live, lambda status: live.update(Text(said(status)))
    return _Lines(), lines(lambda status: said(status))


def lines(words: Callable[[Any], str]) -> Callable[[Any], None]:
    """Shows what it is given in lines: the first at once, then after `LOG_SECONDS` those that differ from the last."""
    due, last = time.monotonic(), ""

    def show(status: Any) -> None:
        nonlocal due, last
        text = words(status)
        if time.monotonic() >= due and text != last:
            due, last = time.monotonic() + LOG_SECONDS, text
            ERR.print(text, markup=False, soft_wrap=True)

    return show


class _Lines:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def show_answer(answer: "Answer", folder: object) -> None:
    """The end of a site's run; ends with the exit code that fits its outcome."""
    from thalweg.observe import Outcome
    from thalweg.observe.ledger import human_bytes

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    rejected = ", ".join(f"{count} {why}" for why, count in answer.rejected.items())
    sent = f"{human_bytes(answer.ledger.payload)} in {answer.ledger.messages:,} messages"
    entries = [
        ("outcome", f"{answer.outcome.value}: {answer.reason}"),
        ("rounds", f"{answer.rounds:,}"),
        *([("own loss", f"{answer.history['loss'][-1]:.6g}")] if answer.history.get("loss") else []),
        ("sent", sent),
        *([("rejected", rejected)] if rejected else []),
        *(("warning", text) for text in answer.warnings),
        *([("remedy", answer.outcome.remedy)] if answer.outcome.remedy else []),
        ("folder", str(folder)),
    ]
    for label, value in entries:
        grid.add_row(Text(label), Text(value))
    OUT.print(grid)
    if answer.outcome is Outcome.INTERRUPTED:
        fail(f"{answer.reason}; the same command goes on from round {answer.rounds:,}", INTERRUPTED)
    if answer.outcome in (Outcome.TOO_FEW_AGENTS, Outcome.DIVERGED, Outcome.NOT_FINITE):
        fail(f"{answer.outcome.value}: {answer.reason}", BROKEN)
