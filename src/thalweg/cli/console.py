"""What the commands share: errors in one line, tables, live steps."""

import contextlib
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

import typer
from rich import box
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable
from rich.text import Text

if TYPE_CHECKING:
    from thalweg.experiment import RunFolder
    from thalweg.observe import History, Result, Table

OUT, ERR = Console(highlight=False), Console(stderr=True, highlight=False)
# Exit codes: of a mistake in what was asked, of a run that broke, and of Ctrl-C, as shells have them.
MISTAKE, BROKEN, INTERRUPTED = 2, 1, 130
# Between two lines about the rounds, where nobody watches live.
LOG_SECONDS = 10.0


@contextlib.contextmanager
def mistakes() -> Iterator[None]:
    """Within, a mistake of the user's ends the command with one line and exit code 2; a fault of ours keeps its traceback."""
    try:
        with warnings.catch_warnings():
            # What `solve` warns of is in the result, which is printed.
            warnings.simplefilter("ignore", RuntimeWarning)
            yield
    except typer.Exit:
        raise
    except KeyboardInterrupt:
        fail("stopped by hand", INTERRUPTED)
    except (ValueError, TypeError, RuntimeError, ImportError, OSError) as error:
        if not _is_the_users(error):
            raise
        fail(str(error), MISTAKE)


def fail(message: str, code: int) -> None:
    """Print one line and end with exit code `code`."""
    line = Text("error: ", style="bold red") + Text(" ".join(message.split()), style="default")
    ERR.print(line, soft_wrap=True)
    raise typer.Exit(code)


def _is_the_users(error: Exception) -> bool:
    """Whether Thalweg itself raised `error`, as it does for users' mistakes; elsewhere it is a fault of ours.

    An import that fails is the user's where an extra is missing, and nowhere else.
    """
    if isinstance(error, OSError):
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))
    return module == "thalweg._extras" if isinstance(error, ImportError) else module.startswith("thalweg.")


def show_table(table: "Table") -> None:
    """A table of a report, in the terminal."""
    from thalweg.observe.table import is_number

    headed = any(table.columns)
    shown = RichTable(title=table.title, box=box.SIMPLE, show_header=headed, title_justify="left", title_style="bold")
    columns = [[row[c] for row in table.rows] for c in range(len(table.columns))]
    for c, name in enumerate(table.columns):
        numeric = all(is_number(cell) or cell is None for cell in columns[c])
        shown.add_column(name, justify="right" if numeric else "left", no_wrap=c == 0)
    for row in zip(*map(_cells, columns), strict=True):
        shown.add_row(*row)
    OUT.print(shown)
    if table.note:
        OUT.print(Text(table.note, style="dim"))
        OUT.print()


def _cells(column: list[Any]) -> list[str]:
    """A column as text; fractions of one size get the same number of digits, so that their points align."""
    from thalweg.observe.table import is_number
    from thalweg.observe.text import number

    fractions = [cell for cell in column if isinstance(cell, float)]
    alike = len(fractions) > 1 and all(cell == 0 or 1e-2 <= abs(cell) < 1e4 for cell in fractions)
    show = lambda cell: f"{cell:.3f}" if alike and isinstance(cell, float) else number(cell, 3)
    return [show(cell) if is_number(cell) else "–" if cell is None else str(cell) for cell in column]


def show_result(result: "Result", tables: Iterable["Table"], folder: "RunFolder") -> None:
    """A finished or interrupted run: summary, tables, where the rest is; ends with the exit code that fits its outcome."""
    grid = RichTable.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    for label, value in result.summary():
        grid.add_row(Text(label), Text(value))
    OUT.print(grid)
    for table in tables:
        show_table(table)
    OUT.print(f"report: {folder.report}", soft_wrap=True, markup=False)
    code = outcome_code(result)
    if code == INTERRUPTED:
        fail(f"{result.reason}; `thalweg resume {folder}` continues it", code)
    if code == BROKEN:
        fail(f"{result.outcome.value}: {result.reason}", code)


def outcome_code(result: "Result") -> int:
    """The exit code that fits how a run ended."""
    from thalweg.observe import Outcome

    if result.outcome is Outcome.INTERRUPTED:
        return INTERRUPTED
    return BROKEN if result.outcome in (Outcome.DIVERGED, Outcome.NOT_FINITE) else 0


def watching() -> Callable[[int, "History"], None] | None:
    """How `run` and `resume` show rounds: None, which is `solve`'s own bar, where a person watches; else in lines."""
    return None if ERR.is_terminal else log()


def log() -> Callable[[int, "History"], None]:
    """A function of (round, history) that prints a line now and then, the first at once."""
    due = time.monotonic()

    def show(k: int, history: "History") -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + LOG_SECONDS
            ERR.print(_where(k, history), markup=False, soft_wrap=True)

    return show


def _where(k: int, history: "History") -> str:
    if not len(history):
        return f"round {k:,}"
    what, value = history.beside
    return f"round {k:,}, objective {history['objective'][-1]:.5g}, {what} {value:.0e}"


class Steps:
    """What is being done, step by step with its time: live where a person watches, one line a step elsewhere."""

    def __init__(self) -> None:
        columns = (
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}  [dim]{task.fields[state]}"),
            TimeElapsedColumn(),
        )
        self._live = Progress(*columns, console=ERR) if ERR.is_terminal else None
        self._task: TaskID | None = None
        self._log = log()
        self._began = time.monotonic()

    def __enter__(self) -> "Steps":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            if kind is None:
                self._finish()
            self._live.stop()

    def say(self, step: str) -> None:
        """The last step is done; `step` begins."""
        if self._live is None:
            ERR.print(f"{time.monotonic() - self._began:5.1f} s  {step}", markup=False, soft_wrap=True)
            return
        self._finish()
        self._task = self._live.add_task(step, total=None, state="")

    def rounds(self, k: int, history: "History") -> None:
        """Progress of the run that is the present step; fits `solve(progress=…)`."""
        if self._live is None:
            self._log(k, history)
        elif self._task is not None:
            self._live.update(self._task, state=_where(k, history))

    def _finish(self) -> None:
        if self._live is not None and self._task is not None:
            self._live.update(self._task, total=1, completed=1)
