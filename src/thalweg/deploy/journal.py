"""A site's log: its state before every round, so that a site that was killed goes on from where it was.

Two files take turns, each with a checksum: whatever moment a process dies at, one of them is whole.

Bytes of a file: magic, CRC-32 of the rest, epoch, round, length of the notes, notes (JSON), arrays one after another.
"""

import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

from thalweg.message.payload import pack, unpack

_HEAD = struct.Struct("<4sIIIQ")
_MAGIC = b"TWJ1"


class Entry(NamedTuple):
    """What a log holds: `state` stands before round `round` of `epoch`; `notes` as they were written."""

    epoch: int
    round: int
    notes: dict[str, Any]
    state: Any


class Journal:
    """The log in a folder.

    Args:
        folder: made if it is not there.
        fsync: wait in every round until the disk has it: then it survives a power cut too, not only a killed process.
    """

    def __init__(self, folder: Path, fsync: bool = False):
        folder.mkdir(parents=True, exist_ok=True)
        self._paths, self._fsync, self._turn = [folder / "state.0", folder / "state.1"], fsync, 0
        self.failures = 0

    def write(self, epoch: int, k: int, notes: dict[str, Any], state: Any) -> None:
        """`state` before round k. A disk that is full costs the log of this round, and is counted in `failures`."""
        text = json.dumps(notes).encode()
        rest = struct.pack("<IIQ", epoch, k, len(text)) + text + pack(state)
        data = _MAGIC + struct.pack("<I", zlib.crc32(rest)) + rest
        self._turn = 1 - self._turn
        try:
            with self._paths[self._turn].open("wb", buffering=0) as file:
                if file.write(data) != len(data):
                    raise OSError("the disk took a part of the log only")
                if self._fsync:
                    os.fsync(file.fileno())
        except OSError:
            self.failures += 1
            self._turn = 1 - self._turn  # the other file is whole: try this one again next time

    def notes(self) -> dict[str, Any] | None:
        """What the newest whole entry notes; None where there is none."""
        found = self._newest()
        return None if found is None else found[2]

    def read(self, like: Any) -> Entry | None:
        """The newest whole entry, its state in the structure, shapes and dtypes of `like`; None where there is none.

        Raises:
            ValueError: the log is of a state of another size.
        """
        found = self._newest()
        if found is None:
            return None
        epoch, k, notes, payload = found
        try:
            return Entry(epoch, k, notes, unpack(payload, like))
        except ValueError as error:
            raise ValueError(f"the log in {self._paths[0].parent} is of another run: {error}; choose another folder") from None

    def _newest(self) -> tuple[int, int, dict[str, Any], bytes] | None:
        whole = [entry for path in self._paths if (entry := _parsed(path)) is not None]
        return max(whole, key=lambda entry: entry[:2]) if whole else None


def _parsed(path: Path) -> tuple[int, int, dict[str, Any], bytes] | None:
    """(epoch, round, notes, state's bytes) of a file that is whole."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if len(data) < _HEAD.size:
        return None
    magic, crc, epoch, k, length = _HEAD.unpack_from(data)
    if magic != _MAGIC or zlib.crc32(data[8:]) != crc:
        return None
    notes = data[_HEAD.size : _HEAD.size + length]
    return epoch, k, json.loads(notes), data[_HEAD.size + length :]
