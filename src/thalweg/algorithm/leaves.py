"""Some leaves of a model are shared, the others stay with the client: which, and how a model is taken apart.

A `LeafFilter` says of every leaf whether it is chosen; `split` and `join` take a model apart by it and put it together. A part has
None where the other has an array, so that a message which is a part holds nothing else.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np

join = eqx.combine

NORMALISATION = ("batchnorm", "batch_norm", "groupnorm", "group_norm", "layernorm", "layer_norm", "instancenorm", "instance_norm",
                 "rmsnorm", "rms_norm", "norm", "bn")  # fmt: skip
_MODULES = tuple(getattr(eqx.nn, name) for name in ("BatchNorm", "GroupNorm", "LayerNorm", "RMSNorm") if hasattr(eqx.nn, name))


def split(x: Any, mask: Any) -> tuple[Any, Any]:
    """(the leaves where `mask` is true, the others)."""
    return eqx.partition(x, mask)


def paths(x: Any) -> list[str]:
    """Where every leaf is, as "layers/0/weight"."""
    return [_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(x)]


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


class LeafFilter:
    """A choice of leaves, hashable and comparable, so that an algorithm that holds it compiles once.

    Args:
        which: a function `(path, leaf) -> bool` with paths like "layers/0/weight"; or a pytree of bools like the model, or like
            its upper levels: `{"body": True, "head": False}`.
        name: what messages call it: "FedPer(shared=…)".
    """

    def __init__(self, which: Any, name: str):
        self.name, self.predicate, self.flags = name, None, None
        if isinstance(which, LeafFilter):
            self.predicate, self.flags = which.predicate, which.flags
        elif callable(which) and not jax.tree.leaves(which, is_leaf=callable)[1:] and not _all_bools(which):
            self.predicate = which
        elif _all_bools(which):
            leaves, structure = jax.tree.flatten(which)
            self.flags = (structure, tuple(bool(leaf) for leaf in leaves))
        else:
            raise TypeError(
                f"{name}: got {type(which).__name__}, expected a function (path, leaf) -> bool, or a pytree of bools such as "
                "{'body': True, 'head': False}"
            )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LeafFilter) and (self.predicate, self.flags) == (other.predicate, other.flags)

    def __hash__(self) -> int:
        return hash((self.predicate, self.flags))

    def __repr__(self) -> str:
        if self.predicate is not None:
            return getattr(self.predicate, "__qualname__", type(self.predicate).__name__)
        return repr(jax.tree.unflatten(*self.flags))

    def mask(self, x: Any) -> Any:
        """A pytree of bools like x.

        Raises:
            ValueError: every leaf is chosen, or none, or the bools do not fit x.
        """
        if self.predicate is not None:
            found = jax.tree_util.tree_map_with_path(lambda path, leaf: bool(self.predicate(_name(path), leaf)), x)
        else:
            flags = jax.tree.unflatten(*self.flags)
            try:
                found = jax.tree.map(lambda flag, part: jax.tree.map(lambda _: flag, part), flags, x)
            except ValueError as error:
                raise ValueError(
                    f"{self.name}: got bools of the structure {self.flags[0]}, expected that of the model, or of its upper "
                    f"levels: its leaves are {_listing(paths(x))}"
                ) from error
        return divided(found, x, self.name)


def divided(mask: Any, x: Any, name: str) -> Any:
    """`mask`, found to choose some leaves of x and not all.

    Raises:
        ValueError: it does not.
    """
    chosen = jax.tree.leaves(mask)
    if all(chosen) or not any(chosen):
        what = "matches every leaf, so that nothing stays apart" if all(chosen) else "matches no leaf"
        raise ValueError(f"{name} {what}; the model's leaves are {_listing(paths(x))}; use tw.FedAvg() to share all of them")
    return mask


def normalisation_leaves(x: Any) -> Any:
    """A pytree of bools like x: true at the parameters of normalisation layers.

    Those are the parts of Equinox's normalisation modules, and leaves below a name such as "LayerNorm_0", "bn1" or "norm" (Flax
    names them so).
    """
    inside = lambda node: isinstance(node, _MODULES)

    def below(path, node):
        here = inside(node) or any(_normalises(part) for part in _name(path).split("/"))
        if not inside(node):
            return here
        return jax.tree.map(lambda _: True, node)

    return jax.tree_util.tree_map_with_path(below, x, is_leaf=inside)


def _normalises(part: str) -> bool:
    plain = part.lower().rstrip("0123456789").rstrip("_")
    return plain in NORMALISATION or any(plain.endswith(name) for name in NORMALISATION if len(name) > 2)


def _all_bools(tree: Any) -> bool:
    leaves = jax.tree.leaves(tree)
    return bool(leaves) and all(isinstance(leaf, bool | np.bool_) for leaf in leaves)


def _listing(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def filter_of(name: str) -> Callable[[Any], Any]:
    """Converter of a field that chooses leaves."""
    return lambda which: None if which is None else LeafFilter(which, name)
