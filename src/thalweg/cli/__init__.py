"""The command line: `thalweg demo`, `run`, `resume`, `report`, `list`. Nothing here imports JAX before it has to."""

from .app import main

__all__ = ["main"]
