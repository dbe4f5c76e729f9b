"""The commands, gathered."""

from typing import Annotated

import typer

from thalweg._version import __version__

from . import keys
from .check import check
from .demo import demo
from .join import join, serve
from .listing import list_
from .report import report
from .resume import resume
from .run import run
from .status import status, stop
from .up import up

app = typer.Typer(
    name="thalweg",
    help="One optimisation problem scattered over many agents, solved without gathering the pieces.",
    no_args_is_help=True,
    # An error of the user's is one line (`console.mistakes`); one of ours keeps Python's own traceback.
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
app.command()(demo)
app.command()(run)
app.command()(resume)
app.command()(report)
app.command("list")(list_)
app.command()(check)
app.command()(join)
app.command()(serve)
app.command()(up)
app.command()(status)
app.command()(stop)
app.add_typer(keys.app, name="keys")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"thalweg {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of `thalweg`."""
    app()
