"""`thalweg keys`: a federation's certificate authority, and a key with a certificate for every site."""

from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from .console import OUT, mistakes

app = typer.Typer(help="Certificates of a federation: make, add, renew, show.", no_args_is_help=True, rich_markup_mode=None)

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of the federation.", show_default=False)]
Site = Annotated[str, typer.Option(help="The name of the site.", show_default=False)]
Days = Annotated[float, typer.Option(help="How long a certificate is valid.")]


@app.command()
def init(
    folder: Folder,
    sites: Annotated[str, typer.Option(help="Names of the sites, with commas between.", show_default=False)],
    routers: Annotated[str, typer.Option(help="Names of routers, with commas between.")] = "",
    days: Days = 365,
) -> None:
    """Make a federation: an authority, and a folder for every site.

    Give each site its own folder, over a way that is trusted. FOLDER/ca.key stays with you.
    """
    with mistakes():
        from thalweg.deploy import keys

        keys.init(folder, _names(sites), days, _names(routers))
        _list(folder)


@app.command()
def add(
    folder: Folder,
    site: Site,
    days: Days = 365,
    router: Annotated[bool, typer.Option("--router", help="It is a router.")] = False,
) -> None:
    """Add a site to a federation."""
    with mistakes():
        from thalweg.deploy import keys

        OUT.print(f"{keys.add(folder, site, days, 'router' if router else 'site')}", markup=False, soft_wrap=True)


@app.command()
def renew(folder: Folder, site: Site, days: Days = 365) -> None:
    """Give a site a new key and certificate."""
    with mistakes():
        from thalweg.deploy import keys

        OUT.print(f"{keys.renew(folder, site, days)}", markup=False, soft_wrap=True)


@app.command()
def show(folder: Folder) -> None:
    """List the sites of a federation, and until when their certificates are valid."""
    with mistakes():
        _list(folder)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _list(folder: Path) -> None:
    from thalweg.deploy import keys

    table = Table(box=box.SIMPLE)
    for column in ("name", "is a", "valid until", "state"):
        table.add_column(column)
    for name, role, until, state in keys.show(folder):
        table.add_row(Text(name), role, f"{until:%Y-%m-%d}", Text(state, style="" if state == "good" else "red"))
    OUT.print(table)
