"""Results on disk, one JSON line per cell: what is there need not run again.

A line that a crash cut short, or that somebody damaged, is dropped and its cell runs again. Lines of other code, other
versions or other cells stay where they are and are not used.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec

from saga_core.errors import UserError
from saga_sim.evaluation.cells import CellResult

FILE = "cells.jsonl"


class _Named(msgspec.Struct):
    key: str


class Store:
    """The results in one file, found by key. `dropped`: damaged lines that were taken out."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._places: dict[str, int] = {}
        self.dropped = 0
        lines = self._sound_lines()
        if self.dropped:
            self._rewrite(lines)

    def __len__(self) -> int:
        return len(self._places)

    def _sound_lines(self) -> list[bytes]:
        self._stream.seek(0)
        sound, place = [], 0
        for line in self._stream:
            key = _key(line)
            if key is None:
                self.dropped += 1
                continue
            self._places[key] = place
            place += len(line)
            sound.append(line)
        return sound

    def _rewrite(self, lines: list[bytes]) -> None:
        self._stream.truncate(0)
        self._stream.writelines(lines)
        self._sync()

    def get(self, key: str) -> CellResult | None:
        """The result of that name; None: there is none, or none that this version can read."""
        place = self._places.get(key)
        if place is None:
            return None
        self._stream.seek(place)
        try:
            return msgspec.json.decode(self._stream.readline(), type=CellResult)
        except msgspec.DecodeError:
            return None

    def add(self, result: CellResult) -> None:
        """Keep it on disk before anything else is done with it."""
        self._places[result.key] = self._stream.seek(0, os.SEEK_END)
        self._stream.write(msgspec.json.encode(result) + b"\n")
        self._sync()

    def _sync(self) -> None:
        self._stream.flush()
        os.fsync(self._stream.fileno())


def _key(line: bytes) -> str | None:
    """The name on a sound line. A line without an end was cut short, whatever it says."""
    try:
        return msgspec.json.decode(line, type=_Named).key if line.endswith(b"\n") else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


@contextmanager
def opened(folder: Path) -> Iterator[Store]:
    """The folder's store, held by this process alone. Raises UserError if another one writes there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / FILE).open("a+b")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{folder}: another evaluation is writing its results there") from None
        yield Store(stream)
