"""What Thalweg exports and the first line of each docstring, read from its source: importing it would import JAX first."""

import ast
from collections.abc import Callable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
Definition = ast.FunctionDef | ast.ClassDef


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _definitions(file: Path) -> dict[str, Definition]:
    return {node.name: node for node in _tree(file).body if isinstance(node, Definition)}


def _imports(file: Path) -> dict[str, tuple[Path, str]]:
    """Local name → (file, name there) of what `file` imports from other files of Thalweg."""
    found = {}
    for node in ast.walk(_tree(file)):
        if not isinstance(node, ast.ImportFrom):
            continue
        parts = (node.module or "").split(".") if node.module else []
        if node.level:
            folder = file.parents[node.level - 1]
        elif parts[:1] == ["thalweg"]:
            folder, parts = ROOT, parts[1:]
        else:
            continue
        source = folder.joinpath(*parts)
        source = source / "__init__.py" if source.is_dir() else source.with_suffix(".py")
        found |= {alias.asname or alias.name: (source, alias.name) for alias in node.names}
    return found


def _resolve(file: Path, name: str) -> Definition | None:
    """The function or class that `name` means in `file`."""
    if name in (here := _definitions(file)):
        return here[name]
    source, original = _imports(file).get(name, (None, name))
    if source is None or not source.is_file() or (source, original) == (file, name):  # the last: a module
        return None
    return _resolve(source, original)


def _assigned(file: Path, name: str) -> ast.expr:
    """What is assigned to the module's variable `name`."""
    for node in _tree(file).body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return node.value
    raise KeyError(f"{file} assigns nothing to {name}")


def _first_line(node: Definition) -> str:
    return (ast.get_docstring(node) or "").partition("\n")[0]


def _exported(package: str, keep: Callable[[Definition], bool]) -> dict[str, str]:
    """Name → first line, of what the package's `__all__` lists and `keep` accepts."""
    file = ROOT / package / "__init__.py"
    found = {name: _resolve(file, name) for name in sorted(ast.literal_eval(_assigned(file, "__all__")))}
    return {name: _first_line(node) for name, node in found.items() if node is not None and keep(node)}


def _table(module: str, name: str) -> dict[str, str]:
    """Key → first line of the class that a module's dictionary `name` holds under it."""
    table = _assigned(ROOT / module, name)
    pairs = zip(table.keys, table.values, strict=True)
    return {key.value: _first_line(_resolve(ROOT / module, value.id)) for key, value in pairs}


def _functions(module: str) -> dict[str, str]:
    found = _definitions(ROOT / module).items()
    return {name: _first_line(node) for name, node in found if isinstance(node, ast.FunctionDef) and name[0] != "_"}


def _returns_data(node: Definition) -> bool:
    return isinstance(node, ast.FunctionDef) and node.returns is not None and ast.unparse(node.returns) == "FederatedData"


def _derives(file: Path, name: str, kind: str) -> bool:
    """Whether the class that `name` means in `file` is, or inherits from, `kind`."""
    name = name.partition("[")[0]
    if name == kind:
        return True
    if (node := _definitions(file).get(name)) is not None:
        return isinstance(node, ast.ClassDef) and any(_derives(file, ast.unparse(base), kind) for base in node.bases)
    source, original = _imports(file).get(name, (None, name))
    return source is not None and source.is_file() and _derives(source, original, kind)


def _makes(package: str, kind: str) -> dict[str, str]:
    """What makes a `kind`: the package's functions that return a subclass of it, or else its subclasses."""
    file = ROOT / package / "__init__.py"
    returns_one = lambda node: (
        isinstance(node, ast.FunctionDef) and node.returns and _derives(file, ast.unparse(node.returns), kind)
    )
    is_one = lambda node: isinstance(node, ast.ClassDef) and node.name != kind and _derives(file, node.name, kind)
    return _exported(package, returns_one) or _exported(package, is_one)


def _stages() -> dict[str, str]:
    """Stages of a pipeline; a chain of them is written as a list."""
    return {name: line for name, line in _makes("message", "Stage").items() if name != "chain"}


SECTIONS: dict[str, Callable[[], dict[str, str]]] = {
    "problems": lambda: _table("experiment/problems.py", "KINDS"),
    "networks": lambda: _exported("network", lambda node: isinstance(node, ast.FunctionDef)),
    "algorithms": lambda: _exported("algorithm/peer", lambda node: isinstance(node, ast.ClassDef)),
    "asynchronous": lambda: _exported("algorithm/asynchronous", lambda node: isinstance(node, ast.ClassDef)),
    "servers": lambda: _exported("algorithm/server", lambda node: True),
    "prices": lambda: _exported("algorithm/price", lambda node: isinstance(node, ast.ClassDef)),
    "cohorts": lambda: _makes("cohort", "Cohort"),
    "solvers": lambda: _makes("algorithm/local", "LocalSolver"),
    "aggregators": lambda: _makes("message", "Aggregator"),
    "mixers": lambda: _makes("message", "Mixer"),
    "adversaries": lambda: _makes("adversary", "Adversary"),
    "stages": _stages,
    "losses": lambda: _functions("problem/losses.py"),
    "data": lambda: _exported("data", _returns_data),
    "engines": lambda: _table("engine/setup.py", "ENGINES"),
}
"""Section → (name → first line of its docstring)."""
