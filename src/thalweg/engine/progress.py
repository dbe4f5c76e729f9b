"""A live progress display, for people."""

import contextlib
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from thalweg.observe import History


@contextlib.contextmanager
def watch(progress: bool | Callable[[int, History], None] | None, rounds: int) -> Iterator[Callable[[int, History], None]]:
    """A function of (round, history) to call between chunks: the user's own, a progress bar, or nothing."""
    if callable(progress):
        yield progress
        return
    if progress is False or (progress is None and not sys.stderr.isatty()):
        yield lambda k, history: None
        return
    columns = (
        TextColumn("[bold]round"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=rounds, state="compiling")

        def show(k: int, history: History) -> None:
            state = ""
            if len(history):
                what, value = history.beside
                state = f"objective {history['objective'][-1]:.6g}  {what} {value:.1e}"
            bar.update(task, completed=k, state=state)

        yield show
