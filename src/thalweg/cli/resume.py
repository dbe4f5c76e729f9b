"""`thalweg resume`: an interrupted run goes on as if it had not been interrupted."""

from pathlib import Path
from typing import Annotated

import typer

from .console import mistakes, show_result, watching
from .hosts import Address, Processes, Rank, follow, join, parting

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of the run.", show_default=False)]
Rounds = Annotated[int | None, typer.Option(help="Go on to this round instead.", show_default=False)]


def resume(run: Run, rounds: Rounds = None, hosts: Address = None, rank: Rank = None, processes: Processes = None) -> None:
    """Continue an interrupted run.

    The numbers are those of a run that was never interrupted, to the bit.
    """
    with parting(hosts), mistakes():
        from thalweg import experiment

        begun, folder = experiment.reopen(run)
        all_ = join(hosts, processes, rank, begun.settings.engine)
        begun = begun.with_settings(rounds=rounds, engine=None if all_ is None else "sharded")
        result, folder = begun.run(folder.path, resume=folder.started, progress=watching())
        if all_ is not None and not all_.leads:
            follow(result)
        show_result(result, folder.read()[1], folder)
