"""`thalweg keys`: a federation's certificate authority, and a key with a certificate for every site."""

import datetime
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
    days: Days = 365,
) -> None:
    """Make a federation: an authority, and a folder for every site.

    Give each site its own folder, over a way that is trusted. FOLDER/ca.key stays with you.
    """
    with mistakes():
        from thalweg.deploy import keys

        keys.init(folder, _names(sites), days=days)
        _list(folder)


@app.command()
def add(folder: Folder, site: Site, days: Days = 365) -> None:
    """Add a site to a federation."""
    with mistakes():
        from thalweg.deploy import keys

        _say(keys.add(folder, site, days=days))


@app.command()
def renew(folder: Folder, site: Site, days: Days = 365) -> None:
    """Give a site a new key and certificate."""
    with mistakes():
        from thalweg.deploy import keys

        _say(keys.renew(folder, site, days=days))


@app.command()
def router(
    folder: Folder,
    listen: Annotated[str, typer.Option(help="Where sites connect to, as tls/host:port.", show_default=False)],
    days: Days = 365,
) -> None:
    """Make the configuration of a Zenoh router at which sites meet that cannot reach each other."""
    with mistakes():
        from thalweg.deploy import keys

        _say(keys.router(folder, listen=[listen], days=days))


@app.command()
def show(folder: Folder) -> None:
    """List the sites of a federation, and until when their certificates are valid."""
    with mistakes():
        _list(folder)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _say(path: Path) -> None:
    OUT.print(str(path), markup=False, soft_wrap=True)


def _list(folder: Path) -> None:
    from thalweg.deploy import keys

    table, now = Table(box=box.SIMPLE), datetime.datetime.now(datetime.UTC)
    for column in ("site", "valid until", "SHA-256 of the certificate"):
        table.add_column(column)
    for name, until, fingerprint in keys.show(folder):
        expired = Text(f"{until:%Y-%m-%d}, expired" if until < now else f"{until:%Y-%m-%d}", style="red" if until < now else "")
        table.add_row(Text(name), expired, fingerprint[:32])
    OUT.print(table)
