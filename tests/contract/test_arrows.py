"""The package keeps its shape: who may import whom, what is public has words, and files stay short enough to read."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest

import thalweg

ROOT = Path(thalweg.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
CONCEPTS = (
    "problem",
    "network",
    "message",
    "algorithm",
    "cohort",
    "fleet",
    "engine",
    "observe",
    "data",
    "models",
    "coupling",
    "adversary",
    "privacy",
)

EVERYTHING = {
    *("engine", "problem", "network", "message", "algorithm", "observe"),
    *("cohort", "fleet", "apps", "cli", "experiment"),
}

# concept → what it must never import (DESIGN §3)
FORBIDDEN = {
    "problem": {"engine", "network", "algorithm", "message", "observe", "cohort", "fleet", "apps", "cli", "experiment"},
    "coupling": EVERYTHING,
    "network": {"engine", "problem", "algorithm", "message", "observe", "cohort", "fleet", "apps", "cli", "experiment"},
    "message": {"engine", "problem", "network", "algorithm", "observe", "cohort", "fleet", "apps", "cli", "experiment"},
    "algorithm": {"engine", "problem", "network", "observe", "fleet", "apps", "cli", "experiment"},
    "privacy": EVERYTHING,
    "adversary": EVERYTHING,
    "models": {"engine", "network", "message", "observe", "cohort", "fleet", "apps", "cli", "experiment"},
    "cohort": {"engine", "problem", "network", "message", "algorithm", "observe", "fleet", "apps", "cli", "experiment"},
    "fleet": {"engine", "problem", "network", "message", "algorithm", "observe", "cohort", "apps", "cli", "experiment"},
    "observe": {"engine", "problem", "network", "message", "algorithm", "cohort", "fleet", "apps", "cli", "experiment"},
    "engine": {"apps", "cli", "experiment"},
    "data": {"engine", "problem", "network", "message", "algorithm", "observe", "cohort", "fleet", "apps", "cli", "experiment"},
}

# What runs as processes of its own is above everything but the command line.
FORBIDDEN = {concept: names | {"deploy"} for concept, names in FORBIDDEN.items()} | {
    "experiment": {"deploy", "apps", "cli"},
    "deploy": {"apps", "cli"},
}


def imports(path):
    """(line, absolute name) of everything that a file imports, wherever in it; type-checking blocks included."""
    package = ("thalweg", *path.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            yield node.lineno, module
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


@pytest.mark.parametrize("concept", FORBIDDEN)
def test_import_arrows(concept):
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in FILES
        if path.is_relative_to(ROOT / concept)
        for line, name in imports(path)
        if name.startswith("thalweg.") and name.split(".")[1] in FORBIDDEN[concept]
    ]
    assert not wrong


def test_concepts_import_no_names_of_the_root():
    """`from thalweg import …` would load everything, arrows or not; sub-packages and the version apart."""
    allowed = {*CONCEPTS, "_version", "_extras", "_colours", "_trees", "experiment", "apps", "cli", "_api"}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in FILES
        if path.relative_to(ROOT).parts[0] in CONCEPTS
        for line, name in imports(path)
        if name.startswith("thalweg.") and name.split(".")[1] not in allowed
    ]
    assert not wrong


@pytest.mark.parametrize("place", ["apps"])
def test_apps_use_the_public_root_only(place):
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in FILES
        if path.is_relative_to(ROOT / place)
        for line, name in imports(path)
        if name.startswith("thalweg.")
        and name.split(".")[1] in CONCEPTS
        and len(name.split(".")) > 2
        and any(part.startswith("_") for part in name.split(".")[1:])
    ]
    assert not wrong


def test_arrows_are_seen():
    """The reader finds imports in functions and resolves relative ones."""
    found = {name for _, name in imports(ROOT / "engine" / "solve.py")}
    assert {"thalweg.problem", "thalweg.engine.driver", "thalweg.engine.stop.Stop"} <= found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_short_and_say_what_they_are(path):
    text = path.read_text()
    assert len(text.splitlines()) < 400
    assert ast.get_docstring(ast.parse(text)), "the module has no docstring"


def public():
    """(qualified name, object) of everything that a sub-package exports, with the public methods of its classes."""
    for concept in CONCEPTS:
        package = importlib.import_module(f"thalweg.{concept}")
        for name in package.__all__:
            value = getattr(package, name)
            if inspect.isclass(value) or callable(value):
                yield f"{concept}.{name}", value
            if inspect.isclass(value):
                for method, member in vars(value).items():
                    if not method.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                        yield f"{concept}.{name}.{method}", getattr(value, method) if inspect.isfunction(member) else member


@pytest.mark.parametrize(("name", "value"), [pytest.param(*pair, id=pair[0]) for pair in public()])
def test_public_names_have_words(name, value):
    if name.endswith(("PyTree", "Schedule")):
        return  # a type alias
    text = inspect.getdoc(value)
    assert text, f"{name} has no docstring"
    assert not text.startswith(("Alias for", "str(object"))


@pytest.mark.parametrize("family", ["algorithms", "asynchronous", "server"])
def test_the_root_exports_every_algorithm(family):
    exported = getattr(thalweg, family)
    for name in exported.__all__:
        assert getattr(thalweg, name) is getattr(exported, name)
