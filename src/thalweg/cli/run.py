"""`thalweg run`: any experiment from a file."""

from pathlib import Path
from typing import Annotated

import typer

from .console import OUT, mistakes, show_result, watching
from .hosts import Address, Processes, Rank, follow, join, parting

File = Annotated[Path, typer.Argument(metavar="FILE.toml", help="The experiment file.", show_default=False)]
Out = Annotated[Path | None, typer.Option(help="Folder of the run; a new one under runs/ when left out.", show_default=False)]
Rounds = Annotated[int | None, typer.Option(help="Instead of run.rounds in the file.", show_default=False)]
Seed = Annotated[int | None, typer.Option(help="Instead of run.seed in the file.", show_default=False)]
Engine = Annotated[str | None, typer.Option(help="Instead of run.engine in the file.", show_default=False)]


def run(
    file: File,
    out: Out = None,
    rounds: Rounds = None,
    seed: Seed = None,
    engine: Engine = None,
    hosts: Address = None,
    rank: Rank = None,
    processes: Processes = None,
) -> None:
    """Run the experiment in FILE.toml.

    Ctrl-C leaves a run that `thalweg resume` continues.
    """
    with parting(hosts), mistakes():
        from thalweg import experiment

        asked = experiment.load(file).with_settings(rounds=rounds, seed=seed, engine=engine)
        all_ = join(hosts, processes, rank, asked.settings.engine)
        if all_ is not None:
            asked = asked.with_settings(engine="sharded")
        result, folder = asked.run(out, progress=watching())
        if all_ is not None and not all_.leads:
            follow(result)
        OUT.print(f"experiment {asked.name}, {asked.hash[:12]}", style="dim")
        show_result(result, folder.read()[1], folder)
