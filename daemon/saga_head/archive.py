"""What is in a journal folder, for whoever reads it: snapshots, journals, and which of them follow each other."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from saga_core import snapshot
from saga_core.book import Book
from saga_core.costs import CostTable
from saga_core.errors import ClusterError
from saga_core.events import Fact

HEADER: Final = struct.Struct("<II")
"""Of a record: length, crc32."""
MAGIC: Final = b"saga-journal 1\n"
KEEP: Final = 4
"""Old journals kept beside the current one."""

_decoder: msgspec.msgpack.Decoder[tuple[float, Fact]] = msgspec.msgpack.Decoder(tuple[float, Fact])


def journal_path(folder: Path, number: int) -> Path:
    return folder / f"journal-{number:08d}.log"


def snapshot_path(folder: Path, number: int) -> Path:
    """Of the book as it was when the journal of that number began."""
    return folder / f"snapshot-{number:08d}.msgpack"


def chain(folder: Path, below: int | None = None) -> tuple[int, list[int]]:
    """Number of the newest snapshot (0: none), and of the journals from it on; of those `below` a number, if given.

    Raises `ClusterError` where a journal is missing among them.
    """
    base = max((n for n in _numbers(folder, "snapshot-*.msgpack") if below is None or n < below), default=0)
    found = [n for n in _numbers(folder, "journal-*.log") if n >= base and (below is None or n < below)]
    for expected, number in enumerate(found, start=base):
        if number != expected:
            raise ClusterError(f"{journal_path(folder, expected)} is missing, and newer journals follow")
    return base, found


def book_at(folder: Path, base: int, profile: str, costs: CostTable | None = None) -> Book:
    """The book in snapshot `base`; 0: an empty one."""
    if not base:
        return Book(profile, costs)
    path = snapshot_path(folder, base)
    return snapshot.decode(path.read_bytes(), str(path), costs)


def prune(folder: Path) -> None:
    """Keep the two newest snapshots, and of the journals those from the older of them on and the latest few.

    A recovery that began before the newest snapshot was there reads on undisturbed.
    """
    snapshots, journals = _numbers(folder, "snapshot-*.msgpack"), _numbers(folder, "journal-*.log")
    for old in snapshots[:-2]:
        snapshot_path(folder, old).unlink(missing_ok=True)
    for old in [n for n in journals[: -1 - KEEP] if n < snapshots[-2:][0]]:
        journal_path(folder, old).unlink(missing_ok=True)


class Torn(Exception):  # noqa: N818 - a place in a file
    """A record that is not whole, at byte `at`."""

    def __init__(self, at: int) -> None:
        self.at = at
        super().__init__(at)


def read(path: Path) -> Iterator[tuple[int, float, Fact]]:
    """Each record of a journal with the place where it ends. Raises `Torn` where one is not whole."""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise Torn(0)
        place = len(MAGIC)
        while header := file.read(HEADER.size):
            if len(header) < HEADER.size:
                raise Torn(place)
            length, crc = HEADER.unpack(header)
            data = file.read(length)
            if len(data) < length or zlib.crc32(data) != crc:
                raise Torn(place)
            try:
                at, fact = _decoder.decode(data)
            except msgspec.DecodeError:
                raise Torn(place) from None
            place += HEADER.size + length
            yield place, at, fact


def _numbers(folder: Path, pattern: str) -> list[int]:
    names = [path.stem.rpartition("-")[2] for path in folder.glob(pattern)]
    return sorted(int(name) for name in names if name.isdigit())
