"""`thalweg check`: what an experiment would do, before anybody takes part."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from .console import OUT, mistakes

File = Annotated[Path, typer.Argument(metavar="FILE.toml", help="The experiment file.", show_default=False)]
Policy = Annotated[Path | None, typer.Option(help="TOML file with what this site allows.", show_default=False)]


def check(file: File, policy: Policy = None) -> None:
    """Show what an experiment would do at its sites, its hash, and whether a policy allows it."""
    with mistakes():
        from thalweg import experiment
        from thalweg.deploy.launch import digest
        from thalweg.deploy.policy import Policy as Limits

        asked = experiment.load(file)
        found = digest(asked)
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="bold", no_wrap=True)
        grid.add_column()
        sent = ", ".join(f"{name} {pipeline.kind}" for name, pipeline in asked.pipelines.items()) or "as it is"
        for label, value in (
            ("experiment", asked.name),
            ("hash", found),
            ("problem", asked.problem.kind),
            ("algorithm", asked.algorithm.kind.__name__),
            ("rounds", f"at most {asked.settings.rounds:,}"),
            ("what is sent", sent),
            ("sites", ", ".join(asked.everybody)),
        ):
            grid.add_row(Text(label), Text(value))
        OUT.print(grid)
        if policy is not None:
            Limits.load(policy).check(asked, found)
            OUT.print(f"{policy} allows it", markup=False)
