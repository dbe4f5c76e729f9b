"""`thalweg join` and `thalweg serve`: this process is one site of an experiment, or the one that leads."""

from pathlib import Path
from typing import Annotated

import typer

from .console import OUT, mistakes
from .sites import show_answer, watching

File = Annotated[
    Path, typer.Argument(metavar="FILE.toml", help="The experiment file, the same on all sites.", show_default=False)
]
Site = Annotated[str, typer.Option(help="Which of the sites this is.", show_default=False)]
Data = Annotated[
    Path | None,
    typer.Option(help="CSV file with this site's own records; else its part of the data in FILE.toml.", show_default=False),
]
Keys = Annotated[Path, typer.Option(help="The site's folder of keys, or the federation's.")]
Policy = Annotated[Path | None, typer.Option(help="TOML file with what this site allows.", show_default=False)]
Listen = Annotated[
    list[str] | None, typer.Option(help="Listen at tls/host:port instead of where FILE.toml says.", show_default=False)
]
Connect = Annotated[
    list[str] | None, typer.Option(help="Connect to tls/host:port instead of where FILE.toml says.", show_default=False)
]
Folder = Annotated[
    Path | None,
    typer.Option(help="Folder of the site's log and answer; runs/EXPERIMENT/SITE when left out.", show_default=False),
]
Metrics = Annotated[
    str | None, typer.Option(help="Serve metrics for Prometheus at this port, or host:port.", show_default=False)
]
Tied = Annotated[bool, typer.Option("--tied", hidden=True)]


def join(
    file: File,
    site: Site,
    data: Data = None,
    keys: Keys = Path("keys"),
    policy: Policy = None,
    listen: Listen = None,
    connect: Connect = None,
    folder: Folder = None,
    metrics: Metrics = None,
    tied: Tied = False,
) -> None:
    """Take part in an experiment as one of its sites.

    Records stay here; no code is sent. Ctrl-C ends it so that the same command goes on.
    """
    with mistakes():
        _take_part(file, site, data, keys, policy, listen, connect, folder, metrics, tied)


def serve(
    file: File,
    keys: Keys = Path("keys"),
    policy: Policy = None,
    listen: Listen = None,
    connect: Connect = None,
    folder: Folder = None,
    metrics: Metrics = None,
    tied: Tied = False,
) -> None:
    """Lead an experiment that has a server or a price.

    It holds no records. Ctrl-C ends it so that the same command goes on.
    """
    with mistakes():
        _take_part(file, None, None, keys, policy, listen, connect, folder, metrics, tied)


def _take_part(
    file: Path,
    site: str | None,
    data: Path | None,
    keys: Path,
    policy: Path | None,
    listen: list[str] | None,
    connect: list[str] | None,
    folder: Path | None,
    metrics: str | None,
    tied: bool,
) -> None:
    """As `site`, or else as the site that leads."""
    from thalweg import experiment
    from thalweg.deploy import metrics as served
    from thalweg.deploy.process import Options, live
    from thalweg.experiment.experiment import RUNS

    asked = experiment.load(file)
    if site is None and asked.server is None:
        raise experiment.Mistake(f"algorithm: {asked.algorithm.kind.__name__} has no server; its sites use `thalweg join`")
    if site is not None and site == asked.server:
        raise experiment.Mistake(f"--site: {site!r} leads this experiment; use `thalweg serve`")
    name = site or asked.server
    where = RUNS / asked.name / name if folder is None else folder
    options = Options(
        keys=keys,
        folder=where,
        data=data,
        policy=policy,
        listen=listen or (),
        connect=connect or (),
        metrics=None if metrics is None else served.address(metrics),
        tied=tied,
    )
    shown, show = watching()
    with shown:
        answer = live(asked, name, options, show)
    OUT.print(f"experiment {asked.name}, site {name}", style="dim")
    show_answer(answer, where)
