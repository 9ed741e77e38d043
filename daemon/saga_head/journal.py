"""The journal: every fact, on local disk, in order.

Rules of this file
  1. A record is `length, crc32, msgpack [seconds, fact]`. A torn last record is cut off at
     recovery; damage in the middle is an error that names the file and the place.
  2. `append` only fills a buffer. `flush` writes it (group commit), `sync` also waits for the
     disk: only the acceptance of a workflow waits.
  3. When a journal is long enough, a snapshot takes its place and the next one begins. The
     last few old journals stay, for `saga trace export` and for looking back.
  4. A head that takes over from one that may live begins a new journal behind a snapshot: what the old one still
     writes, stopped in the middle of it, is in a file that nobody goes on with (`saga_head.claim`).
  5. A full disk stops nothing that runs: facts stay in the buffer, within a bound, and new
     submissions are refused until a write succeeds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from saga_core import snapshot
from saga_core.book import Book
from saga_core.costs import CostTable
from saga_core.errors import ClusterError
from saga_core.events import Fact
from saga_shell.files import write_private

_HEADER: Final = struct.Struct("<II")
_MAGIC: Final = b"saga-journal 1\n"
KEEP: Final = 4
"""Old journals kept beside the current one."""
MAX_BUFFER_BYTES: Final = 64 * 1024 * 1024
"""Facts held in memory while the disk refuses them; beyond it the oldest behaviour is to stop."""

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[tuple[float, Fact]] = msgspec.msgpack.Decoder(tuple[float, Fact])


class Journal:
    """The one writer of a cluster's journal folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.number = 0
        self.size = 0
        self.problem = ""
        """Why the last write failed; empty when all is well."""
        self.last_at = 0.0
        self.may_write: Callable[[], None] = lambda: None
        """Called before anything is written; it does not return where this head may not (any more)."""
        self._fd = -1
        self._buffer = bytearray()

    # -- recovery ------------------------------------------------------------------------

    def recover(self, profile: str, costs: CostTable | None = None) -> Book:
        """The book as of the last record, and this journal open for more.

        `costs`: by which work is weighed. Raises `ClusterError` for a damaged folder or one that cannot be written.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            snapshots = _numbers(self.folder, "snapshot-*.msgpack")
            journals = _numbers(self.folder, "journal-*.log")
            base = max(snapshots, default=0)
            path = self._snapshot(base)
            book = snapshot.decode(path.read_bytes(), str(path), costs) if base else Book(profile, costs)
            for number in [n for n in journals if n >= base]:
                self._replay(number, book, last=number == max(journals))
            self._open(max([base, *journals]))
        except OSError as error:
            raise ClusterError(f"journal in {self.folder}: {error.strerror or error}") from error
        return book

    def _replay(self, number: int, book: Book, *, last: bool) -> None:
        path = self._journal(number)
        good = len(_MAGIC)
        try:
            for end, at, fact in read(path):
                book.apply(fact, at)
                self.last_at, good = max(self.last_at, at), end
        except Torn as torn:
            if not last:
                raise ClusterError(f"{path}: damaged at byte {torn.at}, and newer journals follow") from None
            os.truncate(path, good if torn.at >= len(_MAGIC) else 0)

    def _open(self, number: int, more: int = 0) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | more
        opened = os.open(self._journal(number), flags, 0o600)
        if self._fd >= 0:
            os.close(self._fd)
        self.number, self._fd = number, opened
        self.size = os.fstat(self._fd).st_size
        if self.size == 0:
            self._buffer[:0] = _MAGIC

    def _journal(self, number: int) -> Path:
        return self.folder / f"journal-{number:08d}.log"

    def _snapshot(self, number: int) -> Path:
        return self.folder / f"snapshot-{number:08d}.msgpack"

    # -- writing -------------------------------------------------------------------------

    def append(self, fact: Fact, at: float) -> None:
        """Keep `fact`; it reaches the disk with the next `flush`."""
        data = _encoder.encode((at, fact))
        self._buffer += _HEADER.pack(len(data), zlib.crc32(data))
        self._buffer += data

    def flush(self) -> None:
        """Write what was appended. A failure is kept in `problem` and tried again next time."""
        if not self._buffer:
            return
        self.may_write()
        try:
            written = os.write(self._fd, self._buffer)
        except OSError as error:
            self.problem = f"{self._journal(self.number)}: {error.strerror or error}"
            if len(self._buffer) > MAX_BUFFER_BYTES:
                raise ClusterError(f"{self.problem}; {len(self._buffer)} bytes are waiting") from error
            return
        self.size += written
        del self._buffer[:written]
        self.problem = "" if not self._buffer else f"{self._journal(self.number)}: disk full"

    async def sync(self) -> None:
        """Wait until everything appended so far is on the disk. Raises `OSError` when it is not."""
        self.flush()
        if self._buffer:
            raise OSError(self.problem)
        await asyncio.get_running_loop().run_in_executor(None, os.fsync, self._fd)

    def rotate(self, book: Book) -> None:
        """Put a snapshot of `book` in the place of the journal so far, and begin the next one.

        Raises `OSError`; then the old journal simply goes on. Neither file may be there: another head would have made
        it, and this one has been paused.
        """
        self.flush()
        if self._buffer:
            raise OSError(self.problem)
        number = self.number + 1
        self.may_write()
        write_private(self._snapshot(number), snapshot.encode(book), new=True)
        self._open(number, os.O_EXCL)
        self.flush()
        for old in _numbers(self.folder, "journal-*.log")[: -1 - KEEP]:
            self._journal(old).unlink(missing_ok=True)
        for old in _numbers(self.folder, "snapshot-*.msgpack")[:-2]:
            self._snapshot(old).unlink(missing_ok=True)

    def close(self) -> None:
        """Write what is left and close; nothing is lost but what the disk refused."""
        if self._fd >= 0:
            self.flush()
            with contextlib.suppress(OSError):
                os.fsync(self._fd)
            os.close(self._fd)
            self._fd = -1


class Torn(Exception):  # noqa: N818 - a place in a file
    """A record that is not whole, at byte `at`."""

    def __init__(self, at: int) -> None:
        self.at = at
        super().__init__(at)


def read(path: Path) -> Iterator[tuple[int, float, Fact]]:
    """Each record of a journal with the place where it ends. Raises `Torn` where one is not whole."""
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise Torn(0)
        place = len(_MAGIC)
        while header := file.read(_HEADER.size):
            if len(header) < _HEADER.size:
                raise Torn(place)
            length, crc = _HEADER.unpack(header)
            data = file.read(length)
            if len(data) < length or zlib.crc32(data) != crc:
                raise Torn(place)
            try:
                at, fact = _decoder.decode(data)
            except msgspec.DecodeError:
                raise Torn(place) from None
            place += _HEADER.size + length
            yield place, at, fact


def _numbers(folder: Path, pattern: str) -> list[int]:
    names = [path.stem.rpartition("-")[2] for path in folder.glob(pattern)]
    return sorted(int(name) for name in names if name.isdigit())
