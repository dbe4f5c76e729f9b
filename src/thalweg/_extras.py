"""Optional dependencies: imported where they are used, missed in one line."""

import importlib
from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or say which extra of Thalweg brings it.

    Raises:
        ImportError: the module is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"this needs the package {module!r}, which is not installed: pip install 'thalweg[{extra}]'"
        ) from error
