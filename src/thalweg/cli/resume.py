"""`thalweg resume`: an interrupted run goes on as if it had not been interrupted."""

from pathlib import Path
from typing import Annotated

import typer

from .console import mistakes, show_result, watching

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of the run.", show_default=False)]
Rounds = Annotated[int | None, typer.Option(help="Go on to this round instead.", show_default=False)]


def resume(run: Run, rounds: Rounds = None) -> None:
    """Continue an interrupted run.

    The numbers are those of a run that was never interrupted, to the bit.
    """
    with mistakes():
        from thalweg import experiment

        begun, folder = experiment.reopen(run)
        result, folder = begun.with_settings(rounds=rounds).run(folder.path, resume=folder.started, progress=watching())
        show_result(result, folder.read()[1], folder)
