"""`thalweg report`: the report of a run, drawn again from what its folder holds, or from those of its sites."""

from pathlib import Path
from typing import Annotated

import typer

from .console import OUT, mistakes

Runs = Annotated[
    list[Path], typer.Argument(metavar="RUN…", help="The folder of the run, or those of its sites.", show_default=False)
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Write the report here instead of into RUN; of several, report.html here when left out.", show_default=False
    ),
]


def report(runs: Runs, out: Out = None) -> None:
    """Draw the report of a run again, or that of a run whose sites have folders of their own."""
    with mistakes():
        from thalweg.experiment import RunFolder
        from thalweg.experiment.folder import RESULT

        if len(runs) == 1 and ((runs[0] / RESULT).exists() or not list(runs[0].rglob("status.json"))):
            folder = RunFolder(runs[0])
            result, tables = folder.read()
            where = folder.report
        else:
            from thalweg.deploy.folder import SiteFolder
            from thalweg.deploy.merged import merged

            result, tables = merged([site for run in runs for site in SiteFolder.below(run)])
            where = Path("report.html") if len(runs) > 1 else RunFolder(runs[0]).report
        path = result.report(out or where, tables=tables)
        OUT.print(f"report: {path}", soft_wrap=True, markup=False)
