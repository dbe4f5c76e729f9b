"""`thalweg demo`: four hospitals, one model, no record leaving a hospital."""

import os
import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from .console import OUT, Steps, mistakes, show_table


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the result, its history and the report.")] = Path("thalweg-demo"),
    open_: Annotated[
        bool | None, typer.Option("--open/--no-open", help="Open the report in a browser (when a person watches).")
    ] = None,
) -> None:
    """Four hospitals train one model over a ring.

    Real patients (UCI Heart Disease); no record leaves a hospital.
    """
    with mistakes():
        with Steps() as steps:
            steps.say("starting JAX")
            from thalweg.apps import hearts
            from thalweg.experiment import RunFolder
            from thalweg.observe import Outcome

            folder = RunFolder(out)
            if folder.started:
                raise ValueError(f"{out} holds a run of an experiment file; choose another folder with --out")
            study = hearts.study(progress=steps.rounds, say=steps.say)
            if study.result.outcome is Outcome.INTERRUPTED:
                raise KeyboardInterrupt
            steps.say("writing the report")
            report = folder.write(study.result, study.tables)
        for table in study.tables:
            show_table(table)
        OUT.print(f"report: {report}", soft_wrap=True, markup=False)
        OUT.print("The same from a file: thalweg run examples/hearts.toml", style="dim")
        if open_ or (open_ is None and _watched()):
            webbrowser.open(report.resolve().as_uri())


def _watched() -> bool:
    """Whether a person sits at a screen that can show a browser."""
    screen = sys.platform in ("win32", "darwin") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return screen and sys.stdout.isatty()
