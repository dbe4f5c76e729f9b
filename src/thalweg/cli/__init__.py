"""The command line: `thalweg demo`, `run`, `list`, `join`, `up`, `keys` and others. Nothing here imports JAX before it has to."""

from .app import main

__all__ = ["main"]
