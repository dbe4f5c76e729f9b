"""Experiments from files: problem, network, algorithm, stop rule and run in one TOML file.

    experiment = tw.experiment.load("hearts.toml")
    result, folder = experiment.run()
"""

from .experiment import Experiment
from .file import load, reopen
from .folder import RunFolder
from .mistakes import Mistake

__all__ = ["Experiment", "Mistake", "RunFolder", "load", "reopen"]
