"""`thalweg report`: the report of a run, drawn again from what its folder holds."""

from pathlib import Path
from typing import Annotated

import typer

from .console import OUT, mistakes

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of the run.", show_default=False)]
Out = Annotated[Path | None, typer.Option(help="Write the report here instead of into RUN.", show_default=False)]


def report(run: Run, out: Out = None) -> None:
    """Draw the report of a run again."""
    with mistakes():
        from thalweg.experiment import RunFolder

        folder = RunFolder(run)
        result, tables = folder.read()
        path = result.report(out or folder.report, tables=tables)
        OUT.print(f"report: {path}", soft_wrap=True, markup=False)
