"""Tables out of pickles that others have made, without pandas and without running what is in them.

A pickle is a program. This reader lets it build NumPy arrays and plain containers; classes of pandas become inert records of
their arguments, from which columns are read; anything else is refused. It knows the layouts of pandas 1 and 2.
"""

import _codecs
import pickle
from typing import Any

import numpy as np


class Inert:
    """Stands for an object of pandas: keeps what it was called with and its state, and does nothing."""

    args: tuple
    state: Any = None

    def __new__(cls, *args: Any):
        made = super().__new__(cls)
        made.args = args
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _bytes(text: str, encoding: str) -> bytes:
    return _codecs.encode(text, "latin1")


def _empty_array(kind: type, shape: tuple, code: bytes) -> np.ndarray:
    return np.empty(shape, "b")  # its state follows


def _array(buffer: Any, dtype: np.dtype, shape: tuple, order: str) -> np.ndarray:
    return np.frombuffer(buffer, dtype).reshape(shape, order=order)


def _bare(kind: type, base: type, state: Any) -> Any:
    if not issubclass(kind, Inert):
        raise pickle.UnpicklingError(f"a pickle of tables would make a {kind.__name__}; refused")
    return kind()


ALLOWED = {
    "_codecs.encode": _bytes,
    "builtins.object": object,
    "builtins.slice": slice,
    "copyreg._reconstructor": _bare,
    "numpy.dtype": np.dtype,
    "numpy.ndarray": np.ndarray,
    "numpy.core.multiarray._reconstruct": _empty_array,
    "numpy._core.multiarray._reconstruct": _empty_array,
    "numpy.core.numeric._frombuffer": _array,
    "numpy._core.numeric._frombuffer": _array,
}
PYTHON_2 = {"copy_reg": "copyreg", "__builtin__": "builtins"}


class Reader(pickle.Unpickler):
    """See the module."""

    def find_class(self, module: str, name: str) -> Any:
        """What `module.name` may be in such a pickle.

        Raises:
            UnpicklingError: it is not among what tables are made of.
        """
        if module == "pandas" or module.startswith("pandas."):
            return type(name, (Inert,), {})
        full = f"{PYTHON_2.get(module, module)}.{name}"
        if full not in ALLOWED:
            raise pickle.UnpicklingError(f"a pickle of tables asks for {full}, which can run code; refused")
        return ALLOWED[full]


def read(file: Any) -> Any:
    """Containers of arrays and tables from an open binary file; tables are `Inert`, see `columns`.

    Raises:
        UnpicklingError: the pickle asks for anything but arrays and tables.
    """
    return Reader(file).load()


def columns(table: Any) -> dict[str, np.ndarray]:
    """Name → column `[m]` of a pickled data frame; categories are written out.

    Raises:
        ValueError: a layout that is not known.
    """
    try:
        manager = table.state["_mgr"] if "_mgr" in table.state else table.state["_data"]
        if manager.state is None:  # pandas 2
            blocks, axes = manager.args
            blocks = [block.args[:2] for block in blocks]
        else:
            (layout,) = [part for part in manager.state if isinstance(part, dict)]
            (layout,) = layout.values()
            axes, blocks = layout["axes"], [(block["values"], block["mgr_locs"]) for block in layout["blocks"]]
        names, found = _index(axes[0]), {}
        for values, places in blocks:
            rows = [_categorical(values)] if isinstance(values, Inert) else values
            numbers = range(*places.indices(len(names))) if isinstance(places, slice) else places
            found |= {str(names[place]): row for place, row in zip(numbers, rows, strict=True)}
        return found
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"got a pickle of another layout ({error!r}), expected a data frame of pandas 1 or 2") from error


def _index(index: Inert) -> np.ndarray:
    data = index.args[1]["data"]
    return data.state["_data"] if isinstance(data, Inert) else data


def _categorical(values: Inert) -> np.ndarray:
    (codes,) = (part for part in values.state if isinstance(part, np.ndarray))
    (dtype,) = (part for part in values.state if isinstance(part, Inert))
    return _index(dtype.state["categories"])[codes]
