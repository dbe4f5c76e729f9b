"""The documentation does what it says: its code runs, its outputs agree, its links resolve, and nothing public is missing."""

import dataclasses
import html.parser
import importlib.util
import inspect
import os
import re
import subprocess
import sys
import tomllib
import types
import typing
from pathlib import Path

import jax
import pytest
import typer

import pages
import thalweg as tw
from thalweg.cli import app as cli
from thalweg.deploy.policy import Policy
from thalweg.experiment.experiment import RunTable

ROOT = pages.ROOT
LINK = re.compile(
    r"(?<!\\)!?\[[^\]\[]*(?:\[[^\]]*\][^\]\[]*)*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)"  # [text](target "title"), ![…](…)
    r"|<(?:img|a|script|link)\b[^>]*?(?:src|href)=\"([^\"]+)\""
)
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
ids = lambda page: str(page.relative_to(ROOT))


@pytest.fixture
def newcomer(tmp_path, monkeypatch):
    """JAX as a reader finds it (float32, silent rank promotion), in an empty folder; restored afterwards."""
    names = ("jax_enable_x64", "jax_numpy_rank_promotion")
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_enable_x64", False)
    jax.config.update("jax_numpy_rank_promotion", "allow")
    monkeypatch.chdir(tmp_path)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


LONG = {
    "asynchronous", "compression", "data", "drift", "engines", "failures", "federated", "fleets", "how-to-extend", "mpc", "online",
    "prices", "privacy", "robustness", "secure", "stopping",
}  # fmt: skip


def has(page: Path, *marks: str | None) -> bool:
    return any(block.mark in marks for block in pages.blocks(page.read_text()))


def long(page: Path) -> tuple:
    """The mark of pages that take more than half a minute."""
    return (pytest.mark.slow,) if page.stem in LONG else ()


@pytest.mark.parametrize(
    ("page", "slow"),
    [
        *(pytest.param(p, False, marks=long(p)) for p in pages.PAGES if has(p, None, "warns", "raises")),
        *(pytest.param(p, True, marks=pytest.mark.slow) for p in pages.PAGES if has(p, "slow")),
    ],
    ids=lambda value: ids(value) if isinstance(value, Path) else "slow" if value else "fast",
)
def test_code_runs_and_prints_what_the_page_shows(page, slow, newcomer):
    for block, printed in pages.run(page, page.read_text(), slow):
        if block.output is not None and not pages.agree(block.output, printed):
            where = f"{page.relative_to(ROOT)}:{block.line}: output differs; python tests/pages.py {page.relative_to(ROOT)}"
            pytest.fail(f"{where}\n--- shown\n{block.output}--- printed\n{printed}", pytrace=False)


def test_the_comparison_of_outputs_can_fail():
    assert pages.agree("rounds 1,000 gap 1e-9", "rounds   1,050 gap 3e-12")
    assert pages.agree("time … done", "time 0.3 s, 12 done")
    assert not pages.agree("rounds 100", "rounds 200")
    assert not pages.agree("rounds 100", "steps 100")
    assert not pages.agree("gap 1e-3", "gap 1e-9")
    assert not pages.agree("rounds 100\ngap 1", "rounds 100")
    assert pages.agree("inf nan", "inf nan")
    assert not pages.agree("inf", "nan")


