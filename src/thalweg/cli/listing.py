"""`thalweg list`: what there is, one line each."""

from enum import StrEnum
from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from . import catalogue
from .console import OUT, mistakes

HEADINGS = {
    "problems": "Problems: [problem] kind = …",
    "networks": "Networks: [network] kind = …",
    "algorithms": "Algorithms without a server: [algorithm] name = …",
    "asynchronous": "Algorithms without rounds: [algorithm] name = …",
    "servers": "Algorithms with a server: [algorithm] name = …",
    "prices": "Price algorithms, for coupled problems: [algorithm] name = …",
    "cohorts": "Who takes part: [algorithm] cohort = { kind = … }",
    "solvers": "Local solvers: [algorithm] solver = { kind = … }",
    "aggregators": "In place of a server's mean: [aggregate] kind = …",
    "mixers": "In place of mixing with neighbours: [aggregate] kind = …",
    "adversaries": "Who lies, and how: [adversary] kind = …",
    "stages": "What is done to messages: [link], [uplink], [downlink]",
    "losses": "Losses: thalweg.losses",
    "data": "Data: [problem] data = …",
    "engines": "Engines: [run] engine = …",
}

What = StrEnum("What", list(HEADINGS))


def list_(
    what: Annotated[What | None, typer.Argument(help="Only this; all when left out.", show_default=False)] = None,
) -> None:
    """List what there is, one line each."""
    with mistakes():
        for section in HEADINGS if what is None else [what.value]:
            table = Table(
                title=Text(HEADINGS[section]), box=box.SIMPLE, show_header=False, title_justify="left", title_style="bold"
            )
            table.add_column(no_wrap=True, style="bold")
            table.add_column()
            for name, line in catalogue.SECTIONS[section]().items():
                table.add_row(Text(name), Text(line))
            OUT.print(table)
