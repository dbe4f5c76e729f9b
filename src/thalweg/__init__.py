"""Thalweg: one optimisation problem, scattered over many agents, solved without gathering the pieces.

    minimise Σ_i w_i f_i(x) + r(x)          agent i alone can evaluate f_i

State the problem (`Consensus`, `EmpiricalRisk`, `Measurements`), choose a network (`tw.network`) and an algorithm
(`tw.algorithms`), and `solve`. `tw.experiment.load(path)` reads all of it from a file.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__ as __version__

if TYPE_CHECKING:
    from . import apps as apps
    from . import experiment as experiment
    from ._api import *  # noqa: F403

# Loaded when asked for by name, each by itself.
_PARTS = ("apps", "experiment")


def __getattr__(name: str) -> Any:
    """Public names, loaded with JAX when the first of them is used."""
    if name in _PARTS:
        return importlib.import_module(f"{__name__}.{name}")
    if name.startswith("_") and name != "__all__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "__all__":
        return __dir__()
    api = importlib.import_module(f"{__name__}._api")
    if not hasattr(api, name):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault(name, getattr(api, name))


def __dir__() -> list[str]:
    api = importlib.import_module(f"{__name__}._api")
    return sorted({"__version__", *_PARTS, *(name for name in vars(api) if not name.startswith("_"))})
