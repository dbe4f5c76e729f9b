"""Experiments from files: problem, network, algorithm, stop rule and run in one TOML file.

    experiment = tw.experiment.load("hearts.toml")
    result, folder = experiment.run()

`folder` (a `RunFolder`) holds all about the run: the file, the checkpoint, the result, the report.
"""

from .experiment import Experiment
from .file import load, reopen
from .folder import RunFolder
from .mistakes import Mistake

__all__ = ["Experiment", "Mistake", "RunFolder", "load", "reopen"]