def fences(kind: str) -> list[str]:
    """The contents of all fences of this kind, in all pages."""
    found = (re.findall(rf"^```{kind}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL) for page in pages.PAGES)
    return [text for texts in found for text in texts]


def test_experiment_files_that_are_shown_are_accepted(tmp_path):
    shown = fences("toml")
    assert shown
    for text in shown:
        (tmp_path / "shown.toml").write_text(text)
        tw.experiment.load(tmp_path / "shown.toml")


def test_policies_that_are_shown_are_accepted(tmp_path):
    shown = fences('toml title="policy.toml"')
    assert shown
    for text in shown:
        (tmp_path / "policy.toml").write_text(text)
        Policy.load(tmp_path / "policy.toml")


def test_the_full_experiment_file_has_every_key_of_the_tables_that_are_fixed():
    full = tomllib.loads(next(text for text in fences("toml") if "deterministic" in text))
    assert set(full["run"]) == set(RunTable.model_fields)
    assert set(full["stop"]) == {field.name for field in dataclasses.fields(tw.Stop)} - {"diameter"}
    assert set(full["network"]["failures"]) == {field.name for field in dataclasses.fields(tw.network.Failures)}


def test_commands_that_are_shown_exist():
    commands = typer.main.get_command(cli.app)
    lines = [line.partition("#")[0].split() for text in fences("bash") for line in text.splitlines()]
    shown = [line[line.index("thalweg") + 1 :] for line in lines if "thalweg" in line]
    assert {words[0] for words in shown} == set(commands.commands)
    for name, *rest in shown:
        command = commands.commands[name]
        command = getattr(command, "commands", {"": command})[rest[0] if hasattr(command, "commands") else ""]
        options = {o for parameter in command.params for o in parameter.opts + parameter.secondary_opts}
        assert {word for word in rest if word.startswith("--")} <= options, f"thalweg {name} {' '.join(rest)}"


def public_names(module: types.ModuleType, path: str = "thalweg", seen: set[str] | None = None) -> dict[str, object]:
    """Dotted name → object, over `__all__` of the package and of its public subpackages."""
    seen = set() if seen is None else seen
    if module.__name__ in seen:
        return {}
    seen.add(module.__name__)
    found = {}
    for name in getattr(module, "__all__", [n for n in vars(module) if not n.startswith("_")]):
        value = getattr(module, name)
        if inspect.ismodule(value):
            if value.__name__.startswith("thalweg"):
                found |= {value.__name__: value} | public_names(value, f"{path}.{name}", seen)
        elif getattr(value, "__module__", "thalweg").startswith("thalweg"):
            found[f"{path}.{name}"] = value
    return found


PUBLIC = public_names(tw)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_has_a_docstring(name):
    value = PUBLIC[name]
    if not isinstance(value, (int, float, str, tuple, dict, frozenset)) and not type(value).__module__.startswith("typing"):
        assert inspect.getdoc(value), f"{name} has no docstring"
        if inspect.isclass(value):
            assert not vars(value)["__doc__"].startswith(f"{value.__name__}("), f"{name} has only a dataclass's docstring"


def hooks() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("documentation_hooks", ROOT / "docs/hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ALGORITHMS = (*tw.algorithms.__all__, *tw.asynchronous.__all__, *tw.server.__all__, *tw.price.__all__)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_index_says_what_every_algorithm_claims(name):
    section = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", hooks().algorithms_index(), re.MULTILINE | re.DOTALL)
    assert section, f"{name} has no section"
    algorithm = getattr(tw, name)
    algorithm = algorithm if inspect.isclass(algorithm) else typing.get_type_hints(algorithm)["return"]
    assert algorithm.claims.theorem in section[1]
    for kind in algorithm.exact_under:
        assert hooks().FAILURES[kind] in section[1]
    for rule in getattr(algorithm, "combine", {}).values():
        assert type(rule).__name__ in section[1]


def test_the_index_is_built_into_its_page():
    text = (ROOT / "docs/algorithms.md").read_text()
    assert hooks().MARKER in text
    assert hooks().fill(text).count("\n## ") >= len(ALGORITHMS)


@pytest.mark.parametrize("page", [*pages.PAGES, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"], ids=ids)
def test_links_resolve_and_nothing_comes_from_the_network(page):
    text = FENCE.sub("", page.read_text())
    for target in (a or b for a, b in LINK.findall(text)):
        assert not target.startswith(("http:", "https:", "//")), f"{page.name}: {target}"
        path, _, anchor = target.partition("#")
        found = page if not path else (page.parent / path).resolve()
        assert found.exists(), f"{page.name}: {target} does not exist"
        if anchor and found.suffix == ".md":
            assert anchor in anchors(found), f"{page.name}: {target} has no such heading"


def anchors(page: Path) -> set[str]:
    text = page.read_text()
    if page.name == "algorithms.md":
        text = hooks().fill(text)
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip()) for title in titles}


class Page(html.parser.HTMLParser):
    """What a page makes the browser load, and its anchors."""

    def __init__(self):
        super().__init__()
        self.found, self.anchors = [], set()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.anchors.add(attributes.get("id", ""))
        if tag in ("script", "img", "iframe", "source") and attributes.get("src"):
            self.found.append(attributes["src"])
        if tag == "link" and attributes.get("rel") != "canonical":
            self.found.append(attributes.get("href", ""))


@pytest.mark.slow
def test_the_site_builds_strictly_has_every_public_name_and_loads_nothing_from_the_network(tmp_path):
    pytest.importorskip("mkdocs")
    site, environment = tmp_path / "site", os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)]
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stdout + built.stderr
    written = list(site.rglob("*.html"))
    assert len(written) > 10
    anchors = set()
    for page in written:
        parser = Page()
        parser.feed(page.read_text())
        anchors |= parser.anchors
        for target in parser.found:
            assert not re.match(r"(https?:)?//", target), f"{page.name} loads {target}"
    listed = {a.rsplit(".", 1)[-1] for a in anchors if re.fullmatch(r"thalweg(\.[a-z_]+)*\.\w+", a)}
    indexed = {name for name in ALGORITHMS if name.lower() in anchors}
    said = {name for page in pages.PAGES for name in re.findall(r"\b[A-Z_]{3,}\b", page.read_text())}  # constants
    named = {name.rsplit(".", 1)[-1] for name, value in PUBLIC.items() if not inspect.ismodule(value)} - {"__version__"}
    assert not (missing := named - listed - indexed - said), f"in no section of docs/reference.md: {missing}"
