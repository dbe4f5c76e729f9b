"""`thalweg up`: all sites of an experiment as processes of this machine, to try it."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.live import Live

from .console import ERR, INTERRUPTED, OUT, fail, mistakes, show_result
from .sites import Status, lines, said, state_table

File = Annotated[Path, typer.Argument(metavar="FILE.toml", help="The experiment file.", show_default=False)]
Out = Annotated[Path | None, typer.Option(help="Folder of the run; a new one under runs/ when left out.", show_default=False)]


def up(file: File, out: Out = None) -> None:
    """Run all sites of an experiment as processes on this machine.

    With keys and ports of their own, made for this run. Ctrl-C stops all; `--out` with the same folder goes on.
    """
    with mistakes():
        from thalweg import experiment
        from thalweg.deploy.local import Local
        from thalweg.deploy.merged import merged
        from thalweg.experiment import RunFolder
        from thalweg.experiment.experiment import RUNS

        asked = experiment.load(file)
        folder = RunFolder.fresh(RUNS, asked.name) if out is None else RunFolder(out)
        local = Local(asked, file.resolve(), folder.path)
        with local.running():
            stopped = _watch(local)
        ended = [site for site in local.folders.values() if (site.path / "answer.json").exists()]
        if not ended and stopped:
            fail("stopped by hand before the first round", INTERRUPTED)
        result, tables = merged(ended)
        folder.write(result, tables)
        OUT.print(f"experiment {asked.name}, {result.config['hash'][:12]}, {len(ended)} processes", style="dim")
        if stopped:
            OUT.print(f"thalweg up {file} --out {folder} goes on", style="dim", soft_wrap=True, markup=False)
        show_result(result, tables, folder)


def _watch(local: Any) -> bool:
    """Show all sites until they have ended; whether Ctrl-C ended them."""
    live = Live(console=ERR, transient=True, auto_refresh=False) if ERR.is_terminal else None
    show = lines(_line) if live is None else lambda found: live.update(state_table(found), refresh=True)
    try:
        if live is not None:
            live.start()
        while not local.ended:
            if found := local.statuses():
                show(found)
            time.sleep(0.25)
        local.statuses()  # raises what broke a site
    except KeyboardInterrupt:
        return True
    finally:
        if live is not None:
            live.stop()
    return False


def _line(statuses: list[Status]) -> str:
    """The site that is behind."""
    last = min(statuses, key=lambda status: status["round"])
    return f"{last['site']}: {said(last)}"
