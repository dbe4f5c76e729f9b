"""The executable part of the documentation: Python blocks of a page, and the output printed beneath them.

A block fenced as `python` is run. Blocks of one page share a namespace. If a `text` block follows it (nothing but blank
lines between), that is its output: words must agree; numbers to `TOLERANCE`, or both be at rounding level; `…`
stands for anything within a line. Three comments change what is expected of the block beneath them:

    <!-- warns -->       it warns, and the warning is part of its output (elsewhere a warning is an error)
    <!-- raises -->      it raises, and the error is part of its output
    <!-- slow -->        it takes more than a few seconds, and runs with the slow tests

`python tests/pages.py` runs every page and writes outputs that have changed into it; name pages to run only those.
"""

import contextlib
import dataclasses
import io
import math
import re
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])

# Outputs may differ this much between machines; below ROUNDING both are zero for the reader.
TOLERANCE, ROUNDING = 0.15, 1e-7

_BLOCK = re.compile(
    r"(?:<!-- (?P<mark>warns|raises|slow)\b[^>]*-->\n)?^```python\n(?P<code>.*?)^```$(?:\n+^```text\n(?P<output>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?\b(?:nan|inf)\b")


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of Python at `line` of its page; `output` is the text shown beneath, at `span` of the page, or None."""

    line: int
    code: str
    mark: str | None
    output: str | None
    span: tuple[int, int]


def blocks(text: str) -> Iterator[Block]:
    """The Python blocks of a page, in order."""
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("code")) + 1
        yield Block(line, match["code"], match["mark"], match["output"], match.span("output"))


def run(page: Path, text: str, slow: bool = True) -> Iterator[tuple[Block, str]]:
    """(block, what it printed), block after block, slow ones if asked; errors carry the line of the page."""
    module = types.ModuleType(re.sub(r"\W", "_", page.stem))
    sys.modules[module.__name__] = module
    try:
        for block in blocks(text):
            if slow or block.mark != "slow":
                yield block, _execute(block, page, module)
    finally:
        del sys.modules[module.__name__]


def _execute(block: Block, page: Path, module: types.ModuleType) -> str:
    printed = io.StringIO()
    program = compile("\n" * (block.line - 1) + block.code, str(page), "exec")
    with contextlib.redirect_stdout(printed), warnings.catch_warnings(record=block.mark == "warns") as caught:
        warnings.simplefilter("always" if block.mark == "warns" else "error")
        try:
            exec(program, module.__dict__)
        except Exception as error:
            if block.mark != "raises":
                raise
            print(f"{type(error).__name__}: {error}")
        else:
            if block.mark == "raises":
                raise AssertionError(f"{page}:{block.line}: the block was to raise and did not")
    for warning in caught or ():
        print(f"{warning.category.__name__}: {warning.message}", file=printed)
    if block.mark == "warns" and not caught:
        raise AssertionError(f"{page}:{block.line}: the block was to warn and did not")
    return printed.getvalue()


def agree(shown: str, printed: str) -> bool:
    """Whether `printed` is what the page shows, up to the tolerances of this module."""
    shown_lines, printed_lines = _lines(shown), _lines(printed)
    return len(shown_lines) == len(printed_lines) and all(map(_line_agrees, shown_lines, printed_lines))


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip("\n").splitlines()]


def _line_agrees(shown: str, printed: str) -> bool:
    words = lambda line: " ".join(_NUMBER.sub("0", line).split())
    if "…" in shown:
        pattern = ".*".join(re.escape(words(part)) for part in shown.split("…"))
        return re.fullmatch(pattern.replace(r"\ ", " *"), words(printed)) is not None
    pairs = zip(_NUMBER.findall(shown), _NUMBER.findall(printed), strict=False)
    return words(shown) == words(printed) and all(_close(a, b) for a, b in pairs)


def _close(a: str, b: str) -> bool:
    x, y = (float(number.replace(",", "")) for number in (a, b))
    if not (math.isfinite(x) and math.isfinite(y)):
        return str(x) == str(y)
    return abs(x - y) <= max(ROUNDING, TOLERANCE * abs(x))


def refresh(page: Path) -> bool:
    """Write outputs that no longer agree into `page`; whether there were any."""
    text = page.read_text()
    changes = [
        (block.span, printed)
        for block, printed in run(page, text)
        if block.output is not None and not agree(block.output, printed)
    ]
    for (start, end), printed in reversed(changes):
        text = text[:start] + printed.rstrip("\n") + "\n" + text[end:]
    if changes:
        page.write_text(text)
    return bool(changes)


if __name__ == "__main__":
    for page in map(Path, sys.argv[1:] or map(str, PAGES)):
        print(page, "changed" if refresh(page.resolve()) else "unchanged", flush=True)
